"""How a class is learnt: the curve of its training IoU, and the epoch from which it is memorised.

The detection of ADELE, S. Liu et al., "Adaptive Early-Learning Correction for Segmentation from
Noisy Annotations", CVPR 2022 (arXiv 2110.03740), in the form of the released code:
f(t) = a (1 - exp(-t^b / c)). A class counts as learnt where the slope of that curve has fallen by
`change` (0.9) of what it was in epoch 1; what the network learns from then on is noise.

`iou` are values between 0 and 1 at equal distances, oldest first; x and t are epochs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

START = (1.0, 1.0, 1.0)
OLDEST, NEWEST = 1.0, 0.1  # sigma of the first and the last point: late epochs weigh up to 100 times more
SHIFT = 1e-6  # added to t in the slope
SMALLEST = 1e-9  # c may be 0, but nothing is divided by it


class LearningCurve(NamedTuple):
    """The parameters of f(t) = a (1 - exp(-t^b / c)), 0 <= a, b <= 1, 0 <= c."""

    a: float
    b: float
    c: float

    def at(self, t: np.ndarray) -> np.ndarray:
        """f(t) for t >= 0."""
        return curve(t, *self)


def curve(t: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """f(t) = a (1 - exp(-t^b / c)); the publication writes b for 1/c and c for b."""
    return a * -np.expm1(-(np.asarray(t, np.float64) ** b) / max(c, SMALLEST))


def places(n: int, epochs_per_point: float = 1.0) -> np.ndarray:
    """(n,) x of n points: equal steps from 0 to n epochs inclusive, as in the released code."""
    return np.linspace(0, n * epochs_per_point, n)


def fit_curve(iou: Sequence[float], epochs_per_point: float = 1.0) -> LearningCurve | None:
    """Least squares (trust region) through the points; None where that finds nothing.

    Weights rise from the oldest to the newest point, sigma from 1 to 0.1 in equal ratios.
    """
    n = len(iou)
    if not n:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # a covariance, which nobody asks for
            found, _ = curve_fit(
                curve, places(n, epochs_per_point), np.asarray(iou, np.float64), START,
                sigma=np.geomspace(OLDEST, NEWEST, n), bounds=((0, 0, 0), (1, 1, np.inf)), method="trf",
            )  # fmt: skip
    except RuntimeError:  # no minimum within the allowed evaluations
        return None
    return LearningCurve(*(float(v) for v in found))


def late_start(iou: Sequence[float], rule: str, least: float) -> int:
    """How many leading points are left out of the fit.

    "level": all before the last one that is not above `least`, so that a class which is learnt
    late starts its curve when it starts to rise. "gain": as the released code does, while the next
    point is less than `least` higher; a class that never gains so much loses all its points.
    "none": none.
    """
    values = np.asarray(iou, np.float64)
    if rule == "none" or not len(values):
        return 0
    begins = values > least if rule == "level" else np.append(np.diff(values) >= least, False)
    if not begins.any():
        return len(values)
    first = int(begins.argmax())
    return max(0, first - 1) if rule == "level" else first


def slope_change(fit: LearningCurve, epochs: int) -> np.ndarray:
    """(epochs - 1,) share by which the slope at t = 1, 2, .. differs from that at t = 1.

    Values above 1 count as 0: a curve that still gets steeper is not yet learnt. The ratio of the
    slopes is computed as one expression, which does not vanish where both slopes do.
    """
    t, first = np.arange(1, epochs) + SHIFT, 1 + SHIFT
    with np.errstate(under="ignore"):
        ratio = (t / first) ** (fit.b - 1) * np.exp((first**fit.b - t**fit.b) / max(fit.c, SMALLEST))
    change = np.abs(ratio - 1)
    return np.where(change > 1, 0.0, change)


def trigger_epoch(fit: LearningCurve, epochs: int, change: float, skipped: float = 0.0) -> float:
    """t* = skipped + 1 + how many t in 1 .. epochs - 1 have a slope change of at most `change`.

    The class is switched on once t* + 1 epochs are finished. For b = 1 it is 1 + c ln(1/(1 - change)),
    rounded. `skipped` are the epochs left out of the fit.
    """
    return skipped + 1 + float((slope_change(fit, epochs) <= change).sum())
