from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_noisylabel.errors import BadLabels, ExportRefused
from napari_noisylabel.io.values import class_indices, source_values, values_in, whole_numbers
from napari_noisylabel.records import IGNORE, Track

TRACK = Track("organs", ("background", "liver", "tumour"), (0, 3, 200), ignore=4)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_the_values_of_an_array_are_found_in_every_type(dtype):
    array = np.array([[0, 1, 0], [1, 1, 0]]).astype(dtype)
    assert values_in(array) == (0, 1)


@pytest.mark.parametrize("values", [(-5, 0, 7), (0, 1 << 30), (-(1 << 40), 3), (-70_000, 70_000)])
def test_negative_and_large_values_are_found(values):
    assert values_in(np.resize(np.array(values), (3, 4))) == values


@given(
    st.lists(st.sampled_from([0, 3, 200, 4]), min_size=1, max_size=30),
    st.sampled_from(["u1", "i2", "i4", "i8"]),
)
def test_class_indices_and_source_values_undo_each_other(values, dtype):
    array = np.array(values, dtype=dtype)
    indices = class_indices(array, TRACK)
    assert indices.dtype == np.uint8
    assert [TRACK.values[i] if i != IGNORE else TRACK.ignore for i in indices] == values
    assert np.array_equal(source_values(indices, TRACK, dtype), array)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16])
def test_a_file_that_numbers_the_classes_as_the_program_does_is_copied(dtype):
    track = Track("organs", ("background", "liver", "spleen"), (0, 1, 2), ignore=9)
    array = np.array([[0, 1, 1], [2, 0, 1]]).astype(dtype)

    indices = class_indices(array, track)

    assert indices.dtype == np.uint8 and indices.tolist() == array.tolist()
    assert not np.may_share_memory(indices, array)
    assert class_indices(np.array([[9, 2]]), track).tolist() == [[IGNORE, 2]]
    with pytest.raises(BadLabels, match=r"holds \[-1\]"):
        class_indices(np.array([0, -1]), track)


def test_classes_far_apart_are_indexed_too():
    track = Track("colours", ("background", "red", "blue"), (0, -(1 << 40), 1 << 40))
    array = np.array([[0, 1 << 40], [-(1 << 40), 0]])
    assert class_indices(array, track).tolist() == [[0, 2], [1, 0]]


def test_a_value_outside_the_classes_is_refused_with_its_place():
    with pytest.raises(BadLabels, match=r"track 'organs', \[0, 3, 200\], but case-1.png holds \[7\]"):
        class_indices(np.array([0, 3, 7]), TRACK, "case-1.png")


def test_voxels_without_annotation_cannot_leave_where_the_source_has_no_value_for_them():
    track = Track("organs", ("background", "liver"), (0, 3))
    with pytest.raises(ExportRefused, match=r"class indices \[255\]"):
        source_values(np.array([0, IGNORE], np.uint8), track)


def test_values_that_the_sources_type_cannot_hold_are_refused():
    with pytest.raises(ExportRefused, match="do not fit the type of the source, int8"):
        source_values(np.array([0, 1], np.uint8), TRACK, "int8")


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf, 1e12])
def test_numbers_that_are_no_whole_numbers_are_refused(wrong):
    with pytest.raises(BadLabels, match="must be whole numbers, but a.nii holds"):
        whole_numbers(np.array([0, 1, wrong], np.float32), "a.nii")


def test_whole_floats_become_integers():
    whole = whole_numbers(np.array([[0.0, 2.0], [-1.0, 255.0]], np.float32), "a.nii")
    assert whole.dtype.kind == "i" and whole.tolist() == [[0, 2], [-1, 255]]
