"""How much each feature says about the class: f-mutual information with the noisy labels.

Z. Zhu, J. Wang, Y. Liu, "Beyond Images: Label Noise Transition Matrix Estimation for Tasks with
Lower-Quality Features", ICML 2022 (arXiv 2202.01273). Noisy labels are enough: for two classes, and
for symmetric noise among more, the total variation of a feature and the noisy label is that of the
feature and the true class times one factor, so the order of the features is the same.

Shapes: N examples, M features, K classes.
"""

from __future__ import annotations

import numpy as np

from napari_noisylabel.errors import InputError

BINS = 63  # of a feature's histogram, between its percentiles PERCENTILES, as in the released code
PERCENTILES = (0.5, 99.5)
SMALLEST_WEIGHT = 1e-8
CONSTANT = 1e-5
"""A standard deviation below this is that of a feature with one value: float16 images vary by more."""
NULL_DIRECTION = 1e-6
"""Directions with less of the largest variance than this carry rounding alone."""


def varying(values: np.ndarray) -> np.ndarray:
    """(M,) bool: which columns of `values` (N, M) have more than one value."""
    return np.asarray(values.std(axis=0) > CONSTANT)


def standardised(values: np.ndarray) -> np.ndarray:
    """Columns of `values` (N, M) with mean 0 and standard deviation 1, float64.

    Raises
    ------
    InputError : a column has one value everywhere; it cannot be scaled, and says nothing.
    """
    constant = np.flatnonzero(~varying(values))
    if constant.size:
        raise InputError(
            f"a feature must vary to tell classes apart: column {int(constant[0])} has the value "
            f"{float(values[0, constant[0]]):g} for all {len(values)} examples. Leave it out."
        )
    wide = values.astype(np.float64)
    return (wide - wide.mean(axis=0)) / wide.std(axis=0)


def decoupled(values: np.ndarray) -> np.ndarray:
    """Uncorrelated features of root mean square 1, from standardised ones: (N, M) -> (N, at most M).

    The eigenvectors of X'X / N; directions in which nothing varies are dropped. (The released code
    keeps them, as rounding errors blown up.)
    """
    variance, directions = np.linalg.eigh(values.T @ values / len(values))
    kept = variance > NULL_DIRECTION * variance.max()
    projected: np.ndarray = values @ directions[:, kept]
    return projected / np.sqrt((projected**2).mean(axis=0))


def f_mutual_information(
    values: np.ndarray, labels: np.ndarray, n_classes: int, divergence: str = "tv", label_bins: int = 0
) -> np.ndarray:
    """f-mutual information of each feature with the label, (M,).

    Parameters
    ----------
    values : (N, M).
    labels : (N,) class indices 0..K-1, noisy.
    n_classes : K.
    divergence : "tv", half the sum of |P - Q|, in [0, 1]; or "kl", sum of P log(P / Q), in nats. P is
        the joint histogram of feature and label, Q the product of its margins.
    label_bins : bins of the labels; 0: one per class. The released script has 2, whatever K is.

    Returns
    -------
    0 for a feature with one value. Values outside the percentiles 0.5 and 99.5 are dropped.

    Source: the variational form in the paper, with its best g put in.
    """
    bins = label_bins or n_classes
    rows = _in_equal_bins(labels, labels.min(), labels.max(), bins) if label_bins else labels.astype(np.int64)
    limits = np.percentile(values, PERCENTILES, axis=0)
    information = np.zeros(values.shape[1])
    for m, (column, low, high) in enumerate(zip(values.T, *limits, strict=True)):
        if high > low:
            inside = (column >= low) & (column <= high)
            code = _in_equal_bins(column[inside], low, high, BINS) * bins + rows[inside]
            information[m] = _divergence(np.bincount(code, minlength=BINS * bins).reshape(BINS, bins), divergence)
    return information


def weights_from(information: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Weights (M,) in [0, 1] with largest 1: information less its minimum, over its maximum.

    So one column always weighs nearly nothing; `floor` is the least that any weighs.
    """
    above = information - information.min() + SMALLEST_WEIGHT
    weights: np.ndarray = above / above.max()
    return floor + (1 - floor) * weights


# ---------------------------------------------------------------- helpers


def _in_equal_bins(values: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    """Index of the bin of each value in [low, high]; the last bin holds `high`, too."""
    if high <= low:
        return np.zeros(len(values), np.int64)
    return np.minimum(((values - low) * (bins / (high - low))).astype(np.int64), bins - 1)


def _divergence(counts: np.ndarray, divergence: str) -> float:
    p = counts + np.finfo(np.float64).eps
    p = p / p.sum()
    q = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    return float(0.5 * np.abs(p - q).sum() if divergence == "tv" else (p * np.log(p / q)).sum())
