"""How far predicted boundaries lie from the true ones, in mm: the bias that Spatial Correction removes.

J. Yao et al., "Learning to segment from noisy annotations: a spatial correction approach", ICLR
2023. The published bias of a class is the mean over the true outer ring of d - 1, with d the signed
distance to the prediction in voxels; here distances are in mm, and in slices where these are thick.

No voxel has distance 0, so d jumps by two from one side of the boundary to the other, and the
published bias of a prediction that is one voxel too large is -2. `ring_moves` with `halved` counts a
covered voxel from its own side of the boundary: a ring too large is -1, a ring too small +1. And as
the border of two classes has one place, `border_bias` keeps one number per pair of classes: what one
loses, the other gains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.metrics import signed_distance
from napari_noisylabel.records import IGNORE

TRIM = 0.1  # share of the ring left out at both ends where moves are trimmed: a lost piece is no bias


def thick_axis(spacing: Sequence[float], thick: float) -> int | None:
    """The axis of a volume along which slices are `thick` times as thick as voxels are wide, or None."""
    if len(spacing) < 3:
        return None
    axis = int(np.argmax(spacing))
    return axis if spacing[axis] >= thick * min(s for a, s in enumerate(spacing) if a != axis) else None


def voxel_size(spacing: Sequence[float], axis: int | None) -> float:
    """The smallest side of a voxel, in mm, among the axes that distances are measured along."""
    return float(min(s for a, s in enumerate(spacing) if a != axis))


def distance_in_slices(mask: np.ndarray, spacing: Sequence[float], axis: int | None) -> np.ndarray:
    """Distance of every True voxel to the nearest False one, in mm; within its slice across `axis`, if any.

    mask (*spatial) bool; returns (*spatial) float32, +inf where there is no False voxel.
    """
    if axis is None:
        return distance(mask, spacing)
    plane = [s for a, s in enumerate(spacing) if a != axis]
    return np.stack([distance(m, plane) for m in np.moveaxis(mask, axis, 0)], axis)


def signed_distance_in_slices(mask: np.ndarray, spacing: Sequence[float], axis: int | None) -> np.ndarray:
    """`arrays.metrics.signed_distance`, within the slices across `axis` where there is one."""
    if axis is None:
        return signed_distance(mask, spacing)
    plane = [s for a, s in enumerate(spacing) if a != axis]
    return np.stack([signed_distance(m, plane) for m in np.moveaxis(mask, axis, 0)], axis)


def outer_ring(mask: np.ndarray, axis: int | None) -> np.ndarray:
    """Voxels outside `mask` with a face neighbour in it: where the signed distance is one step."""
    cross = ndimage.generate_binary_structure(mask.ndim, 1)
    if axis is not None:
        cross &= np.arange(3).reshape([3 if a == axis else 1 for a in range(mask.ndim)]) == 1
    return ndimage.binary_dilation(mask, cross) & ~mask


def ring_moves(
    guess: np.ndarray, truth: np.ndarray, spacing: Sequence[float], axis: int | None, halved: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How far the boundary of `guess` lies inside that of `truth`, at each voxel of the true outer ring.

    Parameters
    ----------
    guess, truth : (*spatial) bool.
    halved : False for d(guess) - d(truth), the published measure; True to count covered voxels from
        their own side of the boundary, which makes one ring too large the opposite of one too small.

    Returns
    -------
    ring : (*spatial) bool, the voxels.
    moves : (N,) mm, in C order; negative where `guess` is too large. Infinite in a slice that
        `guess` leaves empty, or fills.
    """
    ring = outer_ring(truth, axis)
    d = signed_distance_in_slices(guess, spacing, axis)[ring]
    step = distance_in_slices(~truth, spacing, axis)[ring]
    return ring, np.where(d < 0, d, d - step) if halved else d - step


def class_bias(
    guess: np.ndarray, truth: np.ndarray, k: int, spacing: Sequence[float], axis: int | None, halved: bool = False
) -> tuple[float, np.ndarray]:
    """The bias of class `k` of one case, in mm, and the moves that it is the mean of.

    Negative where the prediction is too large. Plus one voxel where only the truth shows the class,
    minus one where only the prediction does, NaN where neither does.

    Parameters
    ----------
    guess, truth : (*spatial) class indices; voxels where `truth` is IGNORE do not count.

    Source: specification section 5, step 2.
    """
    known = truth != IGNORE
    a, b = (guess == k) & known, truth == k
    if not a.any() or not b.any():
        return _one_sided(a, b, voxel_size(spacing, axis)), np.zeros(0)
    ring, moves = ring_moves(a, b, spacing, axis, halved)
    moves = moves[known[ring] & np.isfinite(moves)]
    return (float(moves.mean()) if moves.size else float("nan")), moves


def border_bias(
    guess: np.ndarray, truth: np.ndarray, n_classes: int, spacing: Sequence[float], axis: int | None
) -> np.ndarray:
    """Where the border of each two classes lies, from its true place: (K, K) mm.

    [c, k] is positive where class c must grow at the expense of k, and the opposite of [k, c]: the
    mean of what both sides of the true border measure (`halved` moves, trimmed). NaN for pairs without a
    border, and where prediction or truth lacks one of the two.
    """
    known = truth != IGNORE
    guess = np.where(known, guess, IGNORE)
    sums, counts = np.zeros((2, n_classes, n_classes))
    shown = [k for k in range(n_classes) if (truth == k).any() and (guess == k).any()]
    for c in shown:
        ring, moves = ring_moves(guess == c, truth == c, spacing, axis, halved=True)
        beside = truth[ring]
        for k in shown:
            own = moves[(beside == k) & np.isfinite(moves)]
            if own.size:
                mean = trimmed_mean(own)
                sums[c, k], counts[c, k] = sums[c, k] + mean, counts[c, k] + 1
                sums[k, c], counts[k, c] = sums[k, c] - mean, counts[k, c] + 1
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def trimmed_mean(values: np.ndarray) -> float:
    """The mean of (N,) values without the lowest and the highest tenth."""
    ordered = np.sort(values)
    cut = int(TRIM * ordered.size)
    return float(ordered[cut : ordered.size - cut].mean())


def _one_sided(guess: np.ndarray, truth: np.ndarray, voxel: float) -> float:
    if truth.any():
        return voxel
    return -voxel if guess.any() else float("nan")
