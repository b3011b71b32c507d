"""Pieces of a case that stand or fall together, and the mean of a map in each of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.records import IGNORE


def supervoxels(labels: np.ndarray, spacing: Sequence[float], side_mm: float) -> np.ndarray:
    """Cells of a grid of about `side_mm`, divided where the label changes; (*spatial) int64 numbers.

    labels (*spatial) with IGNORE, `spacing` in mm per voxel. Each piece has one label. Some numbers
    are not used.
    """
    code = np.zeros(labels.shape, np.int64)
    for axis, (n, step) in enumerate(zip(labels.shape, spacing, strict=True)):
        cell = np.arange(n) // max(1, round(side_mm / step))
        code = code * (int(cell[-1]) + 1) + cell.reshape([-1 if a == axis else 1 for a in range(labels.ndim)])
    values = np.flatnonzero(np.bincount(labels.reshape(-1)))  # few, so that numbers stay small
    rank = np.zeros(IGNORE + 1, np.int64)
    rank[values] = np.arange(len(values))
    return code * len(values) + rank[labels]


def bands(labels: np.ndarray, spacing: Sequence[float], band_mm: float, side_mm: float) -> np.ndarray:
    """Each object's inner band and core, the band outside, and cells of the background further away.

    Parameters
    ----------
    labels : (*spatial) with IGNORE. An object is a connected component of one class.
    spacing : mm per voxel.
    band_mm : how far from the boundary the bands reach, on either side, centre to centre.
    side_mm : of the cells of the far background (`supervoxels`).

    Returns
    -------
    (*spatial) int64 numbers of pieces, some of them not used. The outer bands of objects that touch are one piece.
    """
    foreground = (labels != 0) & (labels != IGNORE)
    objects = label_components(np.where(foreground, labels, 0))[0].astype(np.int64)
    inner = np.zeros(labels.shape, bool)
    for k in np.unique(labels[foreground]):
        own = labels == k
        inner |= own & (distance(own, spacing) <= band_mm)
    outer = (labels == 0) & (distance(~foreground, spacing) <= band_mm)
    around = label_components(outer)[0].astype(np.int64)
    far = supervoxels(labels, spacing, side_mm)
    kinds = [(foreground & ~inner, objects), (inner, objects), (outer, around), (~foreground & ~outer, far)]
    code = np.zeros(labels.shape, np.int64)
    for kind, (where, number) in enumerate(kinds):
        np.copyto(code, number * len(kinds) + kind, where=where)
    return code


def piece_means(values: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """The mean of `values` over each piece, at each of its voxels; all (*spatial), float32."""
    flat = pieces.reshape(-1)
    sizes = np.bincount(flat)
    means = np.bincount(flat, values.reshape(-1)) / np.maximum(sizes, 1)
    return means.astype(np.float32)[flat].reshape(values.shape)
