"""Under- and over-segmentation by a share of the object's size, as published for SegTHOR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.noise_case import Case, reached_dice
from napari_noisylabel.arrays.shapes import equal_radius

AREA = 1000.0
"""Pixels of the object where it is eroded or dilated; in 3-D the ball of the same radius (17.8)."""

MOST = 24
"""Erosions that are tried to reach a Dice; 18 of them leave nothing of a disk."""


def resized(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask on a finer or coarser grid over the same extent: cubic interpolation in whole numbers, above 0.

    Parameters
    ----------
    mask : (*spatial) bool.
    shape : of the result, at least 1 along each axis.

    Returns
    -------
    (*shape) bool. Voxels are boxes, the border voxel goes on beyond the border, nothing is averaged
    where the grid is coarser. In whole numbers, "above 0" is a half or more.

    Source: cubic convolution (Keys, IEEE TASSP 1981) with a = -0.75.
    """
    out = mask.astype(np.float32)
    for axis, n in enumerate(shape):
        if n != out.shape[axis]:
            out = np.moveaxis(np.tensordot(_cubic(out.shape[axis], n), out, axes=(1, axis)), 0, axis)
    return out >= 0.5


def _cubic(n_in: int, n_out: int) -> np.ndarray:
    """Weights of `n_in` samples for each of `n_out`, (n_out, n_in)."""
    a = -0.75
    center = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    first = np.floor(center).astype(int)
    weights = np.zeros((n_out, n_in), dtype=np.float32)
    for step in (-1, 0, 1, 2):
        x = np.abs(center - (first + step))
        near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        value = np.where(x <= 1, near, np.where(x < 2, far, 0))
        np.add.at(weights, (np.arange(n_out), np.clip(first + step, 0, n_in - 1)), value)
    return weights


def resized_and_moved(mask: np.ndarray, iterations: int, spacing: Sequence[float], *, grows: bool) -> np.ndarray:
    """`mask` eroded or dilated on a grid on which it is about 1000 pixels large, and brought back.

    Parameters
    ----------
    mask : (*spatial) bool, all objects of a class; not changed.
    iterations : steps with a square of 3 x 3 (cube of 3 x 3 x 3): each is about 1/18 of the radius.
    spacing : mm per voxel; the finer grid has voxels of equal sides.

    Returns
    -------
    (*spatial) bool. With few or no steps it may reach beyond `mask`, because resizing rounds.

    Source: Liu et al., "Adaptive Early-Learning Correction for Segmentation from Noisy Annotations",
    CVPR 2022, its noise for SegTHOR. In 3-D ours.
    """
    out = np.zeros_like(mask)
    if not mask.any():
        return out
    ratio = _ratio(mask, spacing)
    reach = [int(np.ceil((iterations + 3) / r)) + 3 for r in ratio]
    tight = ndimage.find_objects(mask.astype(np.int8))[0]
    box = tuple(
        slice(max(0, side.start - m), min(n, side.stop + m))
        for side, m, n in zip(tight, reach, mask.shape, strict=True)
    )
    small = mask[box]
    large = resized(small, [max(1, round(n * r)) for n, r in zip(small.shape, ratio, strict=True)])
    square = np.ones((3,) * mask.ndim, dtype=bool)
    if iterations > 0:
        move = ndimage.binary_dilation if grows else ndimage.binary_erosion
        large = move(large, square, iterations=iterations, border_value=0 if grows else 1)
    out[box] = resized(large, small.shape)
    return out


def _ratio(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """How much finer the grid is along each axis. 1000 pixels in 2-D; by the same radius in 3-D."""
    sides = np.asarray(spacing, dtype=np.float64) / np.prod(spacing) ** (1 / mask.ndim)
    radius = equal_radius(float(mask.sum()), mask.ndim)
    return np.asarray(equal_radius(AREA, 2) / radius * sides)


# ---------------------------------------------------------------- the model


def under_over(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    """All classes of a slice (of the case, where it is spoiled as a whole) too small, or all too large.

    A class that grows takes background only. A class that shrinks leaves background, and with `spill` also
    whatever lies where resizing rounded it beyond its border, as released.
    """
    out, drawn = case.labels.copy(), []
    for plane, spacing in case.grid.planes(out.shape):
        present = [c for c in case.present if (out[plane] == c).any()]
        if not present:
            continue
        grows = bool(case.rng.random() < case.settings["grow"])
        iterations = _drawn(case)
        for c in sorted(present, key=_rank(case.settings["order"])):
            n = _iterations_for(case, out[plane], c, spacing, grows) if iterations is None else iterations
            _spoil(case, out[plane], c, n, spacing, grows)
            drawn.append({"class": c, "grown": grows, "iterations": n})
    return out, {"drawn": drawn}


def _drawn(case: Case) -> int | None:
    least, most = case.settings["least"], case.settings["most"]
    return None if least is None else int(case.rng.integers(least, most + 1))


def _rank(order: Sequence[int] | None) -> Any:
    """Classes in the given order, then the others in theirs."""
    first = list(order or ())
    return lambda c: (first.index(c) if c in first else len(first), c)


def _iterations_for(case: Case, labels: np.ndarray, c: int, spacing: Sequence[float], grows: bool) -> int:
    """The steps that take the Dice of class `c` nearest to what is wanted: found by halving."""
    dice, mask = case.dice(case.settings), labels == c
    found: dict[int, float] = {}

    def reached(n: int) -> float:
        if n not in found:
            trial = labels.copy()
            _spoil(case, trial, c, n, spacing, grows)
            found[n] = reached_dice(trial == c, mask)
        return found[n]

    low, high = 0, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reached(middle) > dice else (low, middle)
    return min((low, high), key=lambda n: abs(reached(n) - dice))


def _spoil(case: Case, labels: np.ndarray, c: int, n: int, spacing: Sequence[float], grows: bool) -> None:
    """Change one class of a slice in place. `labels` may be a view of the case."""
    mask = labels == c
    moved = resized_and_moved(mask, n, spacing, grows=grows)
    if grows:
        labels[moved & (labels == 0)] = c
    elif case.settings["spill"]:
        labels[moved != mask] = 0
    else:
        labels[mask & ~moved] = 0
