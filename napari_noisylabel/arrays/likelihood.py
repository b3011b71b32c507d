"""From scores to noise likelihoods, at the level of voxels, regions or cases.

Three questions, three levels. *Voxel*: does this voxel's loss belong to the noisy component of
its class? *Region*: do the losses of this connected piece? *Case*: is this object, in this case,
drawn worse than a careful hand would draw it? Then the voxels that all networks reject are
suspicious, and in a case that is drawn well none are. The case level is the default: it alone
keeps clean masks clean. It hears two witnesses: the network that has not seen the case, and those
that were trained on it. A label that even they did not take up is wrong, or hard; where the
networks are also further from it than from each other, it is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_noisylabel.arrays.mixture import Mixture, fit_mixture, fit_mixture_samples, posterior

MAX_SCORE = 16.0
"""Nats at which scores are clipped: 16 is a probability of 1e-7."""

SCORE_STEPS = 65535
BINS = 1024
BLOCK = 1 << 20
"""Voxels that are looked at in one go, so that what lies in between stays in the processor's cache."""

TOLERANCE = 1.0
"""Voxels by which the boundary of a well-drawn object may differ, on average, from the networks'
that were trained on it. Measured on clean hippocampus masks: 0.61 in the median, under 0.91 in 95 of
100 objects; with masks of a mean Dice near 0.79: 1.14 to 1.31 in the median (docs/filter.md)."""

DISAGREEMENT = 1.3
"""How many times further from the label than from each other networks must be."""

SOFTNESS = 0.06
"""Tolerances over which P(badly drawn) rises around 1."""


def best_class(probs: np.ndarray) -> np.ndarray:
    """The most probable class, the first of equals: probs (K, *spatial) >= 0 -> (*spatial) uint8.

    `argmax` over the first axis, ten times as fast: classes are compared plane by plane.
    """
    planes = _comparable(probs)
    best, out = planes[0].copy(), np.zeros(planes.shape[1:], np.uint8)
    for k, plane in enumerate(planes[1:], 1):
        np.maximum(out, (plane > best).view(np.uint8) * np.uint8(k), out=out)
        np.maximum(best, plane, out=best)
    return out


