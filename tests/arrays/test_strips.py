"""Strips say of sparse voxels what loops over the voxels say."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.arrays.strips import (
    Strips,
    boxes,
    by_first,
    count_contacts,
    cut,
    joined,
    rows_around,
    rows_before,
    strips_of,
    touching,
)

SHAPES = [(9, 14), (4, 5, 11), (3, 1, 9), (1, 7), (23,), (2, 3, 3, 5)]


def made_up(shape, density=0.6, seed=0):
    """Strips of a map of the codes 1 to 3, the code of each, and that map."""
    rng = np.random.default_rng(seed)
    volume = (rng.integers(1, 4, shape) * (rng.random(shape) < density)).astype(np.uint16)
    indices = np.flatnonzero(volume)
    return *strips_of(indices, volume.flat[indices], shape), volume


def voxels(strips: Strips, i: int) -> list[tuple[int, ...]]:
    *row, begin = strips.corner[:, i].tolist()
    return [(*row, begin + j) for j in range(strips.length[i])]


def touch(a, b) -> bool:
    return max(abs(p - q) for p, q in zip(a, b, strict=True)) <= 1


def contacts(strips: Strips, i: int, j: int) -> int:
    return sum(touch(a, b) for a, b in product(voxels(strips, i), voxels(strips, j)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.2, 0.7, 1.0])
def test_strips_hold_every_voxel_once_and_are_as_long_as_can_be(shape, density):
    strips, codes, volume = made_up(shape, density)

    np.testing.assert_array_equal(strips.indices(), np.flatnonzero(volume))
    np.testing.assert_array_equal(volume.flat[strips.indices()], np.repeat(codes, strips.length))
    for i in range(len(strips) - 1):
        end, begin = voxels(strips, i)[-1], voxels(strips, i + 1)[0]
        assert codes[i] != codes[i + 1] or end[:-1] != begin[:-1] or end[-1] + 1 < begin[-1]


@pytest.mark.parametrize("shape", SHAPES)
def test_strips_that_touch_are_those_with_voxels_that_do(shape):
    strips, _, _ = made_up(shape)
    rows = strips.corner[:-1].T.tolist()
    expected = {(i, j) for i, j in product(range(len(strips)), repeat=2) if contacts(strips, i, j)}

    around = touching(strips, strips, rows_around(len(shape))).T.tolist()
    before = touching(strips, strips, rows_before(len(shape))).T.tolist()

    assert sorted(map(tuple, around)) == sorted(expected)
    assert sorted(map(tuple, before)) == sorted((i, j) for i, j in expected if rows[j] < rows[i])


def test_some_strips_are_named_by_their_place_among_those_asked_about():
    strips, _, _ = made_up((4, 5, 11))
    some = np.arange(1, len(strips), 5)

    mine, other = touching(strips.take(some), strips, rows_around(3))

    everything = touching(strips, strips, rows_around(3)).T.tolist()
    assert sorted(zip(some[mine], other, strict=True)) == sorted((i, j) for i, j in everything if i in some)


@pytest.mark.parametrize("shape", SHAPES)
def test_contacts_are_counted_as_a_loop_over_voxels_counts_them(shape):
    strips, _, _ = made_up(shape)
    a, b = touching(strips, strips, rows_around(len(shape)))
    a, b = a[a != b], b[a != b]

    counts = count_contacts(strips.take(a), strips.take(b))

    assert counts.tolist() == [contacts(strips, i, j) for i, j in zip(a, b, strict=True)]


@pytest.mark.parametrize("shape", [(9, 14), (5, 8, 11), (3, 1, 9), (1, 7)])
@pytest.mark.parametrize("density", [0.1, 0.4, 0.8, 1.0])
def test_strips_hold_together_as_their_voxels_do(shape, density):
    strips, codes, volume = made_up(shape, density, seed=int(100 * density))
    a, b = touching(strips, strips, rows_before(len(shape)))

    component = by_first(joined(np.stack([a, b])[:, codes[a] == codes[b]], len(strips)))

    expected, n = label_components(volume)
    np.testing.assert_array_equal(np.repeat(component, strips.length) + 1, expected[volume > 0])
    assert len(np.unique(component)) == n


def test_nothing_is_joined_to_nothing():
    strips, _, _ = made_up((3, 4), density=0.0)

    assert len(strips) == 0 and strips.indices().size == 0
    assert touching(strips, strips, rows_around(2)).shape == (2, 0)
    assert joined(np.zeros((2, 0), np.int64), 0).size == 0
    assert boxes(strips, np.zeros(0, np.int64))[0].shape == (0, 2)


@pytest.mark.parametrize("shape", [(9, 14), (4, 5, 11), (23,)])
@pytest.mark.parametrize("slabs", [1, 2, 3, 7])
def test_a_cut_leaves_parts_in_one_slab_each_that_touch_as_their_voxels_do(shape, slabs):
    strips, codes, _ = made_up(shape, density=0.9)
    pairs = touching(strips, strips, rows_before(len(shape)))
    axis = codes.astype(np.int64) % len(shape)  # alike are those of one code
    pairs = pairs[:, codes[pairs[0]] == codes[pairs[1]]]
    length = np.array(shape)[axis]

    parts, found, origin = cut(strips, pairs, axis, np.zeros_like(axis), length, np.full_like(axis, slabs))

    np.testing.assert_array_equal(parts.indices(), strips.indices())
    slab = [{v[axis[o]] * slabs // length[o] for v in voxels(parts, i)} for i, o in enumerate(origin)]
    assert all(len(s) == 1 for s in slab)
    alike = [(*s, codes[o]) for s, o in zip(slab, origin, strict=True)]
    expected = [
        {i, j} for i, j in combinations(range(len(parts)), 2)
        if alike[i] == alike[j] and origin[i] != origin[j] and contacts(parts, i, j)
    ]  # fmt: skip
    assert sorted(map(sorted, found.T.tolist())) == sorted(map(sorted, expected))


def test_groups_are_numbered_by_their_first_members():
    assert by_first(np.array([4, 4, 1, 0, 1, 4, 2, 3])).tolist() == [0, 0, 1, 2, 1, 0, 3, 4]
    assert by_first(np.zeros(0, np.int64)).size == 0


def test_boxes_hold_their_strips_and_no_more():
    strips, codes, volume = made_up((4, 5, 11), density=0.1)

    start, stop = boxes(strips, codes.astype(np.int64) - 1)

    for code in (1, 2, 3):
        inside = np.argwhere(volume == code)
        assert (start[code - 1].tolist(), stop[code - 1].tolist()) == (
            inside.min(0).tolist(),
            (inside.max(0) + 1).tolist(),
        )
