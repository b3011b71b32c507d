"""Under- and over-segmentation errs by a share of the object's size, as published for SegTHOR."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.noise_resized import _cubic, resized, resized_and_moved


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def disk(radius: float, shape: tuple[int, int] = (256, 240)) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2 <= radius**2


def radius(mask: np.ndarray) -> float:
    return float(np.sqrt(mask.sum() / np.pi))


def test_interpolation_is_cubic_as_in_plain_loops(rng):
    values, n = rng.random(11), 17
    found = _cubic(11, n) @ values
    for i in range(n):
        at = (i + 0.5) * 11 / n - 0.5
        total = 0.0
        for j in range(-3, 15):
            d = abs(at - j)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            total += (near if d <= 1 else far if d < 2 else 0) * values[min(max(j, 0), 10)]
        assert found[i] == pytest.approx(total, abs=1e-5)


def test_the_same_grid_changes_nothing_and_a_finer_one_and_back_next_to_nothing(rng):
    mask = disk(21)
    assert np.array_equal(resized(mask, mask.shape), mask)
    again = resized(resized(mask, (512, 480)), mask.shape)
    assert (again ^ mask).sum() < 0.01 * mask.sum()


@pytest.mark.parametrize("size", [9, 17.84, 40, 70])
@pytest.mark.parametrize("iterations", [2, 4])
@pytest.mark.parametrize("grows", [False, True])
def test_the_error_is_a_share_of_the_radius_whatever_the_size(size, iterations, grows):
    mask = disk(size)
    moved = resized_and_moved(mask, iterations, (1, 1), grows=grows)
    share = abs(radius(moved) / radius(mask) - 1)
    assert iterations / 18 - 0.03 < share < 1.35 * iterations / 18 + 0.03  # a square reaches further at its corners


def test_in_3d_and_with_thick_voxels_the_share_is_the_same():
    z, y, x = np.ogrid[:30, :60, :62]
    ball = ((z - 15) * 2.0) ** 2 + (y - 30) ** 2 + (x - 31) ** 2 <= 18**2
    moved = resized_and_moved(ball, 3, (2.0, 1.0, 1.0), grows=False)
    inner = [np.ptp(np.flatnonzero(moved.any(axes))) * mm for axes, mm in (((1, 2), 2.0), ((0, 1), 1.0))]
    assert np.cbrt(moved.sum() / ball.sum()) == pytest.approx(1 - 1.35 * 3 / 18, abs=0.04)  # corners
    assert inner[0] == pytest.approx(inner[1], abs=2.5)


def test_each_slice_draws_its_own_direction_and_all_its_classes_follow_it():
    labels = np.zeros((12, 100, 110), np.uint8)
    labels[:, 20:40, 20:40], labels[:, 60:90, 60:100] = 2, 4
    made = corrupt(labels, "as-published-segthor", None, np.random.default_rng(1), (2.5, 1.0, 1.0))
    grown = []
    for z in range(12):
        signs = {np.sign(int((made.labels[z] == c).sum()) - int((labels[z] == c).sum())) for c in (2, 4)}
        assert len(signs) == 1
        grown.append(signs.pop())
    assert made.parameters["per_slice"] and {-1, 1} == set(grown)
    assert {d["iterations"] for d in made.parameters["drawn"]} == {2, 3, 4}


def test_a_true_volume_goes_one_way_as_a_whole(rng):
    labels = np.zeros((40, 50, 44), np.uint8)
    labels[10:25, 10:25, 10:25], labels[28:36, 30:44, 20:40] = 1, 2
    drawn = corrupt(labels, "under-over", 0.5, rng, (1.0, 1.2, 1.0)).parameters["drawn"]
    assert [d["class"] for d in drawn] == [1, 2] and drawn[0]["grown"] == drawn[1]["grown"]


def test_a_class_that_grows_takes_background_only_in_the_published_order(rng):
    labels = np.zeros((80, 90), np.uint8)
    labels[30:50, 20:40], labels[30:50, 44:64] = 2, 4
    first = {}
    for order in ((4, 2), (2, 4)):
        out = corrupt(labels, "under-over", 0.5, rng, grow=1, least=8, most=8, order=order).labels
        assert np.array_equal(out[labels > 0], labels[labels > 0])
        first[order] = int((out[35:45, 40:44] == order[0]).sum()), int((out[35:45, 40:44] == order[1]).sum())
    assert all(n > m for n, m in first.values())


def test_a_class_that_shrinks_stays_within_its_mask_unless_it_may_spill():
    y, x = np.ogrid[:60, :70]
    labels = np.where((y - 30) ** 2 + (x - 35) ** 2 <= 100, 3, 1).astype(np.uint8)
    labels[24:27, 30:60] = 2  # thin, so that resizing rounds it beyond its border
    taken = {}
    for spill in (False, True):
        out = corrupt(labels, "under-over", 0.5, np.random.default_rng(0), grow=0, least=0, most=0, spill=spill).labels
        taken[spill] = int(((out == 0) & (labels != 0)).sum())
        assert set(np.unique(out)) <= {0, 1, 2, 3}
    assert taken[True] > taken[False]
