from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from napari_noisylabel.methods.label_habit import SHARED, Habit, as_pairs, follows, label_displacement, shared_habit
from napari_noisylabel.records import IGNORE

SPACING = (2.0, 1.0)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    labels = np.zeros((30, 40), np.uint8)
    labels[top:bottom, left:right] = 1
    return labels


def habit_of(displacements: list[float], found: float, n_verified: int = 1) -> Habit:
    """Of one class; a voxel is 1 mm."""
    table = np.array([[np.nan, d] for d in displacements])
    return shared_habit(table, np.array([0.0, found]), np.array([0, n_verified]), 1.0)


def test_a_label_that_is_too_large_is_displaced_by_less_than_nothing():
    opinion = box(8, 8, 20, 30)
    for labels, expected in ((box(8, 7, 20, 31), -1.0), (box(8, 9, 20, 29), 1.0), (opinion, 0.0)):
        # the two sides of 12 voxels moved by 1 mm, those of 22 or so did not
        found = label_displacement(labels, opinion, 2, SPACING, None)
        assert np.isnan(found[0]) or found[0] == 0
        assert np.sign(found[1]) == np.sign(expected) and abs(found[1]) <= 1


def test_a_label_that_is_a_ring_too_large_is_off_by_a_voxel():
    found = label_displacement(box(7, 7, 21, 31), box(8, 8, 20, 30), 2, (1.0, 1.0), None)
    assert found[1] == pytest.approx(-1, abs=0.05)


def test_what_is_not_annotated_and_what_one_of_the_two_lacks_has_no_displacement():
    opinion, labels = box(8, 8, 20, 30), box(8, 8, 20, 30)
    labels[:, 25:] = IGNORE
    assert label_displacement(labels, opinion, 2, SPACING, None)[1] == 0
    assert np.isnan(label_displacement(box(0, 0, 0, 0), opinion, 2, SPACING, None)[1])


def test_what_all_labels_share_is_their_median_and_one_lost_piece_does_not_move_it():
    rng = np.random.default_rng(0)
    displacements = [*rng.normal(-0.7, 0.15, 30), 6.0]
    found = habit_of(displacements, found=-0.65)
    assert found.shared[1] == np.median(displacements) and found.spread[1] == pytest.approx(0.15, abs=0.06)
    assert found.shared[0] == 0


@pytest.mark.parametrize("found", [0.0, 0.6, np.nan])
def test_verified_cases_must_have_found_it_too(found):
    assert not habit_of([-0.7] * 20, found).shared.any()
    assert habit_of([-0.7] * 20, -0.6).shared[1] == -0.7


def test_where_cases_differ_much_one_verified_case_proves_little_and_four_prove_more():
    displacements = list(-0.7 + 0.3 * norm.ppf((np.arange(40) + 0.5) / 40))
    assert not habit_of(displacements, -0.7, n_verified=1).shared.any()
    assert habit_of(displacements, -0.7, n_verified=4).shared[1] == pytest.approx(-0.7, abs=0.02)


def test_what_is_not_sure_in_one_class_may_be_in_three_together():
    spread = 0.3 * norm.ppf((np.arange(40) + 0.5) / 40)
    for n_classes, same_way, expected in ((1, True, 0), (3, True, 3), (3, False, 0)):
        shared = -0.6 * np.where(np.arange(n_classes) % 2, 1 if same_way else -1, 1)
        table = np.column_stack([np.full(40, np.nan), *(s + spread for s in shared)])
        n = np.array([0] + [1] * n_classes)
        found = shared_habit(table, np.concatenate([[0], shared]), n, 1.0)
        assert np.count_nonzero(found.shared) == expected


def test_a_class_that_no_case_shows_has_no_habit():
    assert not habit_of([np.nan, np.nan], -0.7).shared.any()
    assert not habit_of([-0.7] * 9, -0.7, n_verified=0).shared.any()


def test_a_label_follows_the_habit_by_bayes_rule():
    habit = Habit(np.array([0.0, -0.7, 0.8]), np.array([0.1, 0.2, 0.3]))
    for own in (-1.2, -0.7, -0.3, 0.0, 0.5):
        displacement = np.array([0.0, own, own])
        found = follows(habit, displacement)
        for k in (1, 2):
            with_it = SHARED * norm.pdf(own, habit.shared[k], habit.spread[k])
            without = (1 - SHARED) * norm.pdf(own, 0, habit.spread[k])
            assert found[k] == pytest.approx(with_it / (with_it + without), abs=1e-6)
    assert found[0] == 0 and follows(habit, np.full(3, np.nan)).tolist() == [0, 0, 0]


def test_a_label_at_its_true_place_is_left_alone():
    habit = Habit(np.array([0.0, -0.7]), np.array([0.1, 0.2]))
    assert follows(habit, np.array([0.0, 0.0]))[1] < 0.05 < 0.99 < follows(habit, np.array([0.0, -0.7]))[1]


def test_what_is_too_large_may_become_background_and_background_what_is_too_small():
    habit = Habit(np.array([0.0, -0.7, 0.8]), np.ones(3))
    np.testing.assert_array_equal(as_pairs(habit, np.array([0.0, 0.9, 0.8])), [[0, 0, 0.8], [0.9, 0, 0], [0, 0, 0]])
