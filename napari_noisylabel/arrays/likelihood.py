"""From scores to noise likelihoods, at the level of voxels, regions or cases.

Three questions, three levels. *Voxel*: does this voxel's loss belong to the noisy component of
its class? *Region*: do the losses of this connected piece? *Case*: is this object, in this case,
drawn worse than a careful hand would draw it? Then its doubtful voxels are suspicious, and in a
case that is drawn well none are. The case level is the default: it alone keeps clean masks clean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_noisylabel.arrays.mixture import Mixture, fit_mixture, fit_mixture_samples, posterior

MAX_SCORE = 16.0
"""Nats at which scores are clipped: 16 is a probability of 1e-7."""

SCORE_STEPS = 65535
BINS = 1024
TOLERANCE = 1.0
"""Voxels by which the boundary of a well-drawn object may differ, on average, from the network's.

Measured out of fold on clean masks (docs/methods/filter.md): 0.65 in the median, under 1.03 in
95 of 100 objects; with a mean label Dice of 0.79, 1.29 in the median.
"""
SOFTNESS = 0.06
"""Voxels over which P(badly drawn) rises around TOLERANCE where no mixture is found."""


def to_uint16(score: np.ndarray) -> np.ndarray:
    """Scores in nats, any shape, as steps of MAX_SCORE / 65535."""
    return np.round(np.clip(score, 0, MAX_SCORE) * (SCORE_STEPS / MAX_SCORE)).astype(np.uint16)


def to_nats(stored: np.ndarray) -> np.ndarray:
    """Stored scores in nats, float32."""
    return np.asarray(stored, np.float32) * np.float32(MAX_SCORE / SCORE_STEPS)


def bin_centres() -> np.ndarray:
    """(BINS,) score of each histogram bin, in nats."""
    return (np.arange(BINS) + 0.5) * (MAX_SCORE / BINS)


def bin_edges() -> np.ndarray:
    """(BINS + 1,) edges of the histogram bins, in nats."""
    return np.arange(BINS + 1) * (MAX_SCORE / BINS)


def score_histogram(stored: np.ndarray, labels: np.ndarray, n_classes: int, skip: np.ndarray | None) -> np.ndarray:
    """How many voxels of each class have which score.

    stored (*spatial) uint16, labels (*spatial) with values from `n_classes` on ignored, `skip`
    (*spatial) bool or None: voxels that do not count. Returns (K, BINS) int64.
    """
    keep = labels < n_classes
    if skip is not None:
        keep &= ~skip
    code = labels[keep].astype(np.int64) * BINS + (stored[keep] >> 6)
    return np.bincount(code, minlength=n_classes * BINS).reshape(n_classes, BINS)


def log_odds(score: np.ndarray) -> np.ndarray:
    """Log-odds that the label is wrong, from its cross-entropy in nats: log(exp(score) - 1).

    Two Gaussians fit these better than the losses themselves: confident voxels lie far to the
    left, rejected ones to the right, and both humps are round. Clipped to [-7, 7].
    """
    score = np.asarray(score, np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        return np.clip(np.where(score > 30, score, np.log(np.expm1(np.minimum(score, 30)))), -7, 7)


# ---------------------------------------------------------------- voxels


def fit_voxels(counts: np.ndarray) -> tuple[Mixture, ...]:
    """One mixture of the log-odds per class, from histograms (K, BINS).

    Voxels below the second bin are left out: a background of millions of easy voxels would be the
    whole mixture otherwise.
    """
    centres = log_odds(bin_centres())
    counts = np.array(counts, np.float64)
    counts[:, :2] = 0
    return tuple(_fit_or_none(c, centres) for c in counts)


def voxel_table(fits: Sequence[Mixture]) -> np.ndarray:
    """P(wrong) of each stored score per class, (K, 65536) float32.

    Where a class has no split it is 1 - p(label).
    """
    nats = to_nats(np.arange(SCORE_STEPS + 1, dtype=np.uint16))
    odds = log_odds(nats)
    rows = [posterior(fit, odds) if fit.split else -np.expm1(-nats) for fit in fits]
    return np.stack(rows).astype(np.float32)


def rejection_table() -> np.ndarray:
    """1 - p(label) of each stored score, (65536,) float32."""
    return -np.expm1(-to_nats(np.arange(SCORE_STEPS + 1, dtype=np.uint16)))


# ---------------------------------------------------------------- cases


def displacement(labels: np.ndarray, proposal: np.ndarray, k: int, axes: Sequence[int]) -> float:
    """Mean distance, in voxels, between the boundaries of class `k` in two label maps.

    The voxels in which the two differ, over the mean of their numbers of boundary voxels. NaN if
    neither shows the class. `axes` are those in which neighbours count: in-plane for thick slices.
    """
    box = _box((labels == k) | (proposal == k))
    if box is None:
        return float("nan")
    a, b = labels[box] == k, proposal[box] == k
    surface = 0.5 * (_boundary(a, axes) + _boundary(b, axes))
    return float((a != b).sum() / max(surface, 1.0))


def fit_cases(displacements: np.ndarray) -> Mixture:
    """A mixture of the log-displacements (N,) of one class over the cases; NaN has no say."""
    values = np.asarray(displacements, np.float64)
    values = np.log(np.maximum(values[~np.isnan(values)], 0.05))
    return fit_mixture_samples(values) if values.size else _no_scores()


def case_likelihood(fit: Mixture, displacements: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """P(this object is badly drawn) per case, (N,) in [0, 1]; 0 for NaN.

    A displacement well over `tolerance` voxels is bad whatever the other cases are, so that a
    project in which every mask is wrong is not called clean. A mixture that separates bad cases
    from good ones may call more of them bad, but none under 0.7 of the tolerance: what is a
    fraction of a voxel is no error that a person could see.
    """
    d = np.asarray(displacements, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        absolute = 1 / (1 + np.exp(-(d - tolerance) / SOFTNESS))
    if fit.split:
        relative = posterior(fit, np.log(np.maximum(d, 0.05)))
        absolute = np.maximum(absolute, np.where(d > 0.7 * tolerance, relative, 0.0))
    return np.where(np.isnan(d), 0.0, absolute)


def case_map(bad: np.ndarray, labels: np.ndarray, proposal: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Noise likelihood per voxel from the case's `bad` (K,): P(badly drawn) x (1 - p(label)).

    Of the class that is there and the one that is proposed the worse drawn counts. All maps
    (*spatial); returns float32.
    """
    table = np.zeros(256, np.float32)
    table[: len(bad)] = np.nan_to_num(bad)
    return np.maximum(table[labels], table[proposal]) * rejection_table()[stored]


