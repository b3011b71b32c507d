from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.errors import InputError
from napari_noisylabel.methods.fmi_weights import (
    decoupled,
    f_mutual_information,
    standardised,
    varying,
    weights_from,
)


def noisy(truth: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.random((len(truth), 1)) > matrix[truth].cumsum(1)).sum(1).clip(max=len(matrix) - 1)


def columns(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Four features of which each says less about the class than the one before."""
    return np.stack([truth * s + rng.normal(size=len(truth)) for s in (2.0, 1.0, 0.5, 0.2)], axis=1)


@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_the_information_is_that_of_the_variational_form_summed_cell_by_cell(divergence):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 900)
    x = columns(y, rng)
    found = f_mutual_information(x, y, 3, divergence)
    for m in range(4):
        edges = np.linspace(*np.percentile(x[:, m], [0.5, 99.5]), 64)
        counts = np.zeros((63, 3))
        for v, k in zip(x[:, m], y, strict=True):
            if edges[0] <= v <= edges[-1]:
                counts[min(np.searchsorted(edges, v, "right") - 1, 62), k] += 1
        p = (counts + np.finfo(float).eps) / (counts + np.finfo(float).eps).sum()
        total = 0.0
        for i, j in np.ndindex(63, 3):
            q = p[i].sum() * p[:, j].sum()
            ratio = p[i, j] / q
            g = np.sign(ratio - 1) / 2 if divergence == "tv" else 1 + np.log(ratio)
            total += p[i, j] * g - q * (g if divergence == "tv" else np.exp(g - 1))
        assert found[m] == pytest.approx(total, abs=2e-3)  # a value on an edge may fall into either bin


def test_with_two_classes_noise_takes_one_factor_off_the_total_variation_of_every_feature():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 200_000)
    x = columns(y, rng)
    given = noisy(y, np.array([[0.6, 0.4], [0.2, 0.8]]), rng)
    ratio = f_mutual_information(x, given, 2) / f_mutual_information(x, y, 2)
    assert ratio[:3] == pytest.approx(0.4, abs=0.02)  # |1 - e0 - e1|; the last column is mostly sampling error


def test_symmetric_noise_among_more_classes_does_so_too():
    rng = np.random.default_rng(2)
    y = rng.integers(0, 4, 200_000)
    x, eps = columns(y, rng), 0.3
    given = noisy(y, np.full((4, 4), eps / 3) + (1 - eps * 4 / 3) * np.eye(4), rng)
    ratio = f_mutual_information(x, given, 4) / f_mutual_information(x, y, 4)
    assert ratio == pytest.approx(1 - eps * 4 / 3, abs=0.03)


def test_noise_that_depends_on_the_class_takes_information_away_and_adds_none():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 100_000)
    x = columns(y, rng)
    given = noisy(y, np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.15, 0.15, 0.7]]), rng)
    clean, left = f_mutual_information(x, y, 3), f_mutual_information(x, given, 3)
    assert (left < clean).all() and (np.argsort(-left) == np.argsort(-clean)).all()


def test_sign_and_scale_of_a_decoupled_feature_do_not_change_its_weight():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, 4000)
    z = decoupled(standardised(columns(y, rng)))
    turned = z * [-1.0, 3.0, -0.2, 50.0]
    one, other = (weights_from(f_mutual_information(v, y, 3)) for v in (z, turned))
    assert one == pytest.approx(other, abs=2e-3)  # ties on the edges of bins


def test_decoupled_features_are_uncorrelated_and_null_directions_are_dropped():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3))
    z = decoupled(standardised(np.concatenate([x, x[:, :1] - x[:, 1:2]], axis=1)))
    assert z.shape == (500, 3)
    assert z.T @ z / 500 == pytest.approx(np.eye(3), abs=1e-9)


def test_a_feature_with_one_value_says_nothing_and_cannot_be_scaled():
    x = np.stack([np.arange(10.0), np.full(10, 4.0)], axis=1)
    assert varying(x).tolist() == [True, False]
    assert f_mutual_information(x, np.arange(10) % 2, 2)[1] == 0
    with pytest.raises(InputError, match="column 1 has the value 4 for all 10 examples. Leave it out"):
        standardised(x)


def test_weights_lie_between_nearly_nothing_and_one_and_a_floor_lifts_the_least():
    information = np.array([0.3, 0.1, 0.2])
    assert weights_from(information) == pytest.approx([1, 0, 0.5], abs=1e-6)
    assert weights_from(information, 0.05).min() == pytest.approx(0.05, abs=1e-6)
    assert weights_from(np.full(3, 0.2)) == pytest.approx(1)


def test_two_bins_of_labels_as_released_cannot_tell_three_classes_apart():
    y = np.repeat([0, 1, 2], 300)
    x = np.where(y == 2, 1.0, 0.0)[:, None] + np.random.default_rng(6).normal(0, 0.01, (900, 1))
    assert f_mutual_information(x, y, 3, label_bins=2)[0] < 0.7 * f_mutual_information(x, y, 3)[0]
