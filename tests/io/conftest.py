"""Small files of all kinds, written by the reference libraries and not by the code under test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

# Turned by 37 degrees, flipped, and of three voxel sizes: 1, 2 and 3.5 mm.
AFFINE = np.array([[-0.8, 1.2, 0, 40], [0.6, 1.6, 0, -25], [0, 0, 3.5, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def save_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write a (Z, Y, X) array where `name` says, with nibabel."""

    def save(name: str, array: np.ndarray, affine: np.ndarray = AFFINE, **header: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = nib.Nifti1Image(np.ascontiguousarray(array).T, affine)
        for key, value in header.items():
            picture.header[key] = value
        nib.save(picture, path)
        return path

    return save


@pytest.fixture
def save_picture(tmp_path: Path) -> Callable[..., Path]:
    """Write a (Y, X) or (Y, X, C) array where `name` says, with Pillow."""

    def save(name: str, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(array)
        (picture.convert(mode) if mode else picture).save(path, **options)
        return path

    return save


@pytest.fixture
def a_dataset(tmp_path: Path, save_nifti: Callable[..., Path]) -> Callable[..., tuple[Path, Path]]:
    """Folders `images` and `labels` with the cases that are asked for, (3, 4, 5) voxels each."""

    def make(*names: str) -> tuple[Path, Path]:
        rng = np.random.default_rng(0)
        for name in names:
            save_nifti(f"images/{name}.nii.gz", rng.normal(size=(3, 4, 5)).astype(np.float32))
            save_nifti(f"labels/{name}.nii.gz", rng.integers(0, 3, (3, 4, 5)).astype(np.uint8))
        return tmp_path / "images", tmp_path / "labels"

    return make
