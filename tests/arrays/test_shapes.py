"""Pieces and ellipsoids have the size asked for and stay where they may be."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.shapes import ellipsoid, equal_radius, objects, piece

THICK = (3.0, 1.0, 0.5)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("ball", [False, True])
def test_a_piece_has_the_size_asked_for_and_lies_in_the_mask(ball, rng):
    mask = rng.random((7, 12, 9)) < 0.4
    part = piece(mask, 60, THICK, rng, ball=ball)
    assert part.sum() == 60
    assert not (part & ~mask).any()


def test_a_piece_larger_than_the_mask_is_the_mask(rng):
    mask = rng.random((6, 8)) < 0.5
    assert np.array_equal(piece(mask, 1000, (1.0, 2.0), rng, ball=True), mask)


def test_a_piece_cut_by_a_plane_leaves_two_parts_that_a_line_can_divide(rng):
    line = np.ones((1, 40), dtype=bool)
    part = piece(line, 13, (1.0, 1.0), rng, ball=False)
    assert part[0, :13].all() or part[0, -13:].all()


def test_an_ellipsoid_is_as_long_in_mm_along_every_axis(rng):
    room = np.ones((31, 60, 121), dtype=bool)
    sizes = [np.ptp(np.argwhere(ellipsoid(room, 4000, THICK, rng)), axis=0) * THICK for _ in range(5)]
    assert np.max(sizes) / np.min(sizes) < 2.2


def test_an_ellipsoid_keeps_away_from_what_is_not_room_and_counts_its_voxels(rng):
    room = np.ones((40, 50), dtype=bool)
    room[15:25, 20:30] = False
    found = ellipsoid(room, 80, (1.0, 1.0), rng)
    wider = np.pad(found, 1)
    near = wider[:-2, 1:-1] | wider[2:, 1:-1] | wider[1:-1, :-2] | wider[1:-1, 2:]
    assert found.sum() == 80
    assert not (near & ~room).any()


def test_an_ellipsoid_without_room_or_size_is_empty(rng):
    assert not ellipsoid(np.zeros((5, 6), dtype=bool), 10, (1.0, 1.0), rng).any()
    assert not ellipsoid(np.ones((5, 6), dtype=bool), 0, (1.0, 1.0), rng).any()


def test_objects_come_one_by_one_with_room_that_stays_in_the_array():
    mask = np.zeros((20, 33), dtype=bool)
    mask[0:4, 0:5] = mask[10:12, 20:30] = True
    found = list(objects(mask))
    assert [int(obj.sum()) for _, obj in found] == [20, 20]
    for box, obj in found:
        assert obj.shape == mask[box].shape


def test_the_equal_radius_of_a_disk_and_a_ball():
    assert equal_radius(np.pi * 9, 2) == pytest.approx(3)
    assert equal_radius(4 / 3 * np.pi * 8, 3) == pytest.approx(2)
