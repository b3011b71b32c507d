from __future__ import annotations

import math

import numpy as np
import pytest

from napari_noisylabel.arrays import likelihood as lk
from napari_noisylabel.arrays.mixture import Mixture, posterior
from napari_noisylabel.records import IGNORE

SPLIT = Mixture((-3.0, 2.0), (1.0, 1.0), (0.8, 0.2), True, "split", 1000.0, -4.0, 0.0, 0)
WHOLE = Mixture((0.0, 0.0), (1.0, 1.0), (1.0, 0.0), False, "no split", 1000.0, -4.0, 0.0, 0)


def square(row: int, column: int, size: int = 10, k: int = 1) -> np.ndarray:
    labels = np.zeros((40, 53), np.uint8)
    labels[row : row + size, column : column + size] = k
    return labels


def test_stored_scores_are_exact_to_a_quarter_of_a_thousandth():
    score = np.random.default_rng(0).uniform(0, 16, 1000)
    assert np.abs(lk.to_nats(lk.to_uint16(score)) - score).max() < 2.5e-4
    assert list(lk.to_uint16(np.array([-1, 0, 16, 99]))) == [0, 0, 65535, 65535]


def test_a_histogram_counts_what_a_loop_counts():
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 65536, (7, 9)).astype(np.uint16)
    labels = rng.choice([0, 1, 2, IGNORE], (7, 9)).astype(np.uint8)
    skip = rng.random((7, 9)) < 0.3
    expected = np.zeros((3, lk.BINS), int)
    for s, k, out in zip(stored.ravel(), labels.ravel(), skip.ravel(), strict=True):
        if not out and k < 3:
            expected[k, int(s) * lk.BINS // 65536] += 1
    np.testing.assert_array_equal(lk.score_histogram(stored, labels, 3, skip), expected)
    edges = lk.bin_edges()
    assert np.allclose((edges[1:] + edges[:-1]) / 2, lk.bin_centres())


def test_half_floats_become_single_ones_exactly():
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16)  # all that are finite and >= 0, subnormal ones, too
    np.testing.assert_array_equal(lk.as_single(every[::-1]), every[::-1].astype(np.float32))
    assert lk.as_single(every).dtype == lk.as_single(np.ones(2)).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_storing_scores_rounds_block_by_block_as_it_does_at_once(dtype, monkeypatch):
    monkeypatch.setattr(lk, "BLOCK", 100)
    values = np.random.default_rng(0).normal(4, 6, (7, 9, 11)).astype(dtype)
    score = values.astype(np.float32)
    expected = np.round(np.clip(score, 0, 16) * (65535 / 16)).astype(np.uint16)
    np.testing.assert_array_equal(lk.to_uint16(score.T), expected.T)
    np.testing.assert_array_equal(lk.as_uint8(values), np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))


def test_log_odds_are_those_of_the_probability_and_rise():
    p = np.array([0.999, 0.9, 0.5, 0.01])  # p(label)
    np.testing.assert_allclose(lk.log_odds(-np.log(p)), np.log((1 - p) / p), rtol=1e-6)
    odds = lk.log_odds(np.linspace(0, 16, 5000))
    assert (np.diff(odds) >= 0).all() and odds[0] == -7 and odds[-1] == 7


def test_the_table_is_the_posterior_or_where_nothing_splits_one_minus_p():
    table = lk.voxel_table([SPLIT, WHOLE])
    assert table.shape == (2, 65536) and (np.diff(table, axis=1) >= 0).all()
    for stored in (0, 17, 4000, 30000, 65535):
        nats = stored * 16 / 65535
        x = -7.0 if stored == 0 else float(np.clip(math.log(math.expm1(nats)), -7, 7))
        assert table[0, stored] == pytest.approx(float(posterior(SPLIT, np.array(x))), abs=1e-4)
        assert table[1, stored] == pytest.approx(1 - math.exp(-nats), abs=1e-6)