# ---------------------------------------------------------------- regions


def fit_regions(scores: np.ndarray) -> Mixture:
    """A mixture of the log of region scores (N,): mean nats times the square root of voxels."""
    scores = np.asarray(scores, np.float64)
    return fit_mixture_samples(np.log(np.maximum(scores, 1e-3))) if scores.size else _no_scores()


def region_likelihood(fit: Mixture, scores: np.ndarray, rejection: np.ndarray) -> np.ndarray:
    """P(wrong) per region, (N,): its posterior, or without a split its mean 1 - p(label)."""
    if not fit.split:
        return np.asarray(rejection, np.float64)
    return posterior(fit, np.log(np.maximum(np.asarray(scores, np.float64), 1e-3)))


def as_uint8(likelihood: np.ndarray) -> np.ndarray:
    """A likelihood in [0, 1] as 0..255."""
    return np.rint(np.clip(likelihood, 0, 1) * 255).astype(np.uint8)


# ---------------------------------------------------------------- helpers, in order of use


def _fit_or_none(counts: np.ndarray, centres: np.ndarray) -> Mixture:
    return fit_mixture(counts, centres) if counts.sum() > 0 else _no_scores()


def _no_scores() -> Mixture:
    return Mixture((0.0, 0.0), (0.0, 0.0), (1.0, 0.0), False, "no score at all", 0.0, -1e6, 0.0, 0)


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The bounding box of `mask`, one voxel wider, or None if it is empty."""
    box = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        if not found.size:
            return None
        box.append(slice(max(0, int(found[0]) - 1), int(found[-1]) + 2))
    return tuple(box)


def _boundary(mask: np.ndarray, axes: Sequence[int]) -> float:
    """Voxels of `mask` with a neighbour outside it along `axes`. The array's edge is no outside."""
    inner = mask.copy()
    for axis in axes:
        ahead, behind = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        inner[tuple(behind)] &= mask[tuple(ahead)]
        inner[tuple(ahead)] &= mask[tuple(behind)]
    return float(mask.sum() - inner.sum())
