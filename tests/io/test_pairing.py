from __future__ import annotations

import pytest

from napari_noisylabel.errors import NoPairs, UnpairedFiles, UnreadableFile
from napari_noisylabel.io.pairing import find_cases


@pytest.fixture
def folders(tmp_path):
    """Make empty files: `folders(images="a.png b.png", labels="a.png")` gives the folders."""

    def make(**names):
        for folder, files in names.items():
            (tmp_path / folder).mkdir()
            for name in files.split():
                (tmp_path / folder / name).write_bytes(b"")
        return [tmp_path / folder for folder in names]

    return make


def found(cases):
    return {c.id: [p.name for p in c.images] for c in cases}


def test_images_and_labels_of_one_name_are_a_case_whatever_their_extensions(folders):
    images, labels = folders(images="b.jpg a.nii.gz notes.txt .hidden.png", labels="a.nii b.png")
    cases = find_cases(images, {"organs": labels})
    assert found(cases) == {"a": ["a.nii.gz"], "b": ["b.jpg"]}
    assert cases[0].labels == {"organs": labels / "a.nii"}


def test_channel_suffixes_are_joined_to_one_case_in_order(folders):
    images, labels = folders(
        images="x_0001.nii.gz x_0000.nii.gz y_0000.nii.gz y_0001.nii.gz", labels="x.nii.gz y.nii.gz"
    )
    assert found(find_cases(images, {"t": labels})) == {
        "x": ["x_0000.nii.gz", "x_0001.nii.gz"],
        "y": ["y_0000.nii.gz", "y_0001.nii.gz"],
    }


def test_four_digits_belong_to_the_name_where_the_labels_say_so(folders):
    images, labels = folders(images="test_0002.jpg test_0003.jpg", labels="test_0002.png test_0003.png")
    assert list(found(find_cases(images, {"t": labels}))) == ["test_0002", "test_0003"]


def test_unlabelled_images_follow_the_naming_of_the_others(folders):
    images, labels = folders(images="x_0000.png y_0000.png", labels="x.png")
    assert found(find_cases(images, {"t": labels}, unlabelled=True)) == {
        "x": ["x_0000.png"],
        "y": ["y_0000.png"],
    }


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        ("x_0000.png x_0001.png y_0000.png y_0001.png", ["x", "y"]),
        ("x_0000.png y_0000.png", ["x", "y"]),
        ("x_0001.png x_0002.png", ["x_0001", "x_0002"]),
        (" ".join(f"frame_{i:04d}.png" for i in range(20)), [f"frame_{i:04d}" for i in range(20)]),
    ],
)
def test_without_any_label_only_full_sets_of_channels_are_joined(folders, images, ids):
    (folder,) = folders(images=images)
    assert list(found(find_cases(folder, {}, unlabelled=True))) == ids


def test_a_missing_channel_is_refused(folders):
    images, labels = folders(images="x_0000.png x_0001.png y_0000.png", labels="x.png y.png")
    with pytest.raises(UnpairedFiles, match="case 'y' lacks channel 0001"):
        find_cases(images, {"t": labels})


def test_several_tracks_may_cover_different_cases(folders):
    images, lung, bone = folders(images="a.png b.png", lung="a.png", bone="a.png b.png")
    cases = find_cases(images, {"lung": lung, "bone": bone})
    assert [list(c.labels) for c in cases] == [["lung", "bone"], ["bone"]]


def test_raters_are_found_beside_the_labels(folders):
    images, labels, other = folders(images="a.png b.png", labels="a.png b.png", other="b.png")
    cases = find_cases(images, {"t": labels}, {"reader 2": other})
    assert [list(c.raters) for c in cases] == [[], ["reader 2"]]


def test_no_pair_is_told_with_an_example_of_both_sides(folders):
    images, labels = folders(images="img1.png img2.png", labels="mask1.png mask2.png")
    with pytest.raises(NoPairs, match=r"not one of the 2 images .*\(image 'img1', label 'mask1'\)"):
        find_cases(images, {"t": labels})


def test_a_folder_without_images_says_what_is_known(folders):
    images, labels = folders(images="a.txt b.doc", labels="a.png")
    with pytest.raises(NoPairs, match=r"no image found in .*: none of its files ends in .*\.nii\.gz"):
        find_cases(images, {"t": labels})


def test_labels_without_image_are_refused_always(folders):
    images, labels = folders(images="a.png", labels="a.png b.png c.png d.png e.png")
    with pytest.raises(UnpairedFiles, match="b, c, d and 1 more have none"):
        find_cases(images, {"t": labels}, unlabelled=True)


def test_images_without_label_need_leave(folders):
    images, labels = folders(images="a.png b.png", labels="a.png")
    with pytest.raises(UnpairedFiles, match="images must have a label of the same name, but b have none"):
        find_cases(images, {"t": labels})
    assert list(found(find_cases(images, {"t": labels}, unlabelled=True))) == ["a", "b"]


def test_two_files_for_one_case_are_refused(folders):
    images, labels = folders(images="a.png a.jpg", labels="a.png")
    with pytest.raises(UnpairedFiles, match=r"holds a.jpg and a.png for 'a'"):
        find_cases(images, {"t": labels})


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnreadableFile, match="is not there"):
        find_cases(tmp_path / "none", {})
