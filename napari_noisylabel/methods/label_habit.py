"""The displacement that the labels of a class share, and which cases show it.

A network whose bias was measured on verified cases, and taken out, is an unbiased witness: it errs on
each boundary, and on the average over a boundary much less. So the mean distance of a label's boundary
from it says how this label is drawn, and the mean over all labels how the class is drawn. None of
this is in the published method, which trains on moved labels and judges none.

All displacements are in mm, of the border with background; positive where the label is too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_noisylabel.methods.boundary_bias import border_bias
from napari_noisylabel.records import IGNORE

SURE = 2.5
"""Standard errors that a shared displacement must be away from 0, in one class or in all classes together. Verified
cases are few, and a network is off by 0.2 voxels in one of them and by -0.2 in the next (hippocampi)."""
SHARED = 0.9
"""P(a label is drawn as the others are) before its own boundary was looked at."""
LEAST_SPREAD = 0.1
"""Voxels by which cases are taken to differ at least."""


@dataclass(frozen=True, eq=False)
class Habit:
    """What the labels of a track share: (K,) mm, 0 where nothing is sure.

    `spread` (K,) is the standard deviation of single cases, in mm, from the displacements of N cases.
    """

    shared: np.ndarray
    spread: np.ndarray


def label_displacement(
    labels: np.ndarray, opinion: np.ndarray, n_classes: int, spacing: Sequence[float], axis: int | None
) -> np.ndarray:
    """How far each class of a label lies inside an unbiased opinion, on average over its border with background.

    labels, opinion : (*spatial) class indices, labels with IGNORE, which does not count. Returns (K,) mm, NaN for
    classes that one of the two lacks.
    """
    return border_bias(labels, np.where(labels == IGNORE, IGNORE, opinion), n_classes, spacing, axis)[:, 0]


def shared_habit(displacements: np.ndarray, found: np.ndarray, n_verified: np.ndarray, voxel: float) -> Habit:
    """What the displacements of single labels have in common.

    Parameters
    ----------
    displacements : (N, K) mm, NaN where a case lacks a class.
    found : (K,) mm, the bias that verified cases found in networks trained on these labels.
    n_verified : (K,) how many verified cases that is from.
    voxel : mm.

    The median over the cases, where it has the sign of `found` and is surely not 0. The verified cases say where 0
    is, so the error is mostly theirs. What is not sure in one class may be in all together: the sum of
    their distances from 0, in standard errors, over the square root of their number (Stouffer).
    """
    known = np.isfinite(displacements)
    n = known.sum(0)
    shared, spread = np.zeros((2, displacements.shape[1]))
    for k in np.flatnonzero(n):
        own = displacements[known[:, k], k]
        shared[k] = np.median(own)
        spread[k] = 1.4826 * np.median(np.abs(own - shared[k]))  # a standard deviation that odd cases do not move
    spread = np.maximum(spread, LEAST_SPREAD * voxel)
    known_to_all = (n > 0) & (n_verified > 0)
    z = np.zeros_like(shared)
    error = spread * np.sqrt(1 / np.maximum(n, 1) + 1 / np.maximum(n_verified, 1))
    np.divide(shared, error, out=z, where=known_to_all)
    together = z.sum() / np.sqrt(max(known_to_all.sum(), 1))
    sure = (np.abs(z) >= SURE) | ((abs(together) >= SURE) & (z * together > 0))
    return Habit(np.where(sure & (z * np.nan_to_num(found) > 0), shared, 0.0), spread)


def follows(habit: Habit, displacement: np.ndarray) -> np.ndarray:
    """P(a label is drawn with the habit, and not at its true place), (K,), from its own displacement (K,) mm.

    Bayes' rule for two normal distributions of the same spread, around the habit and around 0. 0 for classes without
    a habit or a displacement.
    """
    b, s = habit.shared, habit.spread
    odds = (b * displacement - b**2 / 2) / s**2 + np.log(SHARED / (1 - SHARED))
    return np.where((b != 0) & np.isfinite(displacement), 1 / (1 + np.exp(-np.clip(np.nan_to_num(odds), -50, 50))), 0.0)


def as_pairs(habit: Habit, p: np.ndarray) -> np.ndarray:
    """(K, K): p (K,) at [class there, class that it should be]; a class that is too large should be background."""
    out = np.zeros((len(p), len(p)))
    out[:, 0] = np.where(habit.shared < 0, p, 0)
    out[0] = np.where(habit.shared > 0, p, 0)
    return out
