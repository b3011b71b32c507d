from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.metrics import dice, signed_distance
from napari_noisylabel.methods.boundary_bias import border_bias
from napari_noisylabel.methods.boundary_shift import bumped, bumped_probs, capped, carried, kept

U = 0.7530891649796748  # u = exp(-u^2 / 2)


def ball(radius: float, spacing: tuple[float, ...], slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from the surface of a disk or ball, and probabilities of a logit linear in them, float16."""
    shape = {2: (90, 110), 3: (26, 44, 40)}[len(spacing)]
    axes = [(np.arange(n) - n / 2 + 0.3) * s for n, s in zip(shape, spacing, strict=True)]
    d = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij"))) - radius
    p = 1 / (1 + np.exp(np.minimum(slope * d, 50)))
    return d, np.stack([1 - p, p]).astype(np.float16)


def blobs(seed: int, n_classes: int = 3, shape: tuple[int, int] = (34, 45)) -> np.ndarray:
    """Smooth random probabilities (K, *shape) with several components per class."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    logits = np.stack([gaussian_filter(rng.normal(size=shape), 3) * 25 for _ in range(n_classes)])
    logits[0] += 1.5
    e = np.exp(logits - logits.max(0))
    return (e / e.sum(0)).astype(np.float16)


def radius_of(mask: np.ndarray, spacing: tuple[float, ...]) -> float:
    volume = mask.sum() * np.prod(spacing)
    return float(np.sqrt(volume / np.pi) if len(spacing) == 2 else np.cbrt(volume * 3 / 4 / np.pi))


# ---------------------------------------------------------------- property 4: the published bump


@pytest.mark.parametrize("bias", [-6.0, -2.5, 2.5, 6.0])
@pytest.mark.parametrize("slope", [0.3, 4.0])
def test_on_a_linear_logit_the_bump_moves_the_boundary_by_753_thousandths(bias, slope):
    d = np.linspace(-20, 20, 40001)
    d = d[d != 0]
    moved = bumped(-slope * d, d, bias) > 0
    assert d[moved].max() == pytest.approx(U * bias, abs=0.01)


def test_the_bump_is_the_one_of_a_loop():
    rng = np.random.default_rng(0)
    for bias, percentile in ((-2.0, 100), (2.0, 100), (-3.0, 95)):
        mask = np.zeros((13, 17), bool)
        mask[3:9, 4:12] = True
        d, s = signed_distance(mask, (1, 1)), rng.normal(size=mask.shape)
        band = [abs(s[p]) for p in np.ndindex(s.shape) if (bias <= d[p] < 0 if bias < 0 else 0 < d[p] <= bias)]
        b = np.percentile(band, percentile)
        wanted = [s[p] + np.sign(bias) * b * np.exp(-(d[p] ** 2) / (2 * bias**2)) for p in np.ndindex(s.shape)]
        np.testing.assert_allclose(bumped(s, d, bias, percentile).ravel(), wanted)


@pytest.mark.parametrize("bias", [-0.8, 0.8])
def test_a_bias_below_one_voxel_has_no_band_and_changes_nothing(bias):
    d, probs = ball(20, (1.0, 1.0), 1.0)
    np.testing.assert_array_equal(bumped_probs(probs, np.array([0, bias]), (1, 1), None).argmax(0), probs.argmax(0))


def test_a_flat_logit_is_not_moved_by_the_bump_and_fully_moved_by_carrying():
    d, _ = ball(20, (1.0, 1.0), 1.0)
    probs = np.stack([d > 0, d <= 0]).astype(np.float16)
    bump = bumped_probs(probs, np.array([0, -3.0]), (1, 1), None).argmax(0)
    assert radius_of(bump, (1, 1)) > 19  # the one ring at d = 1 of a logit that is the same everywhere
    moved = carried(probs, np.array([[0, 3.0], [-3.0, 0]]), (1, 1), None).argmax(0)
    assert radius_of(moved, (1, 1)) == pytest.approx(17, abs=0.2)


@pytest.mark.parametrize(("gamma", "published"), [(1 / 3, 0.2), (0.8, 0.6), (1.0, 0.753), (1.328, 1.0)])
def test_what_the_bump_takes_back_grows_with_gamma_as_in_the_table_of_the_specification(gamma, published):
    truth, (d, probs) = ball(30, (1.0, 1.0), 1.0)[0] <= 0, ball(38, (1.0, 1.0), 1.0)
    moved = bumped_probs(probs, np.array([0, -8 * gamma]), (1, 1), None).argmax(0)
    shares = (38 - radius_of(moved, (1, 1))) / 8
    assert shares == pytest.approx(U * gamma, abs=0.06)
    assert dice(moved == 1, truth) > dice(d <= 0, truth)


def test_two_classes_are_not_both_moved_away_from_the_border_they_share():
    logits = np.full((3, 40, 60), -5.0)
    x = np.arange(60)
    logits[0], inside = 0, np.abs(np.arange(40) - 20)[:, None] - 14.5
    logits[1] = np.minimum(-inside, 30 - x - 0.5)
    logits[2] = np.minimum(-inside, x - 30 + 0.5)
    e = np.exp(logits)
    probs = (e / e.sum(0)).astype(np.float16)
    moved = bumped_probs(probs, np.array([0, -4.0, -4.0]), (1, 1), None).argmax(0)
    assert (moved[20, 1:59] > 0).all() and (moved[:, 20] > 0).sum() < (probs.argmax(0)[:, 20] > 0).sum()


# ---------------------------------------------------------------- property 4, sign test


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bias", [-2.5, -1.2, 1.2, 2.5])
def test_a_negative_bias_never_adds_voxels_and_a_positive_one_never_removes_any(seed, bias):
    probs = blobs(seed, n_classes=2)
    before = probs.argmax(0) == 1
    by_border = carried(probs, np.array([[0, -bias], [bias, 0]]), (1.5, 1.0), None).argmax(0) == 1
    by_bump = bumped_probs(probs, np.array([0, bias]), (1.5, 1.0), None).argmax(0) == 1
    for after in (by_border, by_bump):
        assert (after <= before).all() if bias < 0 else (after >= before).all()
        assert (after != before).any()


@pytest.mark.parametrize("seed", range(5))
def test_carrying_keeps_probabilities_and_what_is_far_from_every_border_that_moves(seed):
    probs = blobs(seed)
    bias = np.array([[0, 1.5, 0], [-1.5, 0, 0], [0, 0, 0]])
    moved = carried(probs, bias, (1.5, 1.0), None)
    np.testing.assert_allclose(moved.sum(0), 1, atol=2e-3)
    guess, after = probs.argmax(0), moved.argmax(0)
    assert not ((after == 1) & (guess != 1)).any() and (after[guess == 2] == 2).all()


# ---------------------------------------------------------------- carrying is exact


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.5, 1.0), (2.0, 1.0, 1.5)])
@pytest.mark.parametrize("slope", [0.7, 3.0, 15.0])
@pytest.mark.parametrize("bias", [-2.0, -0.6, 0.6, 2.0])
def test_carrying_moves_the_boundary_by_the_bias_whatever_the_shape_of_the_logit(spacing, slope, bias):
    radius = {2: 25.0, 3: 12.0}[len(spacing)]
    d, probs = ball(radius, spacing, slope)
    moved = carried(probs, np.array([[0, -bias], [bias, 0]]), spacing, None).argmax(0)
    assert radius_of(moved, spacing) - radius_of(probs.argmax(0), spacing) == pytest.approx(bias, abs=0.25)
    left = border_bias(moved, (d <= bias).astype(np.uint8), 2, spacing, None)[1, 0]
    assert left == pytest.approx(0, abs=0.2)


