from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.methods.cleansing_guards import (
    Lost,
    at_least,
    lost_objects,
    object_volumes,
    over_the_cap,
    surplus,
    usual_number,
    without_specks,
    worth_redrawing,
)
from napari_noisylabel.records import IGNORE


def test_predicted_components_smaller_than_clean_objects_are_dropped():
    labels, pseudo = np.zeros((2, 5, 12, 14), np.uint8)
    labels[1:4, 2:6, 2:6], pseudo[1:4, 2:6, 2:7] = 1, 1  # grows by a column
    pseudo[2, 9, 9:11] = 1  # a speck of 2 voxels
    pseudo[4, 9:11, 3] = 2  # one of another class, which may be small
    found = without_specks(pseudo, labels, np.array([0.0, 3 * 1.5, 1.0]), (1.5, 1.0, 1.0))
    assert not found[2, 9].any() and (found[1:4, 2:6, 2:7] == 1).all() and (found[4, 9:11, 3] == 2).all()
    assert (pseudo[2, 9, 9:11] == 1).all()  # a new array


def test_an_object_is_lost_where_no_voxel_keeps_it_and_most_become_another_class():
    labels = np.zeros((10, 20), np.uint8)
    labels[1:4, 1:4], labels[1:4, 6:9], labels[1:4, 11:14], labels[6:9, 1:4] = 1, 1, 1, 2
    pseudo = labels.copy()
    pseudo[1:4, 1:4], pseudo[6:9, 1:4] = 0, 1
    pseudo[1:4, 6:9] = 0
    pseudo[2, 7] = 1  # one voxel stays
    pseudo[1:4, 11:14] = IGNORE  # left out is not deleted
    sure = np.full((10, 20), 0.9)
    sure[6:9] = 0.8
    found = lost_objects(labels, pseudo, sure, (2.0, 1.0))
    assert [(lost.k, lost.volume_mm3) for lost in found] == [(1, 18.0), (2, 18.0)]
    assert [lost.sureness for lost in found] == pytest.approx([0.9, 0.8])
    assert (labels.ravel()[found[0].voxels] == 1).all() and 1 * 20 + 1 in found[0].voxels


def test_over_the_cap_only_the_surest_objects_may_be_deleted():
    lost = [Lost(1, np.zeros(1, int), s, 1.0) for s in (0.82, 0.99, 0.9, 0.85)]
    assert over_the_cap(lost, 20, 0.1) == [True, False, False, True]
    assert over_the_cap(lost, 9, 0.1) == [True] * 4 and over_the_cap(lost, 20, 1.0) == [False] * 4


def test_volumes_are_in_mm3():
    labels = np.zeros((3, 6, 9), np.uint8)
    labels[0, :2, :2], labels[2, 4:, 5:] = 1, 1
    assert sorted(object_volumes(labels, 1, (3.0, 0.5, 1.0))) == [6.0, 12.0]
    assert object_volumes(labels, 2, (3.0, 0.5, 1.0)).size == 0


def planes_of(shown: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """(2, *spatial): class 1 with probability `sure` where it is shown."""
    p = np.where(shown, sure, 0.05)
    return np.stack([1 - p, p])


def test_objects_that_nobody_labelled_fill_the_usual_number_the_surest_first():
    labels, sure = np.zeros((12, 30), np.uint8), np.full((12, 30), 0.9)
    labels[2:6, 2:6] = 1
    shown = labels == 1
    shown[2:6, 6:8] = True  # touches the labelled one
    shown[2:6, 12:16], shown[2:6, 20:24] = True, True
    sure[:, 20:] = 0.97
    everywhere = np.ones(labels.shape, bool)
    fused = planes_of(shown, sure)
    beyond_two = surplus(labels, fused, everywhere, [0, 2])
    assert beyond_two[2:6, 12:16].all() and beyond_two.sum() == 16
    assert surplus(labels, fused, everywhere, [0, 1]).sum() == 32
    assert not surplus(labels, fused, everywhere, [0, 3]).any()
    assert not surplus(labels, fused, labels == 1, [0, 0]).any()  # nothing is to change elsewhere


def test_an_empty_case_may_get_as_many_objects_as_others_have():
    shown = np.zeros((9, 20), bool)
    shown[2:5, 2:5] = True
    assert not surplus(np.zeros((9, 20), np.uint8), planes_of(shown, 0.9), shown, [0, 1]).any()


def test_the_usual_number_is_that_of_nine_in_ten_cases_that_have_any():
    assert usual_number([1] * 19 + [7]) == 1
    assert usual_number([0, 0, 0, 2, 3]) == 2
    assert usual_number([0, 0]) == usual_number([]) == 0


def test_an_object_is_redrawn_only_if_twice_as_far_off_as_clean_ones_of_its_class():
    off = np.array([0.1, 0.1, 0.1, 0.19, 0.21, 0.4, 0.7, 1.0])
    classes = np.array([1, 1, 1, 1, 1, 2, 2, 3])
    noisy = np.array([False, False, False, True, True, False, True, True])
    drawn = np.array([True] * 7 + [False])
    assert worth_redrawing(off, classes, noisy, drawn).tolist() == [False] * 4 + [True] + [False] * 3


def test_a_network_that_is_half_off_on_clean_objects_adds_and_deletes_none():
    off, classes = np.array([0.5, 0.55, 1.0]), np.ones(3, int)
    assert not worth_redrawing(off, classes, np.array([False, False, True]), np.array([True, True, False])).any()


def test_without_labelled_objects_nothing_is_a_speck():
    assert at_least(np.zeros(0)) == 0.0 and at_least(np.full(9, 4.0)) == 4.0
