from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.metrics import signed_distance
from napari_noisylabel.methods.boundary_bias import (
    border_bias,
    class_bias,
    distance_in_slices,
    outer_ring,
    ring_moves,
    signed_distance_in_slices,
    thick_axis,
    trimmed_mean,
    voxel_size,
)
from napari_noisylabel.records import IGNORE


def disk(radius: float = 30, shape: tuple[int, int] = (101, 128)) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - 50) ** 2 + (x - 64) ** 2 <= radius**2


def slow_distance(mask: np.ndarray, at: tuple[int, ...], spacing: tuple[float, ...], axis: int | None) -> float:
    """Signed distance of one voxel to `mask`, by looking at all others (of its slice)."""
    inside = bool(mask[at])
    others = [p for p in np.ndindex(mask.shape) if mask[p] != inside and (axis is None or p[axis] == at[axis])]
    best = min((np.hypot.reduce([(a - b) * s for a, b, s in zip(p, at, spacing, strict=True)]) for p in others),
               default=np.inf)  # fmt: skip
    return -best if inside else best


# ---------------------------------------------------------------- property 1


def test_the_rings_next_to_the_boundary_are_at_one_voxel_and_nothing_is_at_zero():
    d = signed_distance(disk(), (1, 1))
    assert (d[outer_ring(disk(), None)] == 1).all() and (d[outer_ring(~disk(), None)] == -1).all()
    assert not (d == 0).any()


@pytest.mark.parametrize("halved", [False, True])
def test_a_perfect_prediction_has_a_bias_of_exactly_zero(halved):
    truth = disk(17).astype(np.uint8)
    truth[:50] *= 2
    for k in (1, 2):
        assert class_bias(truth, truth, k, (2.0, 1.5), None, halved)[0] == 0
    assert np.nanmax(np.abs(border_bias(truth, truth, 3, (2.0, 1.5), None))) == 0


@pytest.mark.parametrize(("radius", "grown", "shrunk"), [(3, -3.40, 2.31), (8, -8.35, 7.33)])
def test_a_disk_that_is_dilated_or_eroded_has_the_bias_of_the_specification(radius, grown, shrunk):
    d = signed_distance(disk(), (1, 1))
    for guess, bias in ((d < radius, grown), (d <= -radius, shrunk)):
        assert class_bias(guess.astype(int), disk().astype(int), 1, (1, 1), None)[0] == pytest.approx(bias, abs=0.01)


@pytest.mark.parametrize("radius", [2, 3, 5, 8])
def test_between_sides_too_large_and_too_small_by_as_much_are_opposites(radius):
    d = signed_distance(disk(), (1, 1))
    grown, shrunk = (
        border_bias(m.astype(int), disk().astype(int), 2, (1, 1), None) for m in (d < radius, d <= -radius)
    )
    area = [np.sqrt(m.sum() / np.pi) - np.sqrt(disk().sum() / np.pi) for m in (d < radius, d <= -radius)]
    assert grown[1, 0] == pytest.approx(-shrunk[1, 0], abs=0.1)
    assert grown[1, 0] == pytest.approx(-area[0], abs=0.35) and shrunk[1, 0] == pytest.approx(-area[1], abs=0.35)
    assert grown[0, 1] == -grown[1, 0] and np.isnan(np.diag(grown)).all()


# ---------------------------------------------------------------- a second, slow way


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("halved", [False, True])
def test_moves_over_the_ring_are_those_of_a_loop(axis, halved):
    rng = np.random.default_rng(3)
    spacing, truth = (4.0, 1.5, 1.0), np.zeros((4, 9, 8), bool)
    truth[1:3, 2:6, 3:6] = True
    guess = np.roll(truth, 1, 2) | (rng.random(truth.shape) < 0.02)
    ring, moves = ring_moves(guess, truth, spacing, axis, halved)

    steps = [tuple(sign * (i == a) for i in range(3)) for a in range(3) if a != axis for sign in (-1, 1)]
    wanted = []
    for p in np.ndindex(truth.shape):
        beside = [tuple(np.add(p, s)) for s in steps]
        in_ring = not truth[p] and any(q in set(np.ndindex(truth.shape)) and truth[q] for q in beside)
        assert ring[p] == in_ring
        if in_ring:
            d, own = slow_distance(guess, p, spacing, axis), slow_distance(truth, p, spacing, axis)
            wanted.append(d if halved and d < 0 else d - own)
    np.testing.assert_allclose(moves, wanted, rtol=1e-5)


def test_thick_slices_are_measured_one_by_one():
    assert thick_axis((5.0, 1.0, 1.5), 3) == 0 and thick_axis((1.0, 1.2, 3.0), 3) == 2
    assert thick_axis((2.0, 1.0, 1.5), 3) is None and thick_axis((9.0, 1.0), 3) is None
    assert voxel_size((5.0, 1.0, 1.5), 0) == 1.0 and voxel_size((0.5, 1.0, 1.5), 0) == 1.0
    mask = np.zeros((3, 6, 7), bool)
    mask[1, 1:5, 2:6] = True
    d = signed_distance_in_slices(mask, (5.0, 1.0, 1.5), 0)
    np.testing.assert_array_equal(d[1], signed_distance(mask[1], (1.0, 1.5)))
    assert np.isinf(d[0]).all() and np.isinf(distance_in_slices(~mask, (5.0, 1.0, 1.5), 0)[2]).all()


# ---------------------------------------------------------------- what is not there


def test_a_class_that_one_of_the_two_lacks_counts_as_one_voxel():
    empty, there = np.zeros((9, 7), np.uint8), np.zeros((9, 7), np.uint8)
    there[3:6, 2:5] = 1
    assert class_bias(empty, there, 1, (2.0, 1.5), None)[0] == 1.5
    assert class_bias(there, empty, 1, (2.0, 1.5), None)[0] == -1.5
    assert np.isnan(class_bias(empty, empty, 1, (2.0, 1.5), None)[0])
    assert np.isnan(border_bias(empty, there, 2, (2.0, 1.5), None)).all()


def test_voxels_without_annotation_have_no_say():
    truth = disk(20).astype(np.uint8)
    guess = truth.copy()
    guess[:, 64:] = disk(25)[:, 64:]
    truth[:, 60:] = IGNORE
    assert class_bias(guess, truth, 1, (1, 1), None)[0] == pytest.approx(0, abs=0.02)
    assert border_bias(guess, truth, 2, (1, 1), None)[1, 0] == pytest.approx(0, abs=0.02)


def test_the_border_of_two_classes_has_one_bias_and_those_with_background_their_own():
    truth, guess = np.zeros((2, 60, 80), np.uint8)
    truth[10:50, 10:40], truth[10:50, 40:70] = 1, 2
    guess[8:52, 8:44], guess[8:52, 44:72] = 1, 2
    found = border_bias(guess, truth, 3, (0.5, 0.5), None)
    assert found[1, 0] == pytest.approx(-1, abs=0.1) and found[2, 0] == pytest.approx(-1, abs=0.1)
    assert found[1, 2] == pytest.approx(-2, abs=0.1) and found[2, 1] == -found[1, 2]


def test_a_piece_that_was_lost_is_no_bias():
    values = np.r_[np.zeros(95), np.full(5, 40.0)]
    assert trimmed_mean(values) == 0 and trimmed_mean(values[:7]) == 0
    assert trimmed_mean(np.array([3.0])) == 3
