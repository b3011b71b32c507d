"""Every voxel is shown upright and known by its place in the patient."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_noisylabel.arrays.geometry import (
    DisplayAxes,
    Geometry,
    display_axes,
    display_letters,
    display_spacing,
    index_from_display,
    index_to_display,
    orientation_letters,
    position_mm,
    same_grid,
    to_array,
    to_display,
)
from napari_noisylabel.errors import ShapeMismatch

SHAPE, SPACING = (4, 5, 6), (3.0, 0.5, 0.8)
WORLD = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
CODES = ["".join(c) for pairs in permutations(("RL", "AP", "SI")) for c in product(*pairs)]


def grid(code, shape=SHAPE, spacing=SPACING, origin=(10.0, -20.0, 30.0), turn=None, unit="mm") -> Geometry:
    """A grid whose array axes lead along the letters of `code`, turned by `turn` if that is given."""
    affine = np.eye(4)
    directions = np.array([WORLD[letter] for letter in code], float).T
    if len(code) == 2:
        directions = np.column_stack([np.cross(*directions.T), directions])
        spacing = (1.0, *spacing)
    affine[:3, :3] = (directions if turn is None else turn @ directions) * spacing
    affine[:3, 3] = origin
    return Geometry(tuple(shape), tuple(map(tuple, affine.tolist())), unit)


def slow_position(geometry: Geometry, index) -> list[float]:
    steps = [geometry.affine[row][3] for row in range(3)]
    for row in range(3):
        for axis, i in enumerate(index):
            steps[row] += geometry.affine[row][3 - geometry.ndim + axis] * i
    return steps


@pytest.mark.parametrize("code", CODES)
def test_any_volume_is_shown_axial_from_the_feet_up_with_the_patients_right_on_the_left(code):
    geometry = grid(code)
    axes = display_axes(geometry)
    first, *steps = (
        np.array(position_mm(geometry, index_from_display(index, axes, SHAPE)))
        for index in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    )
    up, down, right = (step - first for step in steps)

    assert up[2] > 0 and down[1] < 0 and right[0] < 0  # superior, posterior, patient's left
    assert display_spacing(geometry, axes) == pytest.approx([up[2], -down[1], -right[0]])
    assert display_letters(geometry, axes) == (("I", "S"), ("A", "P"), ("R", "L"))


@pytest.mark.parametrize("code", CODES)
def test_letters_name_the_array_axes(code):
    assert orientation_letters(grid(code)) == code


def test_an_upright_volume_stays_as_it_is():
    assert display_axes(grid("SPL")) == DisplayAxes((0, 1, 2), (False, False, False))


@pytest.mark.parametrize(
    "code, letters",
    [
        ("PL", (("A", "P"), ("R", "L"))),  # axial
        ("AR", (("A", "P"), ("R", "L"))),
        ("RS", (("S", "I"), ("R", "L"))),  # coronal
        ("SP", (("S", "I"), ("A", "P"))),  # sagittal
    ],
)
def test_a_slice_has_the_head_or_the_front_at_the_top(code, letters):
    geometry = grid(code, shape=(5, 7), spacing=(0.5, 0.8))

    assert orientation_letters(geometry) == code
    assert display_letters(geometry, display_axes(geometry)) == letters


@pytest.mark.parametrize("code, shape", [("AR", (5, 7)), ("LIA", SHAPE)])
def test_an_array_that_nobody_knows_the_place_of_stays_as_it_is(code, shape):
    geometry = grid(code, shape, spacing=(1.0,) * len(shape), unit="px")
    axes = display_axes(geometry)

    assert axes == DisplayAxes(tuple(range(len(shape))), (False,) * len(shape))
    assert set(display_letters(geometry, axes)) == {("", "")}


@pytest.mark.parametrize("code", CODES)
def test_display_and_array_are_two_views_of_the_same_voxels(code):
    axes = display_axes(grid(code))
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    view = to_display(array, axes)

    assert np.shares_memory(view, array)
    assert np.array_equal(to_array(view, axes), array)
    for shown in np.ndindex(view.shape):
        index = index_from_display(shown, axes, SHAPE)
        assert view[shown] == array[index]
        assert index_to_display(index, axes, SHAPE) == shown


def test_an_oblique_volume_gets_the_closest_axes():
    turn = Rotation.from_euler("xyz", [20, -15, 25], degrees=True).as_matrix()
    for code in CODES:
        geometry = grid(code, turn=turn)
        assert display_axes(geometry) == display_axes(grid(code))
        assert orientation_letters(geometry) == code
        assert geometry.spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("geometry", [grid("LIA"), grid("PL", (5, 7), (0.5, 0.8))])
def test_positions_are_right_anterior_superior_millimetres(geometry):
    for index in np.ndindex(geometry.shape):
        assert position_mm(geometry, index) == pytest.approx(slow_position(geometry, index))


def test_channels_must_be_taken_apart_before_turning():
    axes = display_axes(grid("SPL"))
    for turn in (to_display, to_array):
        with pytest.raises(ShapeMismatch, match=r"shape \(2, 4, 5, 6\), 3 display axes"):
            turn(np.zeros((2, *SHAPE)), axes)


def test_grids_that_differ_by_less_than_the_tolerance_are_one():
    assert same_grid(grid("SPL"), grid("SPL", origin=(10.0005, -20.0, 30.0))) == ""
    assert same_grid(grid("SPL"), grid("SPL", origin=(10.4, -20.0, 30.0)), atol_mm=0.5) == ""


@pytest.mark.parametrize(
    "other, words",
    [
        (grid("SPL", shape=(4, 6, 5)), "shape 4 x 5 x 6 against 4 x 6 x 5"),
        (grid("SPL", shape=(4, 5)), "shape 4 x 5 x 6 against 4 x 5"),
        (grid("SPL", origin=(10.0, -20.0, 33.0)), "first voxels 3 mm apart"),
        (grid("SPL", spacing=(2.5, 0.5, 0.8)), "voxel size 3 x 0.5 x 0.8 mm against 2.5 x 0.5 x 0.8 mm"),
        (grid("SPR"), "axes SPL against SPR, turned by up to 180 degrees"),
        (grid("SPL", origin=(10.0, -20.0, float("nan"))), "corners up to nan mm apart"),
    ],
)
def test_words_say_how_two_grids_differ(other, words):
    assert same_grid(grid("SPL"), other) == words


def test_a_slight_stretch_shows_at_the_far_corner():
    wide = (4, 5, 2000)
    difference = same_grid(grid("SPL", wide), grid("SPL", wide, spacing=(3.0, 0.5, 0.800002)))

    assert difference == "corners up to 0.004 mm apart"


def test_a_grid_without_millimetres_is_compared_by_shape():
    assert same_grid(grid("SPL"), grid("LAI", unit="px")) == ""
    assert same_grid(grid("SPL"), grid("LAI", shape=(4, 5, 7), unit="px")) != ""