def label_probs(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p(label): probs (K, *spatial), labels (*spatial) -> (*spatial) of the type of `probs`; 1 where it is no class."""
    out = np.ones(labels.shape, probs.dtype)
    for k, plane in enumerate(probs):
        np.copyto(out, plane, where=labels == k)
    return out


def as_single(probs: np.ndarray) -> np.ndarray:
    """Probabilities, any shape, as float32, exactly.

    Of half floats the bits are moved to where a float32 has them, and a factor puts the exponent right: several
    times as fast as NumPy's conversion, and right only for what is finite and >= 0, as probabilities are.
    """
    if probs.dtype != np.float16:
        return probs.astype(np.float32)
    return (probs.view(np.uint16).astype(np.uint32) << np.uint32(13)).view(np.float32) * np.float32(2.0**112)


def to_uint16(score: np.ndarray) -> np.ndarray:
    """Scores in nats, any shape, as steps of MAX_SCORE / 65535."""
    return _stepwise(score, 0, MAX_SCORE, SCORE_STEPS / MAX_SCORE, np.uint16)


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
    classes = np.minimum(labels.astype(np.uint32), np.uint32(n_classes))  # one more, for what does not count
    if skip is not None:
        np.copyto(classes, n_classes, where=skip)
    code = classes * np.uint32(BINS) + (stored >> 6)
    return np.bincount(code.ravel("K"), minlength=(n_classes + 1) * BINS).reshape(-1, BINS)[:n_classes]


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
    nats = to_nats(np.arange(SCORE_STEPS + 1, dtype=np.uint16)).astype(np.float64)  # in float32 it would fall by an ulp
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
    return float(np.count_nonzero(a != b) / max(surface, 1.0))


def axes_of_array(axes: Sequence[int], ndim: int) -> list[int]:
    """Those of (Z, Y, X) `axes` that an array of `ndim` dimensions has, as its own: (1, 2) is (0, 1) of a slice."""
    return [a - (3 - ndim) for a in axes if a >= 3 - ndim]


def excess(seen: np.ndarray, between: np.ndarray) -> np.ndarray:
    """How far labels are from the networks, in units of what a careful hand is allowed; over 1 is bad.

    Parameters
    ----------
    seen : displacement, in voxels, of the label from the networks that were trained on the case.
    between : displacement, in voxels, of these networks from the one that was not.

    Both of one shape; NaN stays NaN. Networks that do not agree with each other are no judges: the
    allowance is one voxel, or 1.3 times what lies between them.
    """
    between = np.nan_to_num(np.asarray(between, np.float64))
    return np.asarray(seen, np.float64) / np.maximum(TOLERANCE, DISAGREEMENT * between)


def fit_cases(excesses: np.ndarray) -> Mixture:
    """A mixture of the log-excess (N,) of one class over the cases; NaN has no say."""
    values = np.asarray(excesses, np.float64)
    values = np.log(np.maximum(values[~np.isnan(values)], 0.05))
    return fit_mixture_samples(values) if values.size else _no_scores()


def case_likelihood(fit: Mixture, excesses: np.ndarray) -> np.ndarray:
    """P(this object is badly drawn) per case, same shape as `excesses`, in [0, 1]; 0 for NaN.

    An excess over 1 is bad whatever the other cases are, so that a project in which every mask is
    wrong is not called clean. A mixture that separates bad cases from good ones may call more of
    them bad, but none under 0.7: what is a fraction of a voxel is no error that a person could see.
    """
    e = np.asarray(excesses, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        bad = 1 / (1 + np.exp(-(e - 1) / SOFTNESS))
    if fit.split:
        relative = posterior(fit, np.log(np.maximum(e, 0.05)))
        bad = np.maximum(bad, np.where(e > 0.7, relative, 0.0))
    return np.where(np.isnan(e), 0.0, bad)


def rejection(unseen: np.ndarray, seen: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How surely all networks reject the label: the smaller of their 1 - p(label).

    0 where they do not agree on what it should be, and where `labels` is no class.

    Parameters
    ----------
    unseen, seen : (K, *spatial) probabilities of the network that has not seen the case, and of
        those that have.
    labels : (*spatial).

    Returns
    -------
    (*spatial) float32 in [0, 1].
    """
    kept = np.maximum(*(as_single(label_probs(probs, labels)) for probs in (unseen, seen)))
    rejected = np.subtract(1, kept, out=kept)
    np.copyto(rejected, 0, where=best_class(unseen) != best_class(seen))
    return rejected


def case_map(
    bad: np.ndarray, labels: np.ndarray, proposal: np.ndarray, rejected: np.ndarray,
    systematic: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Noise likelihood per voxel from the case's `bad` (K,): P(badly drawn) x rejection.

    Of the class that is there and the one that is proposed the worse drawn counts, or, where it is
    higher, `systematic` (K, K): P(drawn with an error that the labels share) per class there and class
    proposed. All maps (*spatial), `rejected` uint8 (255: surely); returns uint8, too.
    """
    table = as_uint8(np.nan_to_num(bad)).tobytes().ljust(256, b"\0")
    pairs = [] if systematic is None else [(c, k, systematic[c, k]) for c, k in np.argwhere(systematic > 0)]
    out = np.empty(labels.size, np.uint8)
    maps = labels.reshape(-1), proposal.reshape(-1), rejected.reshape(-1)
    for a in range(0, out.size, BLOCK):  # of a size for the cache
        here, there, sure = (m[a : a + BLOCK] for m in maps)
        worse = np.maximum(_translated(here, table), _translated(there, table))
        for c, k, p in pairs:
            np.maximum(worse, as_uint8(p), out=worse, where=(here == c) & (there == k))
        product = worse.astype(np.uint16) * sure + np.uint16(128)
        out[a : a + BLOCK] = (product + (product >> 8)) >> 8  # divided by 255 and rounded
    return out.reshape(labels.shape)


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
    return _stepwise(likelihood, 0, 1, 255.0, np.uint8)


# ---------------------------------------------------------------- helpers, in order of use


def _comparable(values: np.ndarray) -> np.ndarray:
    """Half floats >= 0 as whole numbers of the same order: processors compare these far faster."""
    values = np.ascontiguousarray(values)
    return values.view(np.uint16) if values.dtype == np.float16 else values


def _stepwise(values: np.ndarray, low: float, high: float, steps: float, dtype: type) -> np.ndarray:
    """`values`, clipped, in whole steps of 1 / `steps`."""
    flat = np.asarray(values).reshape(-1)
    out: np.ndarray = np.empty(flat.shape, dtype)
    for a in range(0, flat.size, BLOCK):
        scaled = np.clip(flat[a : a + BLOCK], low, high) * steps
        out[a : a + BLOCK] = np.rint(scaled, out=scaled)
    return out.reshape(np.shape(values))


def _fit_or_none(counts: np.ndarray, centres: np.ndarray) -> Mixture:
    return fit_mixture(counts, centres) if counts.sum() > 0 else _no_scores()


def _no_scores() -> Mixture:
    return Mixture((0.0, 0.0), (0.0, 0.0), (1.0, 0.0), False, "no score at all", 0.0, -1e6, 0.0, 0)


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The bounding box of `mask`, one voxel wider, or None if it is empty."""
    box = []
    for _ in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(range(1, mask.ndim))))
        if not found.size:
            return None
        box.append(slice(max(0, int(found[0]) - 1), int(found[-1]) + 2))
        mask = np.any(mask, axis=0)  # the shadow along this axis holds the others
    return tuple(box)


def _boundary(mask: np.ndarray, axes: Sequence[int]) -> float:
    """Voxels of `mask` with a neighbour outside it along `axes`. The array's edge is no outside."""
    inner = mask.copy()
    for axis in axes:
        ahead, behind = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        inner[tuple(behind)] &= mask[tuple(ahead)]
        inner[tuple(ahead)] &= mask[tuple(behind)]
    return float(np.count_nonzero(mask) - np.count_nonzero(inner))


def _translated(classes: np.ndarray, table: bytes) -> np.ndarray:
    """`table[classes]` of classes 0..255, (N,) uint8; NumPy would make 64-bit indices of them first."""
    return np.frombuffer(np.asarray(classes, np.uint8).tobytes().translate(table), np.uint8)
