from __future__ import annotations

import numpy as np

from napari_noisylabel.arrays.strangers import constant_number, count_objects, strangers
from napari_noisylabel.records import IGNORE


def row(*pieces):
    """Class 1 (or the class named by a third number) from start to stop, in a picture of 7 x 40."""
    out = np.zeros((7, 40), np.uint8)
    for start, stop, *k in pieces:
        out[2:5, start:stop] = k[0] if k else 1
    return out


def columns(found):
    return np.flatnonzero(found.any(0)).tolist()


def test_what_lies_beside_the_one_labelled_object_is_a_stranger():
    found = strangers(row((5, 10)), row((4, 11), (20, 24), (30, 32)), (0, 1))
    assert columns(found) == [20, 21, 22, 23, 30, 31]
    assert found.sum() == 3 * 6


def test_what_touches_a_labelled_object_is_none_however_large():
    assert not strangers(row((5, 10)), row((10, 30)), (0, 1)).any()


def test_an_object_drawn_in_a_wrong_place_leaves_room_for_the_right_one():
    assert not strangers(row((5, 10)), row((20, 25)), (0, 1)).any()


def test_a_case_that_lacks_an_object_may_get_one():
    assert not strangers(row(), row((20, 25)), (0, 1)).any()
    assert not strangers(row((5, 10)), row((5, 10), (20, 25)), (0, 2)).any()


def test_classes_whose_number_differs_are_not_asked():
    assert not strangers(row((5, 10)), row((5, 10), (20, 25)), (0, 0)).any()


def test_only_objects_on_background_are_strangers():
    """On another class it may be that which is wrong, and where nothing is labelled nobody left anything out."""
    labels = row((5, 10), (20, 25, 2), (30, 35, IGNORE))
    assert not strangers(labels, row((5, 10), (21, 24), (31, 34)), (0, 1, 0)).any()


def test_each_class_has_its_own_number_in_volumes_too():
    labels, proposal = (
        np.stack([row(*own)] * 3) for own in ([(5, 10), (12, 15, 2)], [(5, 10), (12, 15, 2), (30, 33, 2)])
    )
    assert columns(strangers(labels, proposal, (0, 1, 1)).any(0)) == [30, 31, 32]
    assert not strangers(labels, proposal, (0, 1, 0)).any()


def test_a_number_is_constant_if_nine_in_ten_cases_with_any_show_it():
    assert constant_number([1] * 19 + [2]) == 1
    assert constant_number([2] * 12 + [0] * 9) == 2
    assert constant_number([1] * 16 + [2] * 4) == 0
    assert constant_number([1] * 9) == constant_number([0] * 30) == constant_number([]) == 0


def test_objects_are_counted_class_by_class_and_what_is_no_class_is_none():
    labels = row((0, 3), (5, 10), (12, 15, 2), (20, 22, IGNORE))
    assert count_objects(labels, 4).tolist() == [0, 2, 1, 0]
