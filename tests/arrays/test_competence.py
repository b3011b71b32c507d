from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.competence import FAR, TAKEN_UP, learnt
from napari_noisylabel.arrays.likelihood import axes_of_array
from napari_noisylabel.arrays.metrics import dice

FAR_OFF, NEAR = FAR + 1, FAR - 1
POOR, GOOD = TAKEN_UP - 0.1, TAKEN_UP + 0.1


def column(value, n=5):
    return np.full((n, 1), value)


@pytest.mark.parametrize(
    ("distance", "dice", "expected"),
    [(FAR_OFF, POOR, False), (FAR_OFF, GOOD, True), (NEAR, POOR, True), (NEAR, GOOD, True)],
)
def test_a_class_is_not_learnt_where_networks_are_far_from_its_labels_in_voxels_and_in_dice(distance, dice, expected):
    assert learnt(column(distance), column(dice)) == [expected]


def test_a_network_that_is_closer_to_the_labels_it_was_trained_on_than_to_others_has_begun_to_learn_them():
    seen, poor = column(FAR_OFF), column(POOR)
    assert learnt(seen, poor, unseen=column(FAR_OFF)) == [False]
    assert learnt(seen, poor, unseen=column(1.3 * FAR_OFF)) == [True]
    assert learnt(seen, poor, unseen=column(np.nan)) == [False]


def test_a_few_bad_cases_do_not_make_a_class_unlearnt_and_a_few_good_ones_do_not_make_it_learnt():
    few_bad = np.array([[NEAR], [NEAR], [NEAR], [9.0], [9.0]])
    assert learnt(few_bad, np.where(few_bad > 5, 0.1, GOOD)) == [True]
    few_good = np.array([[FAR_OFF], [FAR_OFF], [FAR_OFF], [0.1], [0.1]])
    assert learnt(few_good, np.where(few_good < 1, 1.0, POOR)) == [False]


def test_what_nobody_measured_speaks_against_no_class_and_classes_are_judged_one_by_one():
    distances = np.array([[np.nan, FAR_OFF, FAR_OFF], [np.nan, np.nan, FAR_OFF]])
    overlaps = np.array([[np.nan, POOR, np.nan], [np.nan, np.nan, np.nan]])
    assert learnt(distances, overlaps).tolist() == [True, False, True]
    assert learnt(np.zeros((0, 2)), np.zeros((0, 2))).tolist() == [True, True]


def test_overlap_is_dice_of_one_class():
    a, b = np.array([0, 1, 1, 2]), np.array([1, 1, 2, 2])
    assert dice(a == 1, b == 1) == 0.5 and dice(a == 2, b == 2) == pytest.approx(2 / 3)
    assert np.isnan(dice(a == 3, b == 3))


def test_axes_of_a_volume_are_those_of_its_slices_where_slices_have_them():
    assert axes_of_array((1, 2), 2) == [0, 1] and axes_of_array((0, 1, 2), 2) == [0, 1]
    assert axes_of_array((1, 2), 3) == [1, 2] and axes_of_array((0, 1, 2), 3) == [0, 1, 2]
