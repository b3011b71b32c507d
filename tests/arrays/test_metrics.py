"""Measures agree with their definitions written out, and say NaN where they have none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_noisylabel import records
from napari_noisylabel.arrays.metrics import (
    IGNORE,
    assd,
    auroc,
    average_precision,
    confusion_matrix,
    dice,
    dice_per_class,
    error_rate,
    hd95,
    iou,
    iou_per_class,
    per_class,
    signed_distance,
    surface,
    surface_distances,
)
from napari_noisylabel.errors import InputError, ShapeMismatch

SHAPE, SPACING = (4, 6, 7), (2.5, 0.7, 1.1)
EMPTY, FULL = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


# ---------------------------------------------------------------- overlap


def test_overlap_counts_voxels():
    a, b = np.array([[1, 1, 1, 0, 0]], bool), np.array([[0, 1, 1, 1, 1]], bool)

    assert dice(a, b) == 2 * 2 / (3 + 4)
    assert iou(a, b) == 2 / 5
    assert (dice(a, a), iou(a, a), dice(a, ~a), iou(a, ~a)) == (1, 1, 0, 0)


def test_nothing_against_nothing_is_undefined_and_nothing_against_something_is_zero():
    assert math.isnan(dice(EMPTY, EMPTY)) and math.isnan(iou(EMPTY, EMPTY))
    assert dice(EMPTY, FULL) == iou(EMPTY, FULL) == 0


def test_every_class_is_measured_by_itself_and_unknown_voxels_by_none(rng):
    labels, truth = rng.integers(0, 4, (2, *SHAPE), dtype=np.uint8)
    labels[labels == 2] = truth[truth == 2] = 0  # a class in neither
    labels[0, 0], truth[1, 1] = IGNORE, IGNORE
    known = (labels != IGNORE) & (truth != IGNORE)

    for found, measure in ((dice_per_class, dice), (iou_per_class, iou)):
        expected = [measure((labels == k) & known, (truth == k) & known) for k in range(4)]
        np.testing.assert_allclose(found(labels, truth, 4), expected)
        np.testing.assert_allclose(per_class(measure, labels, truth, 4), expected)
        assert np.isnan(expected[2])


def test_the_confusion_matrix_has_labels_down_and_truth_across():
    labels, truth = np.array([[0, 1, 1, 2, 2]]), np.array([[0, 0, 1, 1, IGNORE]])

    assert confusion_matrix(labels, truth, 3).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_this_room_and_the_records_agree_on_what_is_unknown():
    assert IGNORE == records.IGNORE


def test_the_error_rate_is_the_share_of_known_voxels_that_differ():
    labels = np.array([[0, 1, 2, IGNORE, 1]], np.uint8)
    truth = np.array([[0, 2, 2, 1, IGNORE]], np.uint8)

    assert error_rate(labels, truth) == 1 / 3
    assert math.isnan(error_rate(labels, np.full_like(truth, IGNORE)))


# ---------------------------------------------------------------- distance


def slow_surface(mask) -> list[tuple[int, ...]]:
    """Voxels with a neighbour across a face that is not in the mask, or not in the array."""
    faces = [step * sign for step in np.eye(mask.ndim, dtype=int) for sign in (-1, 1)]
    inside = {tuple(i) for i in np.argwhere(mask).tolist()}
    return [i for i in sorted(inside) if any(tuple(np.add(i, f).tolist()) not in inside for f in faces)]


def slow_distances(a, b, spacing) -> np.ndarray:
    ends = np.array(slow_surface(b)) * spacing
    return np.array([np.linalg.norm(ends - np.multiply(i, spacing), axis=1).min() for i in slow_surface(a)])


def test_the_surface_are_voxels_with_a_face_to_the_outside(rng):
    mask = rng.random(SHAPE) < 0.85

    assert [tuple(i) for i in np.argwhere(surface(mask)).tolist()] == slow_surface(mask)
    assert [tuple(i) for i in np.argwhere(surface(FULL)).tolist()] == slow_surface(FULL)
    assert mask.sum() > surface(mask).sum() > 0


@pytest.mark.parametrize("shape, spacing", [(SHAPE, SPACING), ((6, 9), (3.0, 0.4))])
def test_surface_measures_agree_with_all_pairs_of_voxels(rng, shape, spacing):
    for share in (0.1, 0.5, 0.9):
        a, b = rng.random((2, *shape)) < share
        to_b, to_a = slow_distances(a, b, spacing), slow_distances(b, a, spacing)

        np.testing.assert_allclose(surface_distances(a, b, spacing)[0], to_b, rtol=1e-5)
        expected = max(np.percentile(to_b, 95), np.percentile(to_a, 95))
        assert hd95(a, b, spacing) == pytest.approx(expected, rel=1e-5)
        assert assd(a, b, spacing) == pytest.approx(np.r_[to_b, to_a].mean(), rel=1e-5)


def test_a_shifted_box_is_as_far_off_as_it_was_shifted():
    a = np.zeros((5, 12, 20), bool)
    a[1:4, 2:9, 3:10] = True
    shifted = np.roll(a, 4, axis=2)

    assert hd95(a, shifted, (3, 1, 0.5)) == pytest.approx(2)
    assert 0 < assd(a, shifted, (3, 1, 0.5)) < 2
    assert hd95(a, a, (3, 1, 0.5)) == assd(a, a, (3, 1, 0.5)) == 0


@pytest.mark.parametrize("a, b", [(EMPTY, EMPTY), (EMPTY, FULL), (FULL, EMPTY)])
def test_the_distance_to_nothing_is_undefined(a, b):
    assert math.isnan(hd95(a, b, SPACING)) and math.isnan(assd(a, b, SPACING))


def test_distances_are_measured_per_class():
    truth = np.zeros((3, 4, 10), np.uint8)
    truth[:, :, 2:5] = 1
    labels = np.roll(truth, 2, axis=2)

    background, organ, missing = per_class(hd95, labels, truth, 3, (5, 5, 0.5))

    assert organ == pytest.approx(1.0)
    assert background > 0 and math.isnan(missing)


def test_the_signed_distance_is_negative_inside_and_never_zero():
    mask = np.array([[0, 0, 1, 1, 1, 0]], bool)

    assert signed_distance(mask, (9, 2)).tolist() == [[4, 2, -2, -4, -2, 2]]
    assert signed_distance(mask, (9, 2)).dtype == np.float32
    assert np.isposinf(signed_distance(EMPTY, SPACING)).all()
    assert np.isneginf(signed_distance(FULL, SPACING)).all()


# ---------------------------------------------------------------- ranking


def slow_average_precision(score, wrong) -> float:
    """Threshold by threshold, from the highest."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(score.tolist()), reverse=True):
        above = score >= threshold
        gained = (wrong & above).sum() / wrong.sum()
        area += (gained - recall) * (wrong & above).sum() / above.sum()
        recall = gained
    return area


