from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_noisylabel.errors import ExportRefused, UnreadableFile
from napari_noisylabel.io import volumes


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.b_1.nii.gz", "a.b_1"),
        ("A.NII.GZ", "A"),
        ("x.nii", "x"),
        ("x.PNG", "x"),
        ("x.tiff", "x"),
        ("x.jpeg", "x"),
    ],
)
def test_a_case_is_called_by_its_file_without_the_known_extension(name, stem):
    assert volumes.is_known(name) and volumes.case_id(f"folder/{name}") == stem


@pytest.mark.parametrize("name", ["x.gz", "notes.txt", "png", ".png", "x.nii.gz.part"])
def test_other_extensions_are_not_known(name, tmp_path):
    assert not volumes.is_known(name)
    with pytest.raises(UnreadableFile, match="has no known extension"):
        volumes.read_header(tmp_path / name)


@pytest.mark.parametrize("name", ["l.png", "l.tif", "l.nii.gz"])
def test_labels_go_out_as_they_came_in_whatever_the_format(tmp_path, name):
    labels = np.random.default_rng(0).integers(0, 3, (7, 11)).astype(np.uint8)
    volumes.write_volume(labels, volumes.images.png.flat.pixel_grid((7, 11)), tmp_path / name)
    volumes.write_labels(tmp_path / name, labels[::-1], str(tmp_path / "out" / name))
    again = volumes.read_labels(str(tmp_path / "out" / name))
    assert np.array_equal(again.array, labels[::-1])
    assert again.geometry == volumes.read_header(tmp_path / name).geometry


def test_a_given_file_is_never_written(save_nifti, tmp_path):
    path = save_nifti("labels.nii.gz", np.zeros((2, 3, 4), np.uint8))
    (tmp_path / "link.nii.gz").symlink_to(path)
    with pytest.raises(ExportRefused, match="given files are never written"):
        volumes.write_labels(path, np.ones((2, 3, 4), np.uint8), tmp_path / "link.nii.gz")


def test_another_format_than_the_sources_is_refused_for_labels(save_nifti, tmp_path):
    path = save_nifti("labels.nii.gz", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(ExportRefused, match="must have the format of its source"):
        volumes.write_labels(path, np.ones((2, 3, 4), np.uint8), tmp_path / "out.png")


@pytest.mark.parametrize("likelihood", [np.linspace(0, 1, 24), np.linspace(0, 255, 24).round().astype(np.uint8)])
def test_a_map_on_a_volume_is_float32_between_0_and_1(save_nifti, tmp_path, likelihood):
    source = save_nifti("labels.nii.gz", np.zeros((2, 3, 4), np.uint8))
    volumes.write_map(source, likelihood.reshape(2, 3, 4), tmp_path / "map.nii.gz")
    stored = nib.load(tmp_path / "map.nii.gz")
    assert stored.get_data_dtype() == np.float32
    assert np.allclose(np.asarray(stored.dataobj).T.ravel(), np.linspace(0, 1, 24), atol=1 / 500)


def test_a_map_on_a_photograph_is_an_8_bit_png(save_picture, tmp_path):
    source = save_picture("image.jpg", np.zeros((7, 11, 3), np.uint8))
    volumes.write_map(source, np.linspace(0, 1, 77).reshape(7, 11), tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.mode == "L" and np.asarray(picture).max() == 255


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan])
def test_a_map_outside_0_and_1_is_refused(save_nifti, tmp_path, wrong):
    source = save_nifti("labels.nii.gz", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(ExportRefused, match=r"must lie in \[0, 1\]"):
        volumes.write_map(source, np.full((2, 3, 4), wrong), tmp_path / "map.nii.gz")
