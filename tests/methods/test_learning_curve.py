from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from napari_noisylabel.methods.learning_curve import (
    LearningCurve,
    curve,
    fit_curve,
    late_start,
    places,
    slope_change,
    trigger_epoch,
)

VECTORS = [  # true (a, b, c); fitted; t* of the full curve; values seen when it fires, and t* then
    ((0.8, 1.0, 2.0), (0.800, 1.000, 2.066), 6, (8, 7)),
    ((0.9, 1.0, 4.0), (0.900, 1.000, 4.133), 11, (13, 11)),
    ((0.7, 0.6, 1.5), (0.700, 0.600, 1.530), 8, (9, 8)),
]


def iou_of(a: float, b: float, c: float, n: int = 31) -> np.ndarray:
    """The test curves: IoU at 0, 1, .. epochs."""
    return np.array([a * (1 - math.exp(-(t**b) / c)) for t in range(n)])


def fires(iou: np.ndarray, rule: str, least: float) -> tuple[int, float] | None:
    """After how many values a class is switched on if it is asked after each one, and its t*."""
    for n in range(4, len(iou) + 1):
        skipped = late_start(iou[:n], rule, least)
        fit = fit_curve(iou[skipped:n])
        if fit is not None and n - 1 >= (due := trigger_epoch(fit, 100, 0.9, skipped)):
            return n, due
    return None


@pytest.mark.parametrize(("true", "fitted", "full", "online"), VECTORS)
@pytest.mark.parametrize(("rule", "least"), [("gain", 0.1), ("level", 0.05)])
def test_the_published_form_is_fitted_and_triggers_as_the_test_vectors_say(true, fitted, full, online, rule, least):
    iou = iou_of(*true)
    fit = fit_curve(iou)
    assert fit == pytest.approx(fitted, abs=1e-3)
    assert trigger_epoch(fit, 100, 0.9, late_start(iou, rule, least)) == full
    assert fires(iou, rule, least) == online


def test_a_class_that_gains_slowly_never_triggers_as_released_but_does_by_its_level():
    iou = iou_of(0.8, 1.0, 8.0)
    assert late_start(iou, "gain", 0.1) == len(iou) and fires(iou, "gain", 0.1) is None
    assert fires(iou, "level", 0.05) == (22, 21)


@pytest.mark.parametrize("change", [0.8, 0.9, 0.97])
@pytest.mark.parametrize("c", [2.0, 4.0, 8.0, 3.3])
def test_without_a_bend_the_trigger_is_the_closed_form_rounded_up(c, change):
    closed = 1 + c * math.log(1 / (1 - change))
    assert trigger_epoch(LearningCurve(0.8, 1.0, c), 100, change) == math.floor(closed) + 1
    if change == 0.9 and c in (2, 4, 8):
        assert closed == pytest.approx({2: 5.6, 4: 10.2, 8: 19.4}[c], abs=0.05)


def test_the_change_of_slope_is_that_of_small_differences():
    for a, b, c in [(0.8, 1.0, 2.0), (0.7, 0.6, 1.5), (0.9, 0.3, 0.4)]:
        found = slope_change(LearningCurve(a, b, c), 12)
        slopes = [(curve(t + 1e-4, a, b, c) - curve(t - 1e-4, a, b, c)) / 2e-4 for t in range(1, 12)]
        np.testing.assert_allclose(found, [abs(abs(s) - slopes[0]) / slopes[0] for s in slopes], atol=1e-4)


def test_a_class_learnt_within_its_first_epoch_triggers_in_the_second():
    found = slope_change(LearningCurve(0.9, 1.0, 1e-4), 6)  # both slopes are 0 in floating point
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 1])
    assert trigger_epoch(LearningCurve(0.9, 1.0, 0.0), 6, 0.9) == 2


def test_a_limit_of_one_is_never_reached():
    for fit in (LearningCurve(0.8, 1.0, 2.0), LearningCurve(0.9, 0.4, 0.2), LearningCurve(0.9, 1.0, 0.0)):
        assert trigger_epoch(fit, 30, 1.0) == 30  # and 30 finished epochs are 29 past the first


@pytest.mark.parametrize(("true", "epochs_per_point"), [((0.7, 0.8, 3.0), 1.0), ((0.85, 0.6, 1.2), 0.25)])
def test_the_fit_is_the_weighted_least_squares_of_another_solver(true, epochs_per_point):
    rng = np.random.default_rng(0)
    n = 17
    x = np.array([i * n * epochs_per_point / (n - 1) for i in range(n)])
    iou = np.clip(curve(x, *true) + rng.normal(0, 0.02, n), 0, 1)
    sigma = [10 ** (-i / (n - 1)) for i in range(n)]

    def cost(p):
        return sum(
            ((y - p[0] * (1 - math.exp(-(t ** p[1]) / p[2]))) / s) ** 2 for t, y, s in zip(x, iou, sigma, strict=True)
        )

    fit = fit_curve(list(iou), epochs_per_point)
    other = least_squares(
        lambda p: [(y - p[0] * (1 - math.exp(-(t ** p[1]) / p[2]))) / s for t, y, s in zip(x, iou, sigma, strict=True)],
        (0.6, 0.7, 2.0), bounds=([0, 0, 1e-6], [1, 1, np.inf]), method="dogbox",
    )  # fmt: skip
    np.testing.assert_allclose(places(n, epochs_per_point), x)
    assert cost(fit) == pytest.approx(cost(other.x), rel=1e-4)
    assert all(cost(fit) <= cost(np.array(fit) * (1 + d)) + 1e-9 for d in np.eye(3) * 1e-3)


def test_a_late_class_starts_its_curve_where_it_rises():
    iou = [0.0, 0.02, 0.01, 0.04, 0.2, 0.4, 0.5, 0.55]
    assert late_start(iou, "level", 0.05) == 3
    assert late_start(iou, "gain", 0.1) == 3
    assert late_start(iou, "none", 0.05) == 0
    assert late_start([0.0, 0.01], "level", 0.05) == 2 and late_start([], "gain", 0.1) == 0
    assert late_start([0.6, 0.7], "level", 0.05) == 0


def test_without_points_there_is_no_curve():
    assert fit_curve([]) is None
