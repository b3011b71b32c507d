"""Suspicious voxels become regions that are one decision each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_noisylabel.arrays import regions as regions_module
from napari_noisylabel.arrays.regions import changed_voxels, find_regions, regions_among
from napari_noisylabel.errors import BadLabels, BadSetting, ShapeMismatch

SPACING = (3.0, 1.0, 0.5)


def regions_of(changed, spacing=SPACING, **limits):
    """Regions of a map of 0 whose proposal is `changed`, all of it suspicious."""
    proposal = np.asarray(changed, np.uint8)
    return find_regions(np.zeros_like(proposal), proposal, np.ones(proposal.shape, bool), spacing, **limits)


def test_a_region_knows_its_pair_its_box_and_its_voxels():
    labels = np.full((4, 5, 6), 2, np.uint8)
    proposal = labels.copy()
    proposal[1:3, 2, 3:6] = 1

    regions = find_regions(labels, proposal, np.ones(labels.shape, bool), SPACING)

    assert (len(regions), regions.from_class.tolist(), regions.to_class.tolist()) == (1, [2], [1])
    assert (regions.start.tolist(), regions.stop.tolist()) == ([[1, 2, 3]], [[3, 3, 6]])
    assert regions.voxels(0).tolist() == np.flatnonzero(proposal == 1).tolist()


def test_only_suspicious_voxels_with_another_proposal_are_looked_at():
    labels, proposal = np.zeros((2, 3, 40), np.uint8), np.ones((2, 3, 40), np.uint8)
    proposal[:, :, :10] = 0
    suspicious = np.zeros(labels.shape, bool)
    suspicious[1, :, :20] = True

    regions = find_regions(labels, proposal, suspicious, SPACING)

    assert regions.indices.tolist() == np.flatnonzero(suspicious & (proposal == 1)).tolist()


def test_voxels_that_touch_at_a_corner_are_one_region_and_other_pairs_are_not():
    proposal = np.zeros((3, 4, 5), np.uint8)
    proposal[[0, 1, 2], [0, 1, 2], [0, 1, 2]] = 1
    proposal[[0, 1, 2], [1, 2, 3], [0, 1, 2]] = 2

    regions = regions_of(proposal)

    assert regions.to_class.tolist() == [1, 2]
    assert regions.sizes.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("shape", "spacing", "voxels", "kept"),
    [
        ((2, 3, 9), (3.0, 1.0, 1.0), 2, False),  # 6 mm3, but under 3 voxels
        ((2, 3, 9), (1.0, 1.0, 0.5), 3, False),  # 1.5 mm3
        ((2, 3, 9), (1.0, 1.0, 0.5), 4, True),
        ((3, 9), (0.7, 0.9), 3, False),  # 1.89 mm2
        ((3, 9), (0.7, 1.0), 3, True),
    ],
)
def test_what_is_too_small_to_be_seen_is_dropped(shape, spacing, voxels, kept):
    proposal = np.zeros(shape, np.uint8)
    proposal[(1,) * (len(shape) - 1)][2 : 2 + voxels] = 1

    assert len(regions_of(proposal, spacing)) == kept


def test_a_long_region_is_cut_into_equal_pieces_across_its_longest_axis_in_mm():
    proposal = np.zeros((18, 4, 19), np.uint8)
    proposal[1:17, 1:3, 1:19] = 1  # 48 mm along the first axis, 9 mm along the last

    regions = regions_of(proposal)

    assert regions.start.tolist() == [[1, 1, 1], [7, 1, 1], [12, 1, 1]]
    assert regions.stop.tolist() == [[7, 3, 19], [12, 3, 19], [17, 3, 19]]


def test_what_a_cut_leaves_unconnected_becomes_two_regions():
    horseshoe = np.zeros((30, 9), np.uint8)
    horseshoe[:, :2] = horseshoe[:, 7:] = horseshoe[:3] = 1

    regions = regions_of(horseshoe, (1.0, 1.0))

    assert regions.start.tolist() == [[0, 0], [15, 0], [15, 7]]


def test_a_slice_thicker_than_the_limit_is_no_reason_to_cut_for_ever():
    slab = np.ones((2, 3, 4), np.uint8)

    assert len(regions_of(slab, (25.0, 1.0, 1.0))) == 2


def test_a_crumb_goes_to_the_piece_that_it_touches_most():
    ring = np.zeros((12, 8), np.uint8)
    ring[:4] = ring[9:] = ring[:, :3] = 1
    ring[3:9, 6] = 1  # rows 4 to 7 of this bar are cut off: 3 contacts above, 1 below

    regions = regions_of(ring, (2.0, 1.0), split_mm=8.0, min_voxels=5)

    assert regions.start.tolist() == [[0, 0], [4, 0], [8, 0]]
    assert regions.stop.tolist() == [[8, 8], [8, 3], [12, 8]]


def test_a_thread_of_crumbs_only_still_becomes_regions_of_the_minimum_size():
    thread = np.eye(30, 40, dtype=np.uint8)

    regions = regions_of(thread, (1.0, 1.0), split_mm=2.0, min_voxels=5)

    assert regions.sizes.sum() == 30
    assert regions.sizes.min() >= 5 and len(regions) >= 3


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.sampled_from([0.1, 0.3, 0.6, 1.0]), ndim=st.sampled_from([2, 3]))
def test_regions_are_connected_not_small_and_hold_every_voxel_of_the_large_components_once(seed, density, ndim):
    rng = np.random.default_rng(seed)
    shape, spacing = rng.integers(1, 15, ndim), rng.choice([0.4, 1.0, 3.0], ndim)
    labels, proposal = rng.integers(0, 2, (2, *shape), dtype=np.uint8)
    suspicious = rng.random(shape) < density
    smallest = max(3, int(np.ceil(2 / spacing.prod() - 1e-9)))

    regions = find_regions(labels, proposal, suspicious, spacing, split_mm=4.0)

    large = large_components(labels, proposal, suspicious, smallest)
    assert np.sort(regions.indices).tolist() == np.flatnonzero(large).tolist()
    for region in range(len(regions)):
        inside = np.zeros(shape, bool)
        inside.flat[regions.voxels(region)] = True
        assert inside.sum() >= smallest
        assert ndimage.label(inside, np.ones((3,) * ndim))[1] == 1
        assert set(labels[inside]) == {regions.from_class[region]}
        assert set(proposal[inside]) == {regions.to_class[region]}


def large_components(labels, proposal, suspicious, smallest):
    large = np.zeros(labels.shape, bool)
    pairs = np.where(suspicious & (labels != proposal), 1 + 256 * labels.astype(int) + proposal, 0)
    for pair in np.unique(pairs[pairs > 0]):
        numbers, _ = ndimage.label(pairs == pair, np.ones((3,) * labels.ndim))
        large |= (numbers > 0) & (np.bincount(numbers.ravel())[numbers] >= smallest)
    return large


def noisy_maps():
    rng = np.random.default_rng(3)
    maps = [ndimage.zoom(rng.random((4, 5, 6)), 5, order=1) for _ in range(2)]
    return [(3 * m).astype(np.uint8) for m in maps] + [rng.random(maps[0].shape) < 0.9]


def assert_same(a, b):
    for name in ("from_class", "to_class", "start", "stop", "offsets", "indices"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_the_memory_layout_does_not_change_the_regions():
    maps = noisy_maps()
    assert_same(find_regions(*maps, SPACING), find_regions(*map(np.asfortranarray, maps), SPACING))


def test_voxels_that_change_are_found_block_by_block_as_they_are_at_once(monkeypatch):
    labels, proposal, _ = noisy_maps()
    monkeypatch.setattr(regions_module, "BLOCK", 64)

    np.testing.assert_array_equal(changed_voxels(labels, proposal), np.flatnonzero(labels != proposal))
    assert changed_voxels(labels, labels).size == 0


def test_regions_among_known_voxels_are_those_that_the_whole_maps_give():
    labels, proposal, suspicious = noisy_maps()
    known = np.flatnonzero(suspicious & (labels != proposal))

    assert_same(
        regions_among(known, labels, proposal, SPACING, split_mm=4.0),
        find_regions(labels, proposal, suspicious, SPACING, split_mm=4.0),
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), split_mm=st.sampled_from([1.5, 4.0, 7.0]), ndim=st.sampled_from([1, 2, 3]))
def test_regions_are_the_pieces_that_cutting_voxel_by_voxel_leaves(seed, split_mm, ndim):
    rng = np.random.default_rng(seed)
    shape, spacing = rng.integers(1, 4 + 36 // ndim**2, ndim), rng.choice([0.4, 1.0, 3.0], ndim)
    smooth = [ndimage.gaussian_filter(rng.random(shape), 1.0) for _ in range(3)]
    proposal = np.argmax(smooth, axis=0).astype(np.uint8)

    regions = regions_of(proposal, spacing, split_mm=split_mm, min_voxels=1, min_volume=0)

    pieces = [piece for code in (1, 2) for piece in pieces_of(proposal == code, spacing, split_mm)]
    found = [np.flatnonzero(piece).tolist() for piece in pieces]
    assert sorted(found) == [regions.voxels(i).tolist() for i in range(len(regions))]


def pieces_of(mask, spacing, split_mm):
    """Masks of the connected parts of `mask`, long ones in slabs, and what is connected there again."""
    numbers, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    for part in (numbers == i for i in range(1, n + 1)):
        inside = np.argwhere(part)
        extent = np.ptp(inside, axis=0) + 1
        slabs = np.ceil(extent / np.maximum(1, np.floor(split_mm / spacing + 1e-9))).astype(int)
        if slabs.max(initial=1) == 1:
            yield part
            continue
        axis = np.where(slabs > 1, extent * spacing, 0).argmax()
        slab = (np.indices(mask.shape)[axis] - inside.min(axis=0)[axis]) * slabs[axis] // extent[axis]
        for i in range(slabs[axis]):
            yield from pieces_of(part & (slab == i), spacing, split_mm)


def test_regions_come_in_the_order_of_their_first_voxels():
    regions = find_regions(*noisy_maps(), SPACING)

    first = [regions.voxels(i)[0] for i in range(len(regions))]
    assert first == sorted(first) and len(first) > 10
    assert all((np.diff(regions.voxels(i)) > 0).all() for i in range(len(regions)))


def test_the_mean_over_a_region_is_that_of_its_voxels():
    regions = find_regions(*noisy_maps(), SPACING)
    likelihood = np.random.default_rng(0).random((20, 25, 30), np.float32)

    means = regions.means(likelihood)

    assert means[5] == pytest.approx(likelihood.flat[regions.voxels(5)].mean())
    steps, table = np.round(9 * likelihood).astype(np.uint8), np.arange(10) ** 2
    np.testing.assert_array_equal(regions.means(steps, table), regions.means(table[steps]))
    assert len(means) == len(regions)


def test_without_anything_suspicious_there_is_no_region():
    regions = regions_of(np.zeros((3, 4, 5)))

    assert len(regions) == 0
    assert regions.start.shape == (0, 3)
    assert regions.means(np.zeros((3, 4, 5))).shape == (0,)


def test_arrays_and_settings_that_do_not_fit_are_refused():
    with pytest.raises(ShapeMismatch, match="one grid"):
        find_regions(np.zeros((2, 3)), np.zeros((3, 2)), np.ones((2, 3), bool), (1, 1))
    with pytest.raises(ShapeMismatch, match="one grid"):
        changed_voxels(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ShapeMismatch, match="one value per axis"):
        regions_of(np.ones((2, 3)), (1, 1, 1))
    with pytest.raises(BadSetting, match="above 0"):
        regions_of(np.ones((2, 3)), (1, 1), split_mm=0)
    with pytest.raises(BadLabels, match="0 to 255"):
        find_regions(np.full((2, 3), 300), np.zeros((2, 3)), np.ones((2, 3), bool), (1, 1))
