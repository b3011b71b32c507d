"""The published Markov process: its limits, its calibration, its correlation."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.markov import markov, scaled_markov


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def disk(shape: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2 <= radius**2


def bias(moved: np.ndarray, true: np.ndarray) -> float:
    """Mean over the true outer ring of the signed distance to the moved mask, minus 1, in pixels."""
    ring = distance(~true, (1, 1)) == 1
    signed = distance(~moved, (1, 1)) - distance(moved, (1, 1))
    return float((signed[ring] - 1).mean())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def correlation(errors: np.ndarray, lag: int = 3) -> float:
    e = errors - errors.mean()
    return float((e[:, lag:] * e[:, :-lag]).mean() / (e**2).mean())


def dilated_slowly(mask: np.ndarray) -> np.ndarray:
    out = mask.copy()
    for at in np.argwhere(mask):
        for axis in range(mask.ndim):
            for sign in (-1, 1):
                near = at.copy()
                near[axis] += sign
                if 0 <= near[axis] < mask.shape[axis]:
                    out[tuple(near)] = True
    return out


@pytest.mark.parametrize("shape", [(11, 16), (6, 9, 11)])
def test_certain_growth_is_dilation_by_face_neighbours_and_certain_shrinkage_erosion(shape, rng):
    mask = rng.random(shape) < 0.1
    mask[tuple(slice(2, 6) for _ in shape)] = True

    grown = markov(mask, 2, 1.0, 1.0, 0.0, rng, smooth=False)
    shrunk = markov(mask, 2, 0.0, 1.0, 0.0, rng, smooth=False)

    assert np.array_equal(grown, dilated_slowly(dilated_slowly(mask)))
    assert np.array_equal(shrunk, ~dilated_slowly(dilated_slowly(~mask)))


@pytest.mark.parametrize("theta1", [0.0, 0.6, 1.0])
def test_each_step_flips_ring_voxels_one_by_one_as_in_plain_loops(theta1):
    mask = disk((17, 23), 5)
    fast = markov(mask, 12, theta1, 0.3, 0.0, np.random.default_rng(4), smooth=False)

    rng, slow = np.random.default_rng(4), mask.copy()
    for grows in rng.random(12) < theta1:
        ring = dilated_slowly(slow) & ~slow if grows else slow & dilated_slowly(~slow)
        for at, draw in zip(np.argwhere(ring), rng.random(ring.sum()), strict=True):
            if draw < 0.3:
                slow[tuple(at)] = grows

    assert np.array_equal(fast, slow)


def test_without_flips_a_smooth_mask_comes_back_and_the_input_is_never_changed(rng):
    mask = disk((60, 44), 15)
    before = mask.copy()

    same = markov(mask, 50, 0.8, 0.0, 0.0, rng)
    markov(mask, 50, 0.8, 0.5, 0.2, rng)

    assert dice(same, mask) > 0.99
    assert np.array_equal(mask, before)


def test_smoothing_removes_almost_all_isolated_flips():
    true = disk((128, 140), 30)
    far = (distance(true, (1, 1)) + distance(~true, (1, 1))) > 4
    raw, smooth = (
        (markov(true, 0, 0.8, 0.05, 0.2, np.random.default_rng(3), smooth=s) != true)[far].mean() for s in (False, True)
    )
    assert raw == pytest.approx(0.2, abs=0.01) and smooth < 0.01


@pytest.mark.parametrize("fill", [False, True])
def test_an_empty_or_full_mask_has_no_ring(fill, rng):
    mask = np.full((9, 12), fill)
    assert np.array_equal(markov(mask, 30, 0.5, 0.5, 0.0, rng), mask)


def test_the_order_of_memory_does_not_matter():
    mask = disk((40, 31), 9)
    a, b = (markov(m, 40, 0.8, 0.05, 0.1, np.random.default_rng(1)) for m in (mask, np.asfortranarray(mask)))
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("steps", "theta1", "theta2", "expected", "sd"),
    [
        (180, 0.8, 0.05, -9.4, 0.6),
        (180, 0.2, 0.05, 8.5, 1.3),
        (180, 0.5, 0.05, -1.3, 1.0),
        (100, 0.8, 0.02, -2.3, 0.3),
    ],
)
def test_a_disk_is_displaced_as_much_as_by_the_published_process(steps, theta1, theta2, expected, sd):
    true = disk((128, 128), 30)
    moved = [markov(true, steps, theta1, theta2, 0.2, np.random.default_rng(s)) for s in range(6)]
    found = [bias(m, true) for m in moved]
    assert abs(np.mean(found) - expected) < 2 * sd


def test_an_object_as_large_as_a_heart_gets_the_dice_and_error_of_the_published_masks():
    true = disk((256, 256), 43.3)  # 0.090 of the image
    moved = [markov(true, 180, 0.8, 0.05, 0.2, np.random.default_rng(s)) for s in range(6)]

    assert np.mean([dice(m, true) for m in moved]) == pytest.approx(0.772, abs=2 * 0.019)
    assert np.mean([bias(m, true) for m in moved]) == pytest.approx(-8.95, abs=2 * 1.13)
    assert np.mean([(m ^ true).mean() for m in moved]) == pytest.approx(0.053, abs=0.01)


@pytest.mark.parametrize(
    ("steps", "theta1", "theta2", "expected"),
    [(180, 0.8, 0.05, 0.75), (180, 0.2, 0.05, 0.78), (100, 0.8, 0.02, 0.20)],
)
def test_errors_are_correlated_and_lie_near_the_boundary_unlike_single_flips(steps, theta1, theta2, expected):
    true = disk((128, 128), 30)
    depth = distance(true, (1, 1)) + distance(~true, (1, 1))
    errors = [true ^ markov(true, steps, theta1, theta2, 0.2, np.random.default_rng(s)) for s in range(10)]
    flips = np.random.default_rng(0).random((8, 128, 128)) < errors[0].mean()

    assert np.mean([correlation(e) for e in errors]) == pytest.approx(expected, abs=0.07)
    assert abs(np.mean([correlation(f) for f in flips])) < 0.02
    assert np.mean([(depth[e] <= 15).mean() for e in errors]) > 0.94


@pytest.mark.parametrize("radius", [3, 8, 25])
@pytest.mark.parametrize("theta1", [0.2, 0.8])
def test_scaled_steps_change_small_and_large_objects_by_the_same_share(radius, theta1):
    obj = disk((110, 120), radius)
    wanted, nothing, seeds = round(0.4 * obj.sum()), np.zeros_like(obj), range(10)
    moved = [scaled_markov(obj, nothing, wanted, theta1, 0.05, np.random.default_rng(s))[0] for s in seeds]
    change = np.mean([int(m.sum()) - int(obj.sum()) for m in moved]) / obj.sum()
    assert change * np.sign(theta1 - 0.5) == pytest.approx(0.4, abs=0.15)


def test_nothing_wanted_is_no_step_at_all(rng):
    obj = disk((20, 24), 6)
    moved, steps = scaled_markov(obj, np.zeros_like(obj), 0, 0.8, 0.05, rng)
    assert steps == 0 and np.array_equal(moved, obj)