def test_voxel_mixtures_find_the_noisy_hump_per_class_and_pass_over_empty_classes():
    rng = np.random.default_rng(0)
    odds = np.concatenate([rng.normal(-2.5, 0.8, 20000), rng.normal(3, 0.8, 2000)])
    stored = lk.to_uint16(np.log1p(np.exp(odds)))
    fits = lk.fit_voxels(lk.score_histogram(stored, np.ones(stored.shape, np.uint8), 3, None))
    assert [f.split for f in fits] == [False, True, False] and fits[2].n == 0
    assert fits[1].means[1] == pytest.approx(3, abs=0.4) and fits[1].weights[1] == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize("moved", [1, 3])
def test_the_displacement_of_a_shifted_square_is_the_one_counted_by_hand(moved):
    given, found = square(5, 9), square(5, 9 + moved)
    # 10 voxels gained and 10 lost per column of shift, over the 36 voxels of the rim
    assert lk.displacement(given, found, 1, (0, 1)) == pytest.approx(20 * moved / 36)
    assert lk.displacement(given, given, 1, (0, 1)) == 0


def test_a_grown_square_is_displaced_by_its_growth():
    given, found = square(10, 20, 20), square(9, 19, 22)
    assert lk.displacement(given, found, 1, (0, 1)) == pytest.approx((22**2 - 20**2) / ((76 + 84) / 2))


def test_displacement_knows_absent_classes_edges_and_slices():
    assert math.isnan(lk.displacement(square(5, 9), square(5, 9), 2, (0, 1)))
    assert lk.displacement(square(5, 9), np.zeros((40, 53), np.uint8), 1, (0, 1)) == pytest.approx(100 / 18)
    full = np.ones((8, 9), np.uint8)
    assert lk.displacement(full, full, 1, (0, 1)) == 0
    slab, moved = (np.zeros((3, 12, 15), np.uint8) for _ in range(2))
    slab[1, 2:8, 3:9], moved[1, 2:8, 4:10] = 1, 1
    assert lk.displacement(slab, moved, 1, (1, 2)) == pytest.approx(12 / 20)
    assert lk.displacement(slab, moved, 1, (0, 1, 2)) == pytest.approx(12 / 36)  # across slices all is boundary


@pytest.mark.parametrize("fit", [SPLIT, WHOLE])
def test_likelihoods_of_cases_rise_with_their_displacement(fit):
    excess = np.linspace(0, 4, 400)
    likelihood = lk.case_likelihood(fit, excess)
    assert (np.diff(likelihood) >= 0).all() and likelihood[0] < 1e-6 and likelihood[-1] > 0.999
    assert lk.case_likelihood(fit, np.array([np.nan]))[0] == 0
    assert lk.case_likelihood(WHOLE, np.array(1.0)) == pytest.approx(0.5)


def test_clean_cases_stay_clean_and_a_project_that_is_wrong_throughout_does_not():
    rng = np.random.default_rng(0)
    clean, wrong = rng.lognormal(np.log(0.6), 0.15, 60), rng.lognormal(np.log(1.6), 0.1, 60)
    assert (lk.case_likelihood(lk.fit_cases(clean), clean) > 0.5).mean() < 0.02
    assert (lk.case_likelihood(lk.fit_cases(wrong), wrong) > 0.9).mean() > 0.9
    both = np.concatenate([clean, wrong, [np.nan]])
    found = lk.case_likelihood(lk.fit_cases(both), both)
    assert (found[:60] > 0.5).mean() < 0.05 and (found[60:120] > 0.9).all() and found[120] == 0


@pytest.mark.parametrize("shape", [(12, 15), (5, 9, 8)])
def test_displacement_is_what_a_loop_over_voxels_counts(shape):
    rng = np.random.default_rng(len(shape))
    for _ in range(5):
        a, b = (rng.choice([0, 1, 2], shape, p=[0.2, 0.1, 0.7]).astype(np.uint8) for _ in range(2))
        a[:2], b[:3], b[..., -2:] = 0, 0, 0
        axes = range(len(shape))[-2:]
        surface = (rim(a == 2, axes) + rim(b == 2, axes)) / 2
        assert lk.displacement(a, b, 2, axes) == ((a == 2) != (b == 2)).sum() / surface


