"""Flips of single voxels follow their transition matrix, and the matrices what was published."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.noise_flips import asymmetric_matrix, flipped, symmetric_matrix

# fractions of background, shaft, wrist and clasper that were released with the code of JCAS
TRUE = np.array([0.8398, 0.0889, 0.0201, 0.0512])
SYMMETRIC_50 = np.array([0.4513, 0.1961, 0.1739, 0.1787])
ASYMMETRIC_50 = np.array([0.4525, 0.1939, 0.1700, 0.1837])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def instruments(n: int = 400_000) -> np.ndarray:
    """Labels with the published class fractions; not square."""
    counts = np.round(TRUE * n).astype(int)
    labels = np.repeat([0, 3, 7, 9], counts).astype(np.uint8)
    return labels[: len(labels) // 800 * 800].reshape(-1, 800)


def fractions(labels: np.ndarray) -> np.ndarray:
    return np.array([(labels == v).mean() for v in (0, 3, 7, 9)])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("shares", [(0.4, 0.4), (1.0, 0.0), (0.0, 0.0)])
def test_rows_sum_to_one_and_every_class_errs_at_the_rate(n, shares):
    for matrix in (symmetric_matrix(n, 0.3), asymmetric_matrix(n, 0.3, *shares)):
        assert np.allclose(matrix.sum(axis=1), 1) and (matrix >= 0).all()
        assert np.allclose(np.diag(matrix), 0.7 if n > 1 else 1.0)


def test_the_symmetric_setting_reproduces_the_published_fractions(rng):
    made = corrupt(instruments(), "as-published-symmetric-50", None, rng)
    assert np.abs(fractions(made.labels) - SYMMETRIC_50).max() < 0.005
    assert np.abs(TRUE @ symmetric_matrix(4, 0.495) - SYMMETRIC_50).max() < 0.004
    assert made.errors.mean() == pytest.approx(0.495, abs=0.005)


def test_the_asymmetric_setting_reproduces_the_published_fractions_with_our_matrix(rng):
    made = corrupt(instruments(), "as-published-asymmetric-50", None, rng)
    assert np.abs(fractions(made.labels) - ASYMMETRIC_50).max() < 0.004
    assert np.abs(TRUE @ asymmetric_matrix(4, 0.5, 0.4, 0.4) - ASYMMETRIC_50).max() < 0.002


def test_asymmetric_flips_have_favourites_in_two_foreground_classes_and_more():
    for n in (3, 4, 6):
        row = asymmetric_matrix(n, 0.5, 0.4, 0.4)[2]
        assert row[1] == pytest.approx(0.3 if n == 3 else 0.2) and row[0] == pytest.approx(0.2)
    assert np.allclose(asymmetric_matrix(2, 0.5, 0.4, 0.4), symmetric_matrix(2, 0.5))


def test_flips_are_drawn_by_the_row_of_the_true_class(rng):
    matrix = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.15, 0.15, 0.7]])
    labels = rng.integers(0, 3, (300, 401))
    out = flipped(labels, matrix, rng)
    counts = np.array([[((labels == i) & (out == j)).sum() for j in range(3)] for i in range(3)])
    assert np.abs(counts / counts.sum(axis=1, keepdims=True) - matrix).max() < 0.012


def test_severity_is_the_share_of_wrong_voxels_over_0_4_and_rate_replaces_it(rng):
    labels = instruments(80_000)
    assert corrupt(labels, "symmetric", 0.5, rng).errors.mean() == pytest.approx(0.2, abs=0.01)
    assert corrupt(labels, "asymmetric", 0.5, rng, rate=0.35).errors.mean() == pytest.approx(0.35, abs=0.01)


def test_errors_have_no_neighbours_unlike_those_of_a_front(rng):
    errors = corrupt(instruments(80_000), "symmetric", 0.5, rng).errors.astype(float)
    errors -= errors.mean()
    assert abs((errors[:, 3:] * errors[:, :-3]).mean() / errors.var()) < 0.02


def test_the_simple_segthor_flips_swap_with_background_only(rng):
    labels = rng.integers(0, 5, (200, 311)).astype(np.uint8)
    out = corrupt(labels, "as-published-segthor-flips", None, rng).labels
    assert not ((labels > 0) & (out > 0) & (out != labels)).any()
    assert (out[labels == 0] != 0).mean() == pytest.approx(0.05, abs=0.01)
    assert set(np.unique(out[labels == 0])) == {0, 1, 2, 3, 4}


def test_a_case_without_any_structure_errs_too_where_the_classes_are_known(rng):
    empty = np.zeros((60, 81), np.uint8)
    out = corrupt(empty, "symmetric", 0.5, rng, classes=(0, 2, 5, 255), ignore=255).labels
    assert set(np.unique(out)) == {0, 2, 5}
