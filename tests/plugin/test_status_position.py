"""The millimetres of the status line are those of nibabel and of SimpleITK, however a volume lies."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from scipy.spatial.transform import Rotation

from napari_noisylabel.io.volumes import read_header
from napari_noisylabel.plugin.display import Shown
from napari_noisylabel.plugin.layers import SessionLayers
from napari_noisylabel.session import ReviewSession

SHAPE = (7, 5, 9)  # x, y, z of the file
WRITTEN_MM = 0.05 + 1e-3  # the line has one decimal, and NIfTI keeps float32

angles = st.tuples(*[st.floats(-180, 180)] * 3)
spacings = st.tuples(*[st.floats(0.3, 6)] * 3)
flips = st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3)
origins = st.tuples(*[st.floats(-300, 300)] * 3)
voxels = st.tuples(*[st.integers(0, n - 1) for n in SHAPE])


@pytest.fixture(scope="module")
def layers():
    """Layers without any: the status line needs the grid alone."""
    layers = SessionLayers(ViewerModel(), ReviewSession())
    layers.viewer.dims.ndim = len(SHAPE)
    return layers


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("status") / "volume.nii"


@settings(max_examples=60, deadline=None)
@given(angles=angles, spacing=spacings, flip=flips, origin=origins, voxel=voxels)
def test_the_status_line_says_the_millimetres_of_nibabel_and_simpleitk(
    layers, file, angles, spacing, flip, origin, voxel
):
    affine = oblique(angles, spacing, flip, origin)
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine), file)
    layers.shown = Shown(read_header(file).geometry)

    said = ras_mm(layers.status(mouse_on(layers.shown, voxel[::-1])))

    assert said == pytest.approx(by_nibabel(file, voxel), abs=WRITTEN_MM)
    assert said == pytest.approx(by_simpleitk(file, voxel), abs=WRITTEN_MM)


def oblique(angles, spacing, flip, origin):
    """A NIfTI affine of any rotation, with axes that may run backwards."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.multiply(spacing, flip)
    affine[:3, 3] = origin
    return affine


def mouse_on(shown, index):
    """World position, in the viewer, of voxel `index` (Z, Y, X) of the array."""
    return np.multiply(shown.from_array(index), shown.scale)


def ras_mm(line):
    """The three numbers behind R, A and S."""
    return [float(x.replace("−", "-")) for x in re.match(r"R (\S+)  A (\S+)  S (\S+) mm", line).groups()]


def by_nibabel(file, voxel):
    return nib.affines.apply_affine(nib.load(file).affine, voxel)


def by_simpleitk(file, voxel):
    """SimpleITK's LPS, turned to RAS."""
    return np.multiply(sitk.ReadImage(str(file)).TransformIndexToPhysicalPoint(voxel), (-1, -1, 1))
