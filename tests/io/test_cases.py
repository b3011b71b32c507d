from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import (
    BadImage,
    BadLabels,
    BadSetting,
    ShapeMismatch,
    SourceChanged,
    UnknownName,
)
from napari_noisylabel.io.cases import load_file, load_image, load_labels, load_rater, make_cases, make_tracks
from napari_noisylabel.io.checks import CheckedCase, check_cases
from napari_noisylabel.io.pairing import find_cases
from napari_noisylabel.records import IGNORE

GRID = Geometry((4, 5), ((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)), "px")


def checked(name="a", n_channels=1, raters=None, **values):
    return CheckedCase(name, GRID, n_channels, (), {}, {}, values, raters or {})


def test_classes_are_the_sorted_values_over_all_files_named_in_that_order():
    cases = [checked("a", organs=(0, 200)), checked("b", organs=(0, 3, 4)), checked("c", organs=(0,))]
    (track,) = make_tracks(cases, ["liver", "tumour"], ignore=4)
    assert track.values == (0, 3, 200) and track.classes == ("background", "liver", "tumour")
    assert track.ignore == 4


def test_classes_without_names_are_called_by_value_or_colour():
    (track,) = make_tracks([checked(t=(0, 1, 255, 0x1FF8000))])
    assert track.classes == ("background", "1", "255", "#ff8000")


def test_tracks_keep_the_order_given_and_may_be_named_apart():
    cases = [checked("a", lung=(0, 1), bone=(0, 5, 6))]
    lung, bone = make_tracks(cases, {"bone": ["rib", "spine"]})
    assert (lung.name, lung.classes[1:], bone.classes[1:]) == ("lung", ("1",), ("rib", "spine"))


def test_a_track_that_is_empty_everywhere_is_refused():
    with pytest.raises(BadLabels, match="all label files of track 't' are empty"):
        make_tracks([checked("a", t=(0,)), checked("b", t=(0, 9))], ignore=9)


@pytest.mark.parametrize("names", [["liver"], ["a", "b", "c"]])
def test_another_number_of_names_than_of_values_is_refused(names):
    with pytest.raises(BadLabels, match=r"2 values \[1, 2\] besides 0, and \d names came"):
        make_tracks([checked(t=(0, 1, 2))], names)


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""], ["a", "background"]])
def test_names_must_differ(names):
    with pytest.raises(BadSetting, match="class names must differ"):
        make_tracks([checked(t=(0, 1, 2))], names)


def test_a_rater_with_values_of_its_own_is_refused():
    with pytest.raises(BadLabels, match=r"'r2' has \[7\] in case 'b'"):
        make_tracks([checked("a", t=(0, 1)), checked("b", raters={"r2": (0, 7)}, t=(0, 1))])


def test_background_cannot_be_ignored():
    with pytest.raises(BadSetting, match="must not be 0"):
        make_tracks([checked(t=(0, 1))], ignore=0)


def test_split_groups_and_tags_are_written_into_the_cases():
    cases = make_cases(
        [checked("b"), checked("a")],
        split={"a": "", "b": "test"},
        groups={"a": "person 1"},
        tags={"b": {"disease": "yes"}},
    )
    assert [(c.id, c.group, c.held_out, c.tags) for c in cases] == [
        ("a", "person 1", "", {}),
        ("b", "b", "test", {"disease": "yes"}),
    ]


def test_a_case_that_the_split_forgets_is_refused_unless_only_held_out_cases_are_listed():
    with pytest.raises(BadSetting, match="'b' is in none of its parts"):
        make_cases([checked("a"), checked("b")], split={"a": ""})
    assert [c.held_out for c in make_cases([checked("a"), checked("b")], split={"a": "val"})] == ["val", ""]


def test_a_group_on_both_sides_of_a_split_is_refused():
    with pytest.raises(BadSetting, match="group must not be divided .* 'p' is"):
        make_cases([checked("a"), checked("b")], split={"a": "", "b": "val"}, groups={"a": "p", "b": "p"})


def test_cases_with_different_channels_are_refused():
    with pytest.raises(BadImage, match="'a' has 1 channels in 2-D and 'b' 3 in 2-D"):
        make_cases([checked("a"), checked("b", n_channels=3)])


@pytest.fixture
def a_project(save_nifti, tmp_path):
    """One case of two channels with labels 0, 3, 200 and 4 to ignore, and a second rater."""
    rng = np.random.default_rng(0)
    for channel in range(2):
        save_nifti(f"images/a_000{channel}.nii.gz", rng.integers(0, 900, (3, 4, 5)).astype(np.int16))
    for folder in ("labels", "other"):
        save_nifti(f"{folder}/a.nii.gz", rng.choice([0, 3, 4, 200], (3, 4, 5)).astype(np.uint8))
    found = find_cases(tmp_path / "images", {"t": tmp_path / "labels"}, {"r2": tmp_path / "other"})
    checked = check_cases(found)
    return make_cases(checked)[0], make_tracks(checked, ["liver", "tumour"], ignore=4)[0]


def test_an_image_is_loaded_with_all_its_channels(a_project):
    case, _ = a_project
    image = load_image(case)
    assert image.shape == (2, 3, 4, 5) and image.dtype == np.float32 and image.flags.writeable


def test_labels_and_raters_are_loaded_as_class_indices(a_project):
    case, track = a_project
    assert set(np.unique(load_labels(case, track))) == {0, 1, 2, IGNORE}
    assert load_rater(case, "r2", track).shape == (3, 4, 5)
    assert np.array_equal(load_file(case.labels["t"].path, case, track), load_labels(case, track))


def test_a_label_file_that_changed_since_is_not_used(a_project, save_nifti):
    case, track = a_project
    save_nifti("labels/a.nii.gz", np.zeros((3, 4, 5), np.uint8))
    save_nifti("images/a_0001.nii.gz", np.ones((3, 4, 5), np.int16))
    with pytest.raises(SourceChanged, match="labels/a.nii.gz is not the file"):
        load_labels(case, track)
    with pytest.raises(SourceChanged, match="a_0001.nii.gz is not the file"):
        load_image(case)


def test_what_a_case_does_not_have_is_named(a_project):
    case, track = a_project
    with pytest.raises(UnknownName, match="no labels of track 'bone'"):
        load_labels(case, replace(track, name="bone"))
    with pytest.raises(UnknownName, match="no labels by rater 'r3'"):
        load_rater(case, "r3", track)


def test_a_file_from_outside_must_lie_on_the_grid_of_the_case(a_project, save_nifti):
    case, track = a_project
    with pytest.raises(ShapeMismatch):
        load_file(save_nifti("truth.nii.gz", np.zeros((3, 4, 6), np.uint8)), case, track)
