"""Tiny cases on the disk, for tests that go through the whole flow."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from napari_noisylabel import study
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.workbench import Workbench

SHAPE = (10, 20, 16)
SPACING = (2.0, 1.0, 1.5)
VALUES = np.array([0, 3, 7], np.int16)
HELD_OUT = "case-5"


def case(seed: int, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Image (Z, Y, X) float32 and class indices of a phantom."""
    image, labels = phantom(SHAPE, SPACING, n_classes, np.random.default_rng(seed))
    return image[0], labels


def save_nifti(array: np.ndarray, path: Path, spacing: tuple[float, ...] = SPACING) -> Path:
    """An array (Z, Y, X) as NIfTI, which has X first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.T, np.diag([*spacing[::-1], 1.0])), path)
    return path


def save_png(array: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_cases(folder: Path, n: int, labels: str = "labels") -> Path:
    """`folder/images` and `folder/<labels>` with `case-0.nii.gz` and so on."""
    for i in range(n):
        image, classes = case(i)
        save_nifti(image, folder / "images" / f"case-{i}.nii.gz")
        save_nifti(VALUES[classes], folder / labels / f"case-{i}.nii.gz")
    return folder


def make_trained(folder: Path) -> Path:
    """Six cases, one of them held out, half of the others spoiled; a project with one short run."""
    write_cases(folder, 6, "truth")
    parts = {"train": [f"case-{i}" for i in range(5)], "test": [HELD_OUT]}
    (folder / "split.json").write_text(json.dumps(parts))
    study.corrupt_folder(folder / "truth", folder / "labels", "missing", share=0.6, split=folder / "split.json")
    study.make_project(
        folder / "project", folder / "images", {"organ": folder / "labels"}, split=folder / "split.json",
        class_names=("core", "rim"),
    )  # fmt: skip
    workbench = Workbench()
    workbench.open(folder / "project")
    workbench.retrain("cross-entropy", epochs=2, engine={"steps": 32, "lr": 0.01}, seed=1)
    for report in workbench.wait():
        assert report.kind != "failed", report.message
    workbench.propose("voxel", 0.3)
    workbench.close()
    return folder
