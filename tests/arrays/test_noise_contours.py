"""Dilation and erosion have the published displacement; ellipses the moments of what they replace."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.noise_contours import dilated
from napari_noisylabel.arrays.shapes import same_moments


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def disk(shape: tuple[int, int] = (128, 140), radius: float = 30) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2 <= radius**2


def bias(moved: np.ndarray, true: np.ndarray) -> float:
    """Mean over the true outer ring of the signed distance to the moved mask, minus 1, in pixels."""
    ring = distance(~true, (1, 1)) == 1
    return float(((distance(~moved, (1, 1)) - distance(moved, (1, 1)))[ring] - 1).mean())


def moments(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    at = np.argwhere(mask) * np.asarray(spacing)
    return at.mean(axis=0), np.cov(at.T, bias=True)


def blob(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A bent object that is no ellipse: two boxes that overlap."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(n // 3, n // 3 + n // 4) for n in shape)] = True
    mask[tuple(slice(n // 2 - 3, n // 2 + 3 + 2 * a) for a, n in enumerate(shape))] = True
    return mask


# ---------------------------------------------------------------- dilation and erosion


@pytest.mark.parametrize(("radius", "grows", "expected"), [
    (3, True, -3.40), (8, True, -8.35), (3, False, 2.31), (8, False, 7.33),
])  # fmt: skip
def test_a_disk_is_displaced_by_the_values_of_the_specification(radius, grows, expected):
    assert bias(dilated(disk(), radius, (1, 1), grows=grows), disk()) == pytest.approx(expected, abs=0.02)


def test_a_perfect_mask_has_no_bias():
    assert bias(disk(), disk()) == 0


@pytest.mark.parametrize("fill", [False, True])
def test_an_empty_and_a_full_mask_stay(fill):
    mask = np.full((5, 6, 7), fill)
    assert np.array_equal(dilated(mask, 3, (1, 1, 1), grows=True), mask)
    assert np.array_equal(dilated(mask, 3, (1, 1, 1), grows=False), mask)


def test_published_radii_are_in_voxels_and_drawn_between_their_bounds():
    radii, directions = [], []
    for seed in range(30):
        labels = disk().astype(np.uint8)
        made = corrupt(labels, "as-published-dilation-erosion-jsrt", None, np.random.default_rng(seed), (3.0, 3.0))
        of_class = made.parameters["classes"]["1"]
        radii.append(of_class["radius_voxels"])
        directions.append(of_class["grown"])
        assert bias(made.labels > 0, disk()) * (1 if of_class["grown"] else -1) == pytest.approx(-radii[-1], abs=1.0)
    assert 7 <= min(radii) < 7.5 and 8.5 < max(radii) <= 9 and 8 < sum(directions) < 22


def test_one_direction_holds_for_all_classes_of_a_case(rng):
    labels = np.zeros((90, 120), np.uint8)
    labels[20:40, 20:40], labels[50:80, 70:100] = 1, 2
    for seed in range(8):
        made = corrupt(labels, "dilation-erosion", 0.5, np.random.default_rng(seed), (1.5, 1.0))
        sizes = [np.sign(int((made.labels == c).sum()) - int((labels == c).sum())) for c in (1, 2)]
        assert sizes[0] == sizes[1] == (1 if made.parameters["classes"]["1"]["grown"] else -1)


def test_the_contour_moves_by_millimetres_and_the_dice_is_met_to_a_voxel(rng):
    y, x = np.ogrid[:60, :90]
    labels = ((((y - 30) * 1.5) ** 2 + (x - 45) ** 2) <= 20**2).astype(np.uint8)
    out = corrupt(labels, "dilation-erosion", 0.5, rng, (1.5, 1.0), grow=1, spread=0).labels
    extent = [np.ptp(np.flatnonzero(out.any(axis))) * mm for axis, mm in ((1, 1.5), (0, 1.0))]
    assert 2 * (out & labels).sum() / (out.sum() + labels.sum()) == pytest.approx(0.8, abs=0.002)
    assert extent[0] == pytest.approx(extent[1], abs=3)


# ---------------------------------------------------------------- ellipses


@pytest.mark.parametrize(("shape", "spacing"), [((80, 110), (1.0, 1.7)), ((40, 50, 60), (2.0, 1.0, 1.3))])
def test_an_ellipse_has_the_centroid_and_the_second_moments_of_its_object(shape, spacing, rng):
    mask = blob(shape, rng)
    (center, spread), (center_of, spread_of) = moments(mask, spacing), moments(same_moments(mask, spacing), spacing)
    assert np.abs(center - center_of).max() < 0.5 * min(spacing)
    assert np.allclose(spread, spread_of, rtol=0.06, atol=0.6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 2.0)])
def test_an_ellipse_is_its_own_ellipse_and_a_voxel_stays_a_voxel(spacing):
    y, x = np.ogrid[:60, :90]
    ellipse = ((y - 30) / 20) ** 2 + ((x - 45) / 33) ** 2 <= 1
    again = same_moments(ellipse, spacing)
    assert 2 * (again & ellipse).sum() / (again.sum() + ellipse.sum()) > 0.985
    voxel = np.zeros((5, 7), bool)
    voxel[2, 3] = True
    assert np.array_equal(same_moments(voxel, spacing), voxel)


def test_a_stretched_ellipse_is_as_large_and_longer():
    shape = same_moments(disk(), (1.0, 1.0), 1.5)
    extent = sorted(np.ptp(np.flatnonzero(shape.any(axis))) for axis in (0, 1))
    assert shape.sum() == pytest.approx(disk().sum(), rel=0.03)
    assert extent[1] / extent[0] == pytest.approx(1.5**2, rel=0.05)


def test_the_published_setting_redraws_each_object_on_its_own_in_class_order(rng):
    labels = np.zeros((80, 110), np.uint8)
    labels[10:30, 10:30] = labels[50:60, 10:50] = 1
    labels[20:60, 60:90] = 2
    out = corrupt(labels, "as-published-ellipse", None, rng).labels
    for c in (1, 2):
        parts = (
            [(slice(0, 40), slice(0, 55)), (slice(40, 80), slice(0, 55))]
            if c == 1
            else [(slice(0, 80), slice(55, 110))]
        )
        for box in parts:
            assert np.abs(moments(out[box] == c, (1, 1))[0] - moments(labels[box] == c, (1, 1))[0]).max() < 0.5
    assert not out[10, 10] and out[20, 9] == 1  # corners go, sides bulge
