"""Array, display and patient coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.geometry import Geometry, position_mm
from napari_noisylabel.plugin.display import Shown

SAGITTAL = ((3.0, 0.0, 0.0, -40.0), (0.0, 0.0, 1.2, -90.0), (0.0, -0.9, 0.0, 60.0), (0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def shown():
    """A sagittal volume, (right, down, front), 3 x 0.9 x 1.2 mm."""
    return Shown(Geometry((7, 20, 30), SAGITTAL))


def test_a_voxel_keeps_its_value_and_its_place_in_the_patient(shown):
    array = np.arange(7 * 20 * 30).reshape(7, 20, 30)
    index = (2, 5, 11)

    at = tuple(int(i) for i in shown.from_array(index))

    assert shown.view(array)[at] == array[index]
    assert shown.to_array(at) == index
    said = position_mm(shown.geometry, index)
    assert shown.position(at) == f"R {said[0]:.1f}  A {said[1]:.1f}  S {said[2]:.1f} mm".replace("-", "−")


def test_the_first_display_axis_goes_up_and_the_scale_follows(shown):
    assert shown.shape == (20, 30, 7)
    assert shown.scale == pytest.approx((0.9, 1.2, 3.0))
    assert shown.names[0] == "axial"


def test_boxes_go_there_and_back(shown):
    start, stop = (1, 3, 4), (3, 9, 12)

    low, high = shown.box(start, stop)

    assert all(b > a for a, b in zip(low, high, strict=True))
    assert shown.array_box(low, high) == (start, stop)


def test_the_view_shares_its_voxels_with_the_array(shown):
    array = np.zeros((7, 20, 30), np.uint8)

    shown.view(array)[0, 0, 0] = 5

    assert array.sum() == 5


def test_an_image_without_a_size_is_placed_in_pixels():
    shown = Shown(Geometry((20, 30), tuple(map(tuple, np.eye(4))), unit="px"))

    assert shown.position((4, 7)) == "y 4  x 7 px"
    assert shown.units == ("pixel", "pixel")
