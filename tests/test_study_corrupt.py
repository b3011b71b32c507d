"""Folders spoiled on purpose: published settings, noise that looks at images, and the true errors of all."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from napari_noisylabel import study
from napari_noisylabel.errors import BadSetting, InputError, UnpairedFiles
from tests.phantom_files import save_nifti, write_cases


def arrays(folder):
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.parametrize(
    "noise", ["as-published-segthor", "as-published-dilation-erosion-brats", "symmetric", "ellipse"]
)
def test_every_folder_has_the_true_errors_and_the_parameters(tmp_path, noise):
    write_cases(tmp_path, 2)
    made = study.corrupt_folder(tmp_path / "labels", tmp_path / "out", noise)
    true, spoiled, errors = (arrays(folder) for folder in (tmp_path / "labels", made.labels, made.errors))
    record = json.loads((made.errors / "noise.json").read_text())
    for name in true:
        assert np.array_equal(errors[name] != 0, spoiled[name] != true[name]) and errors[name].any()
        parameters = record[name.removesuffix(".nii.gz")]["parameters"]
        assert parameters["severity"] == (None if noise.startswith("as-published") else 0.5)
        assert set(np.unique(spoiled[name])) <= {0, 3, 7}


@pytest.mark.parametrize("noise", ["instance", "as-published-instance-0.2"])
def test_noise_that_looks_at_images_reads_them_and_spares_ignored_voxels(tmp_path, noise):
    write_cases(tmp_path, 2)
    labels = arrays(tmp_path / "labels")["case-0.nii.gz"].T.copy()
    labels[:, :4] = 9
    save_nifti(labels, tmp_path / "labels" / "case-0.nii.gz")
    made = study.corrupt_folder(
        tmp_path / "labels", tmp_path / "out", noise, images=tmp_path / "images", settings={"ignore": 9}
    )
    spoiled = arrays(made.labels)["case-0.nii.gz"].T
    assert np.array_equal(spoiled == 9, labels == 9) and not np.array_equal(spoiled, labels)


def test_noise_that_looks_at_images_is_refused_without_them_or_with_others(tmp_path):
    write_cases(tmp_path, 2)
    with pytest.raises(BadSetting, match="Give their folder with --images DIR"):
        study.corrupt_folder(tmp_path / "labels", tmp_path / "out", "instance")
    image = tmp_path / "images" / "case-1.nii.gz"
    save_nifti(np.random.default_rng(0).random((3, 4, 5)).astype(np.float32), image)
    with pytest.raises(InputError, match=r"differ in shape.*case-1"):
        study.corrupt_folder(tmp_path / "labels", tmp_path / "out", "instance", images=tmp_path / "images")
    image.unlink()
    with pytest.raises(UnpairedFiles, match="case-1"):
        study.corrupt_folder(tmp_path / "labels", tmp_path / "out", "instance", images=tmp_path / "images")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "labels"]


@pytest.mark.parametrize("options", [{"severity": 0.5}, {"settings": {"steps": 3}}])
def test_a_published_setting_takes_neither_severity_nor_parameters(tmp_path, options):
    write_cases(tmp_path, 1)
    with pytest.raises(BadSetting, match="of its paper.*Leave it out"):
        study.corrupt_folder(tmp_path / "labels", tmp_path / "out", "as-published-markov-brats-expand", **options)


def test_an_empty_case_is_spoiled_by_flips_of_the_classes_of_the_others(tmp_path):
    write_cases(tmp_path, 2)
    empty = np.zeros_like(arrays(tmp_path / "labels")["case-0.nii.gz"].T)
    save_nifti(empty, tmp_path / "labels" / "case-0.nii.gz")
    made = study.corrupt_folder(tmp_path / "labels", tmp_path / "out", "as-published-symmetric-50")
    assert set(np.unique(arrays(made.labels)["case-0.nii.gz"])) == {0, 3, 7}