def test_a_shared_border_moves_once_and_nothing_falls_to_background():
    probs = np.zeros((3, 40, 60), np.float16)
    probs[0], probs[1, 8:32, 8:30], probs[2, 8:32, 30:52] = 1, 1, 1
    probs[0, 8:32, 8:52] = 0
    bias = np.zeros((3, 3))
    bias[1, 2], bias[2, 1] = -3, 3
    moved = carried(probs, bias, (1.0, 1.0), None).argmax(0)
    before = probs.argmax(0)
    np.testing.assert_array_equal(moved > 0, before > 0)
    assert (moved[20, 8:27] == 1).all() and (moved[20, 27:52] == 2).all()


def test_thick_slices_are_carried_one_by_one():
    _, flat = ball(14, (1.0, 1.0), 2.0)
    full = np.stack([flat, np.broadcast_to(np.float16([[[1]], [[0]]]), flat.shape), flat], 1)
    bias = np.array([[0, 2.0], [-2.0, 0]])
    moved = carried(full, bias, (8.0, 1.0, 1.0), 0)
    np.testing.assert_allclose(moved[:, 0], carried(flat, bias, (1.0, 1.0), None), atol=1e-6)
    np.testing.assert_array_equal(moved[:, 1], full[:, 1])


def test_an_image_that_is_all_one_class_stays_as_it_is():
    bias = np.array([[0, 2.0], [-2.0, 0]])
    for p in (0.1, 0.9):
        probs = np.stack([np.full((6, 7), 1 - p), np.full((6, 7), p)])
        np.testing.assert_allclose(carried(probs, bias, (1, 1), None), probs, rtol=1e-6)
        np.testing.assert_allclose(bumped_probs(probs, np.array([0, -2.0]), (1, 1), None), probs, rtol=1e-4)


def test_an_object_cut_by_the_edge_of_the_array_keeps_its_cut_face():
    probs = np.zeros((2, 20, 31), np.float16)
    probs[0], probs[1, :12, 8:24] = 1, 1
    probs[0, :12, 8:24] = 0
    moved = carried(probs, np.array([[0, 2.0], [-2.0, 0]]), (1, 1), None).argmax(0)
    assert moved[0, 10:22].all() and not moved[10:, 8:24].any() and not moved[:, 8:10].any()


# ---------------------------------------------------------------- guards


def test_no_class_loses_more_than_half_of_its_depth():
    guess = np.zeros((40, 60), np.uint8)
    guess[4:36, 4:30], guess[10:14, 34:58] = 1, 2
    bias = np.array([[0, 3.0, 3.0], [-3.0, 0, -3.0], [-3.0, 3.0, 0]])
    depth = {k: np.percentile(-signed_distance(guess == k, (2, 1))[guess == k], 90) for k in (1, 2)}
    found = capped(bias, guess, (2, 1), None, 0.5)
    assert found[1, 0] == -3 and found[2, 0] == pytest.approx(-0.5 * depth[2]) == -found[0, 2]
    assert found[1, 2] == -3 and (capped(-bias, guess, (2, 1), None, 0.5)[1:, 0] == 3).all()
    np.testing.assert_allclose(capped(np.array([0, -3.0, -3.0]), guess, (2, 1), None, 0.5), found[:, 0])


def test_a_component_that_would_be_erased_stays_and_others_shrink():
    probs = np.zeros((2, 30, 41), np.float16)
    probs[1, 4:20, 4:20], probs[1, 24:28, 30:34] = 1, 1
    probs[0] = 1 - probs[1]
    moved = carried(probs, np.array([[0, 2.5], [-2.5, 0]]), (1, 1), None)
    assert not moved.argmax(0)[24:28, 30:34].any()
    found = kept(probs, moved).argmax(0)
    assert found[24:28, 30:34].all() and found.sum() < probs.argmax(0).sum()
