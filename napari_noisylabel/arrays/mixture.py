"""Tell clean from noisy scores with two Gaussians.

The filter of "Deep self-cleansing for medical image segmentation with noisy labels", Dong et al.,
Medical Physics 2025 (arXiv 2409.05024), is a Gaussian mixture. Its details are not public: start,
variance floor, monotone posterior and guards are our own reconstruction, inspired by the paper.

Everything works on (centre, count) pairs: 10 million voxels are a histogram of 1024 bins, a few
hundred cases are their own values with a count of one each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import numpy as np
from scipy.special import expit

from napari_noisylabel.errors import BadSetting, InputError, ShapeMismatch

START = (0.25, 0.75)  # quantiles of the scores at which the two means start
VARIANCE_FLOOR = 5e-4  # added to each variance; keeps duplicates (many zero losses) from a collapse
TOLERANCE = 1e-8  # nats per score; at 1e-4, errors in 1 of 100 voxels (4 sd off) are missed
MAX_ITERATIONS = 1000
MIN_BIC_GAIN = 10.0
MIN_SEPARATION = 2.0  # in units of the root mean square of the two sds
KEEP_CLEAN = 0.2  # share of lowest scores that no fit may call noisy
MAX_INDEPENDENT = 10_000  # neighbouring voxels are no independent samples: more prove nothing
MIN_SCORES = 10


@dataclass(frozen=True)
class Mixture:
    """A two-component Gaussian mixture; component 0, with the smaller mean, is the clean one.

    `split` is False where the guards refused it, `reason` says in words why (or why not).
    Scores up to `clean_below` are clean whatever the fit says. `n` is the number of scores,
    `log_likelihood` their mean log density in nats, `iterations` how many the fit took (0 and 0
    where there was nothing to fit).
    """

    means: tuple[float, float]
    sds: tuple[float, float]
    weights: tuple[float, float]
    split: bool
    reason: str
    n: float
    clean_below: float
    log_likelihood: float
    iterations: int


def fit_mixture(
    counts: np.ndarray, centers: np.ndarray, effective_n: float | None = None, min_gain: float = MIN_BIC_GAIN
) -> Mixture:
    """Fit two Gaussians to a histogram by expectation maximisation, then ask whether they are two.

    Parameters
    ----------
    counts : (N,) how many scores each bin holds; whole numbers or weights, none negative.
    centers : (N,) finite; the score of each bin, any order. Use 1024 bins or more.
    effective_n : how many independent scores the counts are worth, for the guard. By default
        their sum, but not over 10 000, because neighbouring voxels repeat each other.
    min_gain : by how much two components must beat one in BIC. 10 suits scores of any shape; among a
        few dozen scores that are normal where they are clean, 10 hides groups that are plain to see.

    Returns
    -------
    A `Mixture`. It is split if two components beat one by more than `min_gain` in BIC and their means
    are over two (pooled) sds apart. Fewer than 10 scores, or equal ones, are never split.

    Raises
    ------
    ShapeMismatch : not one count per centre.
    BadSetting : `effective_n` is not above 0.
    InputError : a negative or not finite count, a centre that is not finite, no score at all.

    Source: reconstruction inspired by Dong et al., Medical Physics 2025; see the module.
    """
    centers, counts = _checked(counts, centers)
    if effective_n is not None and not effective_n > 0:
        raise BadSetting(f"effective_n must be above 0, got {effective_n}. Leave it out if it is not known.")
    n = float(counts.sum())
    independent = min(n, MAX_INDEPENDENT) if effective_n is None else effective_n
    share = counts / n
    mean = float(share @ centers)
    variance = float(share @ (centers - mean) ** 2)
    clean_below = float(_quantiles(centers, share, (KEEP_CLEAN,))[0])
    if n < MIN_SCORES or variance == 0.0:
        few = f"{n:g} scores are too few, a split needs {MIN_SCORES}"
        reason = "no split: " + (few if n < MIN_SCORES else "all scores are equal")
        sd = variance**0.5
        return Mixture((mean, mean), (sd, sd), (1.0, 0.0), False, reason, n, clean_below, 0.0, 0)

    means, variances, weights, log_likelihood, iterations = _em(centers, share, variance)
    gain = _bic_gain(log_likelihood, variance, independent)
    separation = float((means[1] - means[0]) / np.sqrt(variances.mean()))
    split, reason = _judge(gain, separation, min_gain)
    return Mixture(
        means=_pair(means),
        sds=_pair(np.sqrt(variances)),
        weights=_pair(weights),
        split=split,
        reason=reason,
        n=n,
        clean_below=clean_below,
        log_likelihood=log_likelihood,
        iterations=iterations,
    )


def fit_mixture_samples(values: np.ndarray, min_gain: float = MIN_BIC_GAIN) -> Mixture:
    """Fit two Gaussians to a few scores: one per case, or one per region.

    `values` is (N,); NaN means "has no score" and is left out. The order does not matter, to the
    last bit. Beyond some ten thousand values a histogram and `fit_mixture` are faster.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    centers, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    return fit_mixture(counts, centers, float(counts.sum()), min_gain)


