"""Random pieces of masks and random objects: what noise models and phantoms are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.arrays.distance import distance


def equal_radius(size: float, ndim: int) -> float:
    """Radius of the disk (2-D) or ball (3-D) of this area or volume."""
    return float(np.sqrt(size / np.pi) if ndim == 2 else np.cbrt(0.75 * size / np.pi))


def objects(mask: np.ndarray, room: float = 1.0) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Each 26-connected object of `mask`, in a box with some room around it.

    `room` is in radii of the object, so that a crumb has a small box. Yields the box as slices of
    `mask` and the object alone, (*box) bool.
    """
    parts, _ = label_components(mask)
    for i, tight in enumerate(ndimage.find_objects(parts.astype(np.int32, copy=False)), start=1):
        size = int((parts[tight] == i).sum())
        margin = 3 + int(np.ceil(room * equal_radius(size, mask.ndim)))
        box = tuple(
            slice(max(0, side.start - margin), min(n, side.stop + margin))
            for side, n in zip(tight, mask.shape, strict=True)
        )
        yield box, parts[box] == i


def piece(
    mask: np.ndarray, voxels: int, spacing: Sequence[float], rng: np.random.Generator, *, ball: bool
) -> np.ndarray:
    """A piece of `mask`, cut off by a plane or (with `ball`) bitten off by a ball.

    Parameters
    ----------
    mask : (*spatial) bool, not empty.
    voxels : size of the piece; all of `mask` where it has fewer.
    spacing : mm per voxel, in array order.

    Returns
    -------
    (*spatial) bool, a subset of `mask`. The plane has a random direction, the ball a random
    voxel of `mask` as its centre.
    """
    at = np.argwhere(mask)
    mm = at * np.asarray(spacing, dtype=np.float64)
    if ball:
        center = mm[rng.integers(len(mm))] + rng.uniform(-0.5, 0.5, mask.ndim) * min(spacing)
        return _nearest(mask, at, np.linalg.norm(mm - center, axis=1), voxels)
    return _nearest(mask, at, mm @ rng.standard_normal(mask.ndim), voxels)


def ellipsoid(room: np.ndarray, voxels: int, spacing: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """An ellipsoid of `voxels` voxels somewhere in `room`.

    Parameters
    ----------
    room : (*spatial) bool, where it may lie. It touches nothing else where there is space for
        that; in a narrow room it takes the room's shape.
    voxels : its size; all of `room` where that has fewer.
    spacing : mm per voxel, in array order.

    Returns
    -------
    (*spatial) bool, a subset of `room`; empty if that is empty or `voxels` is below 1.
    """
    if voxels < 1 or not room.any():
        return np.zeros_like(room)
    depth_mm = distance(np.pad(room, 1), spacing)[(slice(1, -1),) * room.ndim]
    longest_mm = 1.35 * equal_radius(voxels * float(np.prod(spacing)), room.ndim) + 1.5 * max(spacing)
    centers = np.argwhere(depth_mm >= min(longest_mm, float(depth_mm.max())))
    center = centers[rng.integers(len(centers))] + rng.uniform(-0.5, 0.5, room.ndim)
    stretch = np.asarray(spacing) * rng.uniform(0.8, 1.25, room.ndim)
    at = np.argwhere(room)
    return _nearest(room, at, np.linalg.norm((at - center) * stretch, axis=1), voxels)


def same_moments(mask: np.ndarray, spacing: Sequence[float], stretch: float = 1.0) -> np.ndarray:
    """The ellipse (2-D) or ellipsoid (3-D) with the centroid and the second moments of `mask`.

    Parameters
    ----------
    mask : (*spatial) bool, not empty; its array should leave some room around it.
    spacing : mm per voxel, in array order.
    stretch : its longest axis is that much longer, and the others so much shorter that it is as large.

    Returns
    -------
    (*spatial) bool, cut off at the border of the array. A voxel counts as a box, so the ellipse of one
    voxel is that voxel.
    """
    at = np.argwhere(mask) * np.asarray(spacing, dtype=np.float64)
    center = at.mean(axis=0)
    covariance = (at - center).T @ (at - center) / len(at) + np.diag(np.square(spacing) / 12)
    variances, axes = np.linalg.eigh(covariance)  # ascending: the longest axis is the last
    factor = np.full(mask.ndim, stretch ** (-1 / (mask.ndim - 1)))
    factor[-1] = stretch
    grid = np.moveaxis(np.indices(mask.shape), 0, -1) * np.asarray(spacing) - center
    length = ((grid @ axes) ** 2 / (variances * factor**2)).sum(axis=-1)
    return length <= mask.ndim + 2  # a solid ellipsoid has the variance a^2 / (ndim + 2) along its half-axis a


def _nearest(like: np.ndarray, at: np.ndarray, order: np.ndarray, voxels: int) -> np.ndarray:
    out = np.zeros_like(like)
    out[tuple(at[np.argsort(order, kind="stable")[:voxels]].T)] = True
    return out
