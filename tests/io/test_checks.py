from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from napari_noisylabel.errors import BadImage, BadLabels, GeometryMismatch, ShapeMismatch, UnreadableFile
from napari_noisylabel.io.checks import check_case, check_cases, examine_cases
from napari_noisylabel.io.pairing import FoundCase, find_cases

IMAGE = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
LABELS = (np.arange(60).reshape(3, 4, 5) % 3).astype(np.uint8)


def test_a_checked_case_knows_grid_channels_values_and_hashes(save_nifti):
    images = tuple(save_nifti(f"images/a_000{i}.nii.gz", IMAGE * i) for i in (1, 2))
    labels = save_nifti("labels/a.nii.gz", LABELS)
    checked = check_case(FoundCase("a", images, {"t": labels}, {"r2": labels}))
    assert (checked.geometry.shape, checked.n_channels) == ((3, 4, 5), 2)
    assert checked.geometry.spacing == pytest.approx((3.5, 2, 1))
    assert checked.label_values == {"t": (0, 1, 2)} and checked.rater_values == {"r2": (0, 1, 2)}
    assert checked.labels["t"].size == labels.stat().st_size and len(checked.labels["t"].sha256) == 64


def test_labels_of_another_shape_are_refused(save_nifti):
    case = FoundCase("a", (save_nifti("i.nii.gz", IMAGE),), {"t": save_nifti("l.nii.gz", LABELS[:, :2])})
    with pytest.raises(ShapeMismatch, match=r"differ in shape: image \(3, 4, 5\), .*l.nii.gz \(3, 2, 5\), case 'a'"):
        check_case(case)


def test_labels_that_lie_elsewhere_are_refused(save_nifti):
    moved = save_nifti("l.nii.gz", LABELS, np.diag([2, 1, 3.5, 1]))
    case = FoundCase("a", (save_nifti("i.nii.gz", IMAGE),), {"t": moved})
    with pytest.raises(GeometryMismatch, match=r"image and labels lie differently in space \(.*case 'a'"):
        check_case(case)


def test_the_rounding_of_a_qform_is_no_difference(save_nifti, tmp_path):
    image = save_nifti("i.nii.gz", IMAGE)
    picture = nib.Nifti1Image(LABELS.T, None)
    picture.set_qform(nib.load(image).affine, 1)
    nib.save(picture, tmp_path / "l.nii.gz")
    assert check_case(FoundCase("a", (image,), {"t": tmp_path / "l.nii.gz"})).label_values["t"] == (0, 1, 2)


def test_channels_on_different_grids_are_refused(save_nifti):
    images = (save_nifti("a_0000.nii.gz", IMAGE), save_nifti("a_0001.nii.gz", IMAGE[:2]))
    with pytest.raises(ShapeMismatch, match="image and image differ in shape"):
        check_case(FoundCase("a", images))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_image_with_a_voxel_that_is_no_number_is_refused(save_nifti, wrong):
    image = IMAGE.astype(np.float32)
    image[1, 2, 3] = wrong
    with pytest.raises(BadImage, match=r"i.nii.gz holds NaN or infinite voxels"):
        check_case(FoundCase("a", (save_nifti("i.nii.gz", image),)))


def test_an_image_of_one_value_is_refused(save_nifti):
    with pytest.raises(BadImage, match=r"every voxel of .*i.nii.gz is 7"):
        check_case(FoundCase("a", (save_nifti("i.nii.gz", np.full((3, 4, 5), 7, np.int16)),)))


def test_an_intensity_image_in_the_place_of_labels_is_refused(save_nifti):
    many = save_nifti("l.nii.gz", np.arange(3 * 10 * 20, dtype=np.int16).reshape(3, 10, 20))
    with pytest.raises(BadLabels, match="holds 600 values"):
        check_case(FoundCase("a", (many,), {"t": many}))


def test_an_empty_label_file_is_allowed(save_nifti):
    case = FoundCase("a", (save_nifti("i.nii.gz", IMAGE),), {"t": save_nifti("l.nii.gz", LABELS * 0)})
    assert check_case(case).label_values == {"t": (0,)}


def test_many_cases_are_checked_in_order_with_progress(a_dataset):
    images, labels = a_dataset("c", "a", "b")
    seen = []
    checked = check_cases(find_cases(images, {"t": labels}), 2, lambda *n: seen.append(n))
    assert [c.id for c in checked] == ["a", "b", "c"]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_all_problems_are_found_and_the_first_is_raised(a_dataset):
    images, labels = a_dataset("a", "b", "c")
    (images / "b.nii.gz").write_bytes(b"")
    (labels / "c.nii.gz").write_bytes(b"no gzip")
    found = find_cases(images, {"t": labels})
    checked, problems = examine_cases(found)
    assert ([c.id for c in checked], [p.case for p in problems]) == (["a"], ["b", "c"])
    with pytest.raises(UnreadableFile, match=r"b.nii.gz.*\(Problems in 1 further cases: c.\)"):
        check_cases(found)


def test_a_single_problem_is_raised_as_it_is(a_dataset):
    images, labels = a_dataset("a", "b")
    (labels / "b.nii.gz").unlink()
    (labels / "b.nii.gz").write_bytes(b"")
    with pytest.raises(UnreadableFile, match=r"Copy it again from its origin.$"):
        check_cases(find_cases(images, {"t": labels}))
