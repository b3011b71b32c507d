"""Runs say which voxels changed, and give the labels back exactly."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_noisylabel.arrays import labels as labels_module
from napari_noisylabel.arrays.labels import (
    HEADER,
    VoxelRuns,
    all_voxels,
    apply_runs,
    bounding_box,
    changed_runs,
    count,
    count_stale,
    empty_runs,
    encode_box,
    encode_indices,
    encode_runs,
    from_bytes,
    intersect,
    revert_runs,
    runs_box,
    runs_mask,
    subtract,
    to_bytes,
    voxel_indices,
)
from napari_noisylabel.errors import BadLabels, InputError, NewerSchema, ShapeMismatch, UnreadableFile


def columns(runs: VoxelRuns) -> list[list[int]]:
    return [c.tolist() for c in (runs.starts, runs.lengths, runs.before, runs.after)]


def slow_runs(mask, before, after) -> list[list[int]]:
    """Voxel by voxel, with plain loops."""
    found: list[list[int]] = []
    for i, (inside, b, a) in enumerate(zip(mask.flat, before.flat, after.flat, strict=True)):
        if not inside:
            continue
        if found and found[-1][0] + found[-1][1] == i and found[-1][2:] == [b, a]:
            found[-1][1] += 1
        else:
            found.append([i, 1, int(b), int(a)])
    return [list(column) for column in zip(*found, strict=True)] or [[], [], [], []]


@st.composite
def decisions(draw):
    """A mask with classes before and after, 1-D to 3-D; blocks so small that runs cross them."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random(shape) < draw(st.sampled_from([0, 0.4, 0.9, 1]))
    before, after = rng.integers(0, 3, (2, *shape), dtype=np.uint8)
    return mask, before, after


