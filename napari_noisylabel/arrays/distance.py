"""Euclidean distances in mm: with `edt` where it is installed, else with SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from napari_noisylabel.errors import ShapeMismatch

try:
    import edt
except ImportError:  # the extra `fast`; SciPy gives the same distances, some 25 times slower
    edt = None


def distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance of every True voxel of `mask` to the nearest False one, centre to centre.

    Parameters
    ----------
    mask : (*spatial) bool, any number of axes up to three.
    spacing : mm per voxel, one value per axis of `mask`, in array order.

    Returns
    -------
    (*spatial) float32, in mm; 0 where `mask` is False. The border of the array is no boundary,
    so a mask without any False voxel gives +inf everywhere.

    Raises
    ------
    ShapeMismatch : `spacing` does not have one value per axis.

    Source: Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled Functions", 2012 (`edt`);
    Maurer et al., TPAMI 2003 (SciPy).
    """
    mask = np.ascontiguousarray(mask, dtype=bool)
    check_spacing(mask, spacing)
    if mask.all():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    if edt is None:
        return ndimage.distance_transform_edt(mask, sampling=tuple(spacing)).astype(np.float32)
    return edt.edt(mask, anisotropy=tuple(spacing), black_border=False)


def check_spacing(mask: np.ndarray, spacing: Sequence[float]) -> None:
    """Refuse a `spacing` that does not have one value per axis of `mask`, with `ShapeMismatch`."""
    if len(spacing) != mask.ndim:
        raise ShapeMismatch(
            f"spacing must have one value per axis: got {tuple(spacing)} for an array of shape {mask.shape}. "
            "Hand over the spacing in array order, (Z, Y, X) or (Y, X)."
        )