def slow_auroc(score, wrong) -> float:
    """Pair by pair."""
    wins = [(w > r) + 0.5 * (w == r) for w in score[wrong].tolist() for r in score[~wrong].tolist()]
    return sum(wins) / len(wins)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
@settings(max_examples=60)
def test_ranking_agrees_with_its_definition_counted_or_sorted(voxels):
    score, wrong = np.array(voxels, int).T
    wrong = wrong.astype(bool)
    if wrong.all() or not wrong.any():
        return
    counted = (score.astype(np.uint8), score.astype(np.uint16) * 9000)
    for typed in (*counted, score - 3, score.astype(np.float32) / 7):
        assert average_precision(typed, wrong) == pytest.approx(slow_average_precision(typed, wrong))
        assert auroc(typed, wrong) == pytest.approx(slow_auroc(typed, wrong))


def test_a_perfect_score_is_one_and_a_blind_one_is_chance(rng):
    wrong = rng.random(SHAPE) < 0.2

    assert average_precision(wrong.astype(np.float32), wrong) == auroc(wrong, wrong) == 1
    assert average_precision(np.zeros(SHAPE, np.uint16), wrong) == pytest.approx(wrong.mean())
    assert auroc(np.zeros(SHAPE), wrong) == 0.5


def test_infinite_scores_have_their_place():
    assert auroc(np.array([-np.inf, 0.0, 1.0, np.inf]), np.array([False, False, True, True])) == 1


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_without_wrong_or_without_right_voxels_ranking_is_undefined(dtype):
    score, nothing, everything = np.arange(5, dtype=dtype), np.zeros(5, bool), np.ones(5, bool)

    assert math.isnan(average_precision(score, nothing)) and math.isnan(auroc(score, nothing))
    assert average_precision(score, everything) == 1 and math.isnan(auroc(score, everything))


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="NaN"):
        average_precision(np.array([0.5, np.nan]), np.array([True, False]))


@pytest.mark.parametrize("measure", [dice, iou, average_precision, auroc, error_rate])
def test_arrays_of_different_shape_are_refused(measure):
    with pytest.raises(ShapeMismatch, match="differ in shape"):
        measure(EMPTY, EMPTY[:, :-1])


@pytest.mark.parametrize("measure", [surface_distances, hd95, assd])
def test_masks_of_different_shape_have_no_distance(measure):
    with pytest.raises(ShapeMismatch, match="differ in shape"):
        measure(EMPTY, EMPTY[:, :-1], SPACING)


@pytest.mark.parametrize("measure", [confusion_matrix, dice_per_class, iou_per_class])
def test_maps_of_different_shape_are_refused(measure):
    with pytest.raises(ShapeMismatch, match="labels and truth differ in shape"):
        measure(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
    with pytest.raises(ShapeMismatch):
        per_class(dice, np.zeros((2, 3), int), np.zeros((3, 2), int), 2)


@pytest.mark.parametrize("measure", [hd95, assd, signed_distance])
def test_a_spacing_for_other_axes_is_refused(measure):
    masks = (EMPTY,) if measure is signed_distance else (EMPTY, EMPTY)
    with pytest.raises(ShapeMismatch, match="one value per axis"):
        measure(*masks, (1, 2))