@pytest.fixture(params=[3, 1 << 20], autouse=True, scope="module")
def block(request):
    """Everything holds for blocks that cut through runs and rows, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_module, "BLOCK", request.param)
        yield request.param


@given(decisions())
def test_runs_are_those_that_a_loop_over_voxels_finds(decision):
    assert columns(encode_runs(*decision)) == slow_runs(*decision)


@given(decisions())
def test_applying_writes_the_class_after_and_reverting_brings_the_class_before(decision):
    mask, before, after = decision
    labels = before.copy()

    apply_runs(labels, encode_runs(mask, before, after))
    assert np.array_equal(labels, np.where(mask, after, before))

    apply_runs(labels, revert_runs(encode_runs(mask, before, after)))
    assert np.array_equal(labels, before)


@given(decisions())
def test_bytes_give_the_same_runs_back(decision):
    runs = from_bytes(to_bytes(encode_runs(*decision)))

    assert columns(runs) == slow_runs(*decision)
    assert (runs.starts.dtype, runs.lengths.dtype) == (np.int64, np.int64)
    assert (runs.before.dtype, runs.after.dtype) == (np.uint8, np.uint8)


@given(decisions())
def test_indices_of_voxels_give_the_same_runs_as_their_mask(decision):
    mask, before, after = decision
    runs = encode_indices(np.flatnonzero(mask), before[mask], after[mask])

    assert columns(runs) == slow_runs(*decision)
    assert voxel_indices(runs).tolist() == np.flatnonzero(mask).tolist()


@given(decisions(), st.integers(0, 99))
def test_a_mask_divides_runs_into_two_parts(decision, seed):
    mask, before, after = decision
    other = np.random.default_rng(seed).random(mask.shape) < 0.5
    runs = encode_runs(*decision)

    assert columns(intersect(runs, other)) == slow_runs(mask & other, before, after)
    assert columns(subtract(runs, other)) == slow_runs(mask & ~other, before, after)


@given(decisions())
def test_all_voxels_of_a_map_keep_their_class(decision):
    _, labels, _ = decision
    assert columns(all_voxels(labels)) == slow_runs(np.ones(labels.shape, bool), labels, labels)


def test_a_box_in_a_large_array_gives_the_runs_of_the_whole_array():
    rng = np.random.default_rng(1)
    before, mask = rng.integers(0, 3, (5, 7, 9), dtype=np.uint8), np.zeros((5, 7, 9), bool)
    box = (slice(1, 4), slice(2, 6), slice(3, 9))
    mask[box] = rng.random((3, 4, 6)) < 0.6

    runs = encode_box((1, 2, 3), before.shape, mask[box], before[box], 2)

    assert columns(runs) == slow_runs(mask, before, np.full_like(before, 2))


def test_a_run_goes_on_from_row_to_row():
    labels = np.zeros((2, 3, 4), np.uint8)
    runs = encode_runs(np.ones(labels.shape, bool), labels, 1)

    assert columns(runs) == [[0], [24], [0], [1]]
    assert count(runs) == 24


def test_a_mask_says_where_runs_are():
    mask = np.array([[0, 1, 1], [1, 0, 1]], bool)
    runs = encode_runs(mask, 0, 4)

    assert np.array_equal(runs_mask(runs, mask.shape), mask)
    assert count(runs) == 4


def test_no_voxels_are_no_runs():
    runs = encode_runs(np.zeros((3, 4), bool), 0, 1)

    assert columns(runs) == columns(empty_runs()) == columns(from_bytes(to_bytes(empty_runs())))
    assert count(runs) == 0
    assert not runs_mask(runs, (3, 4)).any()
    assert columns(all_voxels(np.zeros((0, 4), np.uint8))) == columns(empty_runs())


def test_a_flipped_view_gets_the_labels_in_its_own_order():
    labels = np.zeros((3, 4, 5), np.uint8)
    view = labels[::-1].transpose(2, 0, 1)
    mask = np.zeros(view.shape, bool)
    mask[1, 2] = True

    apply_runs(view, encode_runs(mask, view, 7))

    assert np.array_equal(view == 7, mask)
    assert labels[0, :, 1].tolist() == [7, 7, 7, 7]


def test_runs_that_stay_are_left_alone_and_those_that_change_are_found():
    before, after = np.array([1, 1, 2, 2], np.uint8), np.array([1, 3, 3, 2], np.uint8)
    runs = encode_runs(np.ones(4, bool), before, after)
    labels = np.array([9, 1, 2, 9], np.uint8)

    apply_runs(labels, runs)

    assert labels.tolist() == [9, 3, 3, 9]
    assert voxel_indices(changed_runs(runs)).tolist() == [1, 2]


def test_voxels_that_moved_on_since_are_counted():
    before = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    runs = encode_runs(before > 0, before, 0)

    assert count_stale(before, runs) == 0
    assert count_stale(np.array([[5, 1, 3], [2, 3, 5]], np.uint8), runs) == 2


def test_the_bounding_box_is_the_smallest():
    mask = np.zeros((4, 6, 8), bool)
    mask[1, 2, 3] = mask[2, 4, 3] = True

    assert bounding_box(mask) == (slice(1, 3), slice(2, 5), slice(3, 4))
    assert bounding_box(np.zeros((4, 6), bool)) == (slice(0, 0), slice(0, 0))


def test_far_and_long_runs_survive_the_bytes():
    runs = VoxelRuns(
        np.array([5, 2**40]), np.array([2**33, 300]), np.array([0, 1], np.uint8), np.array([1, 255], np.uint8)
    )
    assert columns(from_bytes(to_bytes(runs))) == columns(runs)


def test_a_ball_takes_less_than_a_byte_per_run():
    z, y, x = np.ogrid[:40, :60, :60]
    runs = encode_runs((z - 20) ** 2 + (y - 30) ** 2 + (x - 30) ** 2 < 300, 0, 1)

    assert len(to_bytes(runs)) < runs.starts.size


@pytest.mark.parametrize("start, size", [((0, 3), (2, 2)), ((-1, 0), (2, 2)), ((0, 0, 0), (2, 2)), ((0, 0), (5, 1))])
def test_a_box_outside_the_array_is_refused(start, size):
    with pytest.raises(ShapeMismatch, match="box must lie inside"):
        encode_box(start, (4, 4), np.ones(size, bool), 0, 1)


def test_classes_of_another_shape_or_type_are_refused():
    mask = np.ones((2, 3), bool)
    with pytest.raises(ShapeMismatch, match=r"mask \(2, 3\), before \(3, 2\)"):
        encode_runs(mask, np.zeros((3, 2), np.uint8), 1)
    with pytest.raises(BadLabels, match="int64 in before"):
        encode_runs(mask, np.zeros((2, 3), np.int64), 1)
    for wrong in (256, -1):
        with pytest.raises(BadLabels, match="in after"):
            encode_runs(mask, 0, wrong)


@pytest.mark.parametrize("indices", [[3, 2], [2, 2], [-1, 4]])
def test_indices_that_do_not_ascend_are_refused(indices):
    with pytest.raises(InputError, match="must ascend"):
        encode_indices(np.array(indices), 0, 1)


def test_runs_beyond_the_array_are_refused_before_anything_is_written():
    runs = encode_runs(np.ones((3, 4), bool), 0, 1)
    labels = np.zeros((2, 4), np.uint8)

    for act in (apply_runs, count_stale):
        with pytest.raises(ShapeMismatch, match="number 12"):
            act(labels, runs)
    with pytest.raises(ShapeMismatch):
        runs_mask(runs, labels.shape)
    with pytest.raises(ShapeMismatch):
        intersect(runs, labels > 0)
    assert not labels.any()


def packed(body: bytes, n: int, gap: int = 1, length: int = 1, version: int = 1) -> bytes:
    return HEADER.pack(b"NLVR", version, gap, length, n) + zlib.compress(body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 something else entirely",
        packed(b"\0\1\0", 1),  # one column is missing
        packed(b"\0\1\0\1\0", 1),  # one byte too many
        packed(b"\0\1\0\1", 1)[:-3],  # truncated
        packed(b"\0\0\0\1", 1),  # a run without voxels
        packed(b"\0\1\0\1\0", 1, gap=3),  # no such number
        packed(b"\xff" * 9 + b"\0\1", 1, gap=8),  # beyond any array
        packed(b"\0" * 100, 2**60),  # claims more than it can hold
        HEADER.pack(b"NLVR", 1, 1, 1, 1) + b"no zlib",
    ],
)
def test_damaged_bytes_are_refused(data):
    with pytest.raises(UnreadableFile, match="damaged"):
        from_bytes(data)


@given(st.integers(0, 200), st.integers(1, 255))
@settings(max_examples=60)
def test_one_flipped_byte_is_noticed_or_harmless(position, flip):
    labels = np.zeros((4, 5, 6), np.uint8)
    data = bytearray(to_bytes(encode_runs(np.random.default_rng(3).random(labels.shape) < 0.5, labels, 1)))
    data[position % len(data)] ^= flip
    try:
        runs = from_bytes(bytes(data))
    except (UnreadableFile, NewerSchema):
        return
    assert (runs.lengths > 0).all() and (np.diff(runs.starts) >= runs.lengths[:-1]).all()


def test_bytes_of_a_later_version_are_refused_as_such():
    with pytest.raises(NewerSchema, match="version 2"):
        from_bytes(packed(b"\0\1\0\1", 1, version=2))


def test_the_box_of_runs_is_that_of_their_voxels():
    rng = np.random.default_rng(3)
    for _ in range(50):
        shape = tuple(rng.integers(1, 6, 3))
        mask = rng.random(shape) < rng.choice([0.05, 0.5, 0.95])
        low, high = runs_box(encode_runs(mask, 0, 1), shape)
        box = bounding_box(mask)
        assert (low, high) == (tuple(s.start for s in box), tuple(s.stop for s in box)) or not mask.any()
    assert runs_box(empty_runs(), (4, 5)) == ((0, 0), (0, 0))