def rim(mask, axes):
    """Voxels of `mask` beside one that is in the array and not in the mask."""

    def open_at(voxel):
        sides = [np.add(voxel, d * np.eye(mask.ndim, dtype=int)[axis]) for axis in axes for d in (-1, 1)]
        return any((s >= 0).all() and (s < mask.shape).all() and not mask[tuple(s)] for s in sides)

    return sum(open_at(voxel) for voxel in np.argwhere(mask))


def test_networks_that_do_not_agree_allow_more():
    seen, between = np.array([1.5, 1.5, np.nan, 1.5]), np.array([0.1, 3.0, 1.0, np.nan])
    np.testing.assert_allclose(lk.excess(seen, between), [1.5, 1.5 / 3.9, np.nan, 1.5])


@pytest.mark.parametrize("dtypes", [(np.float16, np.float16), (np.float32, np.float64), (np.float16, np.float32)])
def test_rejection_is_what_a_loop_finds(dtypes):
    rng = np.random.default_rng(0)
    both = rng.dirichlet([1, 1, 1], (2, 7, 9)).transpose(0, 3, 1, 2)
    unseen, seen = (probs.astype(dtype) for probs, dtype in zip(both, dtypes, strict=True))
    labels = rng.choice([0, 1, 2, IGNORE], (7, 9)).astype(np.uint8)
    found = lk.rejection(unseen, seen, labels)
    for y, x in np.ndindex(7, 9):
        k, a, b = int(labels[y, x]), unseen[:, y, x], seen[:, y, x]
        same = k != IGNORE and a.argmax() == b.argmax()
        assert found[y, x] == pytest.approx(1 - float(max(a[k], b[k])) if same else 0.0, abs=1e-6)


def test_the_map_of_a_case_takes_the_worse_drawn_of_the_two_classes():
    labels = np.array([[0, 1, 2, IGNORE]], np.uint8)
    proposal = np.array([[2, 0, 2, 1]], np.uint8)
    found = lk.case_map(np.array([0.0, 0.5, 0.9]), labels, proposal, np.array([[255, 255, 51, 0]], np.uint8))
    np.testing.assert_array_equal(found, [[round(255 * 0.9), 128, round(0.2 * round(255 * 0.9)), 0]])


def test_what_labels_share_counts_only_from_the_class_that_is_there_to_the_one_that_should_be():
    rng = np.random.default_rng(0)
    labels, proposal = (rng.choice([0, 1, 2, IGNORE], (5, 40)).astype(np.uint8) for _ in range(2))
    rejected = rng.integers(0, 256, labels.shape).astype(np.uint8)
    bad, systematic = np.array([0.0, 0.2, 0.9]), np.zeros((3, 3))
    systematic[1, 0], systematic[0, 2] = 0.8, 0.5
    found = lk.case_map(bad, labels, proposal, rejected, systematic)
    for at in np.ndindex(*labels.shape):
        c, k = int(labels[at]), int(proposal[at])
        worst = max([bad[i] for i in (c, k) if i != IGNORE], default=0.0)
        shared = 0.0 if IGNORE in (c, k) else systematic[c, k]
        assert found[at] == pytest.approx(max(worst, shared) * int(rejected[at]), abs=1.01)
    np.testing.assert_array_equal(
        lk.case_map(bad, labels, proposal, rejected, np.zeros((3, 3))), lk.case_map(bad, labels, proposal, rejected)
    )


def test_regions_without_a_split_are_as_likely_as_their_voxels_are_rejected():
    scores, rejected = np.array([0.1, 5.0, 40.0]), np.array([0.2, 0.7, 0.9])
    np.testing.assert_array_equal(lk.region_likelihood(WHOLE, scores, rejected), rejected)
    assert (np.diff(lk.region_likelihood(SPLIT, scores, rejected)) >= 0).all()
    assert lk.fit_regions(np.zeros(0)).split is False
    assert lk.as_uint8(np.array([-1, 0, 0.5, 1, 2])).tolist() == [0, 0, 128, 255, 255]
