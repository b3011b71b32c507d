"""Several opinions on the same voxels become one: how sure each may be, how much it counts, who agrees.

Opinions are class probabilities (K, *spatial). Each is first tempered, so that its confidence is
what experience bears out (Guo et al., "On calibration of modern neural networks", ICML 2017), then they are
mixed with weights under which the mixture explains best what was seen (stacking: Breiman, 1996; as a
mixture of densities: Smyth and Wolpert, 1999).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

LEAST = 1e-3
"""No opinion says less than this of any class: one that is sure and wrong must not veto the others."""

PRIOR = 0.2
"""Equal weights count as much as this share of the evidence."""

TEMPERATURES = 0.25, 4.0
ROUNDS = 200
STILL = 1e-6


def temperature(probs: np.ndarray, truth: np.ndarray) -> float:
    """The T in [0.25, 4] for which `tempered(probs, T)` gives `truth` the largest likelihood.

    probs (K, N), truth (N,) class indices. Over 1: the opinion was too sure of itself. 1 without voxels.
    """
    if not truth.size:
        return 1.0
    logs = np.log(np.maximum(np.asarray(probs, np.float64), LEAST))
    at = np.arange(truth.size)

    def loss(log_t: float) -> float:
        scaled = logs / np.exp(log_t)
        top = scaled.max(0)
        return float(np.mean(top + np.log(np.exp(scaled - top).sum(0)) - scaled[truth, at]))

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def tempered(probs: np.ndarray, t: float) -> np.ndarray:
    """softmax(log p / T): probs (K, *spatial) -> float32 of the same shape, adding up to 1."""
    powers = np.maximum(np.asarray(probs, np.float32), np.float32(LEAST)) ** np.float32(1 / t)
    return powers / powers.sum(0)


def stacking_weights(likelihoods: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """(M,) weights >= 0 that add up to 1, from what each of M opinions said of the truth of N voxels.

    Expectation maximisation of sum_n log sum_m w_m L[m, n], which has one maximum; the step pulls
    towards equal weights as strongly as `prior` x N voxels of indifferent evidence.

    Parameters
    ----------
    likelihoods : (M, N) probability that opinion m gave to the true class of voxel n.
    """
    m, n = likelihoods.shape
    weights = np.full(m, 1 / m)
    for _ in range(ROUNDS if n else 0):
        shares = weights[:, None] * likelihoods
        shares /= np.maximum(shares.sum(0), 1e-12)
        new = (shares.mean(1) + prior / m) / (1 + prior)
        moved, weights = np.abs(new - weights).max(), new
        if moved < STILL:
            break
    return weights


def pooled(opinions: Sequence[np.ndarray], temperatures: Sequence[float], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of the tempered opinions (K, *spatial), float32, adding up to 1."""
    out = np.zeros(opinions[0].shape, np.float32)
    for probs, t, weight in zip(opinions, temperatures, weights, strict=True):
        out += np.float32(weight) * tempered(probs, t)
    return out


def extremised(share: np.ndarray) -> np.ndarray:
    """How sure several opinions are together, from their weighted mean in [0, 1]: its odds squared.

    A mean of opinions is less sure than each of them deserves, as all speak from partly different evidence (Ranjan and
    Gneiting, JRSS B 72, 2010); so odds are raised to a power over 1 (Satopaa et al., Int. J. Forecasting 30,
    2014). With 2, two thirds of the weight give 0.8, a half stays a half.
    """
    squared, other = np.square(share), np.square(1 - share)
    return squared / (squared + other)


def contested(opinions: Sequence[np.ndarray], sure: float = 0.95) -> np.ndarray:
    """(*spatial) bool: voxels of which not all opinions (K, *spatial) are equally and surely of one class."""
    first = opinions[0].argmax(0)
    settled = np.ones(first.shape, bool)
    for probs in opinions:
        settled &= (probs.argmax(0) == first) & (probs.max(0) >= sure)
    return ~settled
