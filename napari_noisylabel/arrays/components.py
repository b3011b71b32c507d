"""Connected components: with `cc3d` where it is installed, else with SciPy."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_noisylabel.errors import BadLabels, BadSetting

try:
    import cc3d
except ImportError:  # the extra `fast`; SciPy finds the same components, slower
    cc3d = None

RANK = {4: 1, 8: 2, 6: 1, 18: 2, 26: 3}
"""Neighbours that connect, and along how many axes at once a neighbour may differ."""


def label_components(array: np.ndarray, connectivity: int = 26) -> tuple[np.ndarray, int]:
    """Number the connected components of equal, non-zero values.

    Voxels of different values never belong together, so one call serves all classes of a map.

    Parameters
    ----------
    array : (*spatial) bool or integer, 2-D or 3-D; 0 is background.
    connectivity : 6, 18 or 26. In 2-D these mean 4, 8 and 8, which may be given as well.

    Returns
    -------
    components : (*spatial) uint32, 0 = background, else 1..n in C order of their first voxels.
    n : the number of components.

    Raises
    ------
    BadLabels : `array` holds no whole numbers, or has another number of axes.
    BadSetting : there is no such connectivity.

    Source: W. Silversmith, "cc3d: Connected components on multilabel 3D & 2D images", 2021.
    """
    _check(array, connectivity)
    rank = min(RANK[connectivity], array.ndim)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.uint32), 0
    return _with_scipy(array, rank) if cc3d is None else _with_cc3d(array, rank)


def _with_cc3d(array: np.ndarray, rank: int) -> tuple[np.ndarray, int]:
    connectivity = {2: (4, 8), 3: (6, 18, 26)}[array.ndim][rank - 1]
    contiguous = np.ascontiguousarray(array)  # cc3d counts in the order of memory ...
    if array.dtype == bool:
        contiguous = contiguous.view(np.uint8)  # ... and of bool images two rows at a time
    components, n = cc3d.connected_components(contiguous, connectivity=connectivity, return_N=True, out_dtype=np.uint32)
    return components.astype(np.uint32, copy=False), n  # uint16 where all is background


def _with_scipy(array: np.ndarray, rank: int) -> tuple[np.ndarray, int]:
    """Each value in its own bounding box, since SciPy knows foreground and background only."""
    structure = ndimage.generate_binary_structure(array.ndim, rank)
    components, n = np.zeros(array.shape, dtype=np.uint32), 0
    codes = _small_codes(array)
    for code, box in enumerate(ndimage.find_objects(codes), start=1):
        if box is None:
            continue
        found, n_found = ndimage.label(codes[box] == code, structure)
        components[box] += np.where(found > 0, found + n, 0).astype(np.uint32)
        n += n_found
    return _in_c_order(components, n), n


def _small_codes(array: np.ndarray) -> np.ndarray:
    """`array` in a type whose values can number a list; 0 stays 0, equal stays equal."""
    if array.dtype == bool or array.dtype in (np.uint8, np.uint16):
        return array.astype(np.uint16)
    values, codes = np.unique(array, return_inverse=True)
    return np.where(array == 0, 0, codes.reshape(array.shape) + 1)


def _in_c_order(components: np.ndarray, n: int) -> np.ndarray:
    """Number components by their first voxels, as cc3d does."""
    indices = np.flatnonzero(components)
    first = np.zeros(n + 1, dtype=np.int64)
    first[components.reshape(-1)[indices[::-1]]] = indices[::-1]  # of equals, the last written stays
    new = np.zeros(n + 1, dtype=np.uint32)
    new[np.argsort(first[1:]) + 1] = np.arange(1, n + 1)
    return new[components]


def _check(array: np.ndarray, connectivity: int) -> None:
    if array.dtype.kind not in "bui" or array.ndim not in (2, 3):
        raise BadLabels(
            f"components need a 2-D or 3-D array of whole numbers: got {array.dtype} of shape {array.shape}. "
            "Turn scores into classes first, and go channel by channel."
        )
    if connectivity not in RANK or (connectivity in (4, 8) and array.ndim == 3):
        raise BadSetting(
            f"connectivity must be 6, 18 or 26 (in 2-D also 4 or 8), got {connectivity} "
            f"for {array.ndim} axes. Choose one of them."
        )