def posterior(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """P(noisy) of scores: never falls where the score rises.

    `x` has any shape, the result is float64 of that shape in [0, 1]. It is 0 below the clean
    mean and 1 above the noisy one, where two Gaussians of different width would turn round; 0 up
    to `clean_below`, for NaN (no score), and everywhere if the mixture is not split.
    """
    x = np.asarray(x, dtype=np.float64)
    if not mixture.split:
        return np.zeros(x.shape)
    means, sds, weights = (np.asarray(p) for p in (mixture.means, mixture.sds, mixture.weights))
    clean, noisy = _log_parts(np.clip(x.ravel(), *means), means, sds**2, weights)
    p = np.where(x > means[1], 1.0, expit(noisy - clean).reshape(x.shape))
    return np.where((x >= means[0]) & (x > mixture.clean_below), p, 0.0)


def posterior_lut(mixture: Mixture, levels: np.ndarray) -> np.ndarray:
    """P(noisy) of every level a stored score can have, as (N,) uint8: 255 = surely noisy.

    `levels` (N,) is the score that code 0, 1, ... N-1 stands for, so that
    `posterior_lut(mixture, levels)[codes]` is the likelihood map of a case.
    """
    return np.rint(posterior(mixture, levels) * 255).astype(np.uint8)


# ---------------------------------------------------------------- the fit


def _em(x: np.ndarray, share: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """Means (rising), variances, weights (2,); the mean log-likelihood; how many iterations."""
    means = _quantiles(x, share, START)
    if means[0] == means[1]:  # half of the scores are equal, and equal components never part
        means = means + np.array([-0.5, 0.5]) * variance**0.5
    variances, weights = np.full(2, 0.5 * variance + VARIANCE_FLOOR), np.full(2, 0.5)
    history = [-np.inf]
    while len(history) <= MAX_ITERATIONS:
        parts = _log_parts(x, means, variances, weights)
        total = np.logaddexp(parts[0], parts[1])
        history.append(float(share @ total))
        if abs(history[-1] - history[-2]) < TOLERANCE:
            break
        responsibilities = np.exp(parts - total) * share
        weights = np.maximum(responsibilities.sum(axis=1), np.finfo(float).tiny)
        means = responsibilities @ x / weights
        variances = (responsibilities * (x - means[:, None]) ** 2).sum(axis=1) / weights + VARIANCE_FLOOR
    order = np.argsort(means, kind="stable")
    return means[order], variances[order], weights[order], history[-1], len(history) - 1


def _log_parts(x: np.ndarray, means: np.ndarray, variances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """log(weight x density) of each component: (2, N)."""
    constant = np.log(weights) - 0.5 * np.log(2 * pi * variances)
    return constant[:, None] - 0.5 * (x - means[:, None]) ** 2 / variances[:, None]


def _bic_gain(log_likelihood: float, variance: float, n: float) -> float:
    """By how much two Gaussians (5 numbers) beat one (2 numbers) of this variance on `n` scores."""
    floored = variance + VARIANCE_FLOOR
    one = -0.5 * (log(2 * pi * floored) + variance / floored)
    return 2 * n * (log_likelihood - one) - 3 * log(n)


def _judge(gain: float, separation: float, min_gain: float) -> tuple[bool, str]:
    apart = f"means {separation:.2f} sd apart"
    if gain <= min_gain:
        return False, f"no split: two components are no better than one (BIC gain {gain:.0f})"
    if separation <= MIN_SEPARATION:
        return False, f"no split: {apart}, a split needs more than {MIN_SEPARATION:g}"
    return True, f"split: {apart}, BIC gain {gain:.0f}"


# ---------------------------------------------------------------- what goes in


def _checked(counts: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres in rising order and their counts, empty bins left out, as float64."""
    counts = np.asarray(counts, dtype=np.float64)
    centers = np.asarray(centers, dtype=np.float64)
    if counts.ndim != 1 or counts.shape != centers.shape:
        raise ShapeMismatch(
            f"a mixture needs one count per bin centre: counts {counts.shape}, centers {centers.shape}. "
            "Hand over the middles of the bins, not their edges."
        )
    if not (np.isfinite(counts).all() and (counts >= 0).all() and np.isfinite(centers).all()):
        raise InputError(
            "counts must be 0 or more and scores finite: a negative, infinite or NaN value came in. "
            "Clip the scores before they are counted."
        )
    order = np.argsort(centers, kind="stable")
    order = order[counts[order] > 0]
    if not order.size:
        raise InputError("a mixture needs at least one score: all counts are 0. Score some cases first.")
    return centers[order], counts[order]


def _quantiles(centers: np.ndarray, share: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
    place = np.searchsorted(np.cumsum(share), at)
    return centers[np.minimum(place, len(centers) - 1)]


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
