"""Two Gaussians tell clean from noisy scores, or say that they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_noisylabel.arrays.mixture import (
    Mixture,
    fit_mixture,
    fit_mixture_samples,
    posterior,
    posterior_lut,
)
from napari_noisylabel.errors import InputError, ShapeMismatch

SCORES = np.linspace(-20, 20, 2001)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def two_gaussians(rng, n, share=0.3, apart=4.0, sd=1.0):
    noisy = rng.random(n) < share
    return np.where(noisy, rng.normal(apart, sd, n), rng.normal(0, 1, n))


def histogram(values, bins=1024):
    counts, edges = np.histogram(values, bins)
    return counts, (edges[1:] + edges[:-1]) / 2


def test_a_known_mixture_is_recovered(rng):
    for _ in range(20):
        mixture = fit_mixture_samples(two_gaussians(rng, 1000))

        assert mixture.split, mixture.reason
        assert mixture.means == pytest.approx((0, 4), abs=0.25)
        assert mixture.weights == pytest.approx((0.7, 0.3), abs=0.05)


@pytest.mark.parametrize("draw", [np.random.Generator.standard_normal, np.random.Generator.standard_exponential])
def test_one_cloud_of_scores_is_not_split(rng, draw):
    mixtures = [fit_mixture_samples(draw(rng, 300)) for _ in range(15)]

    assert not any(mixture.split for mixture in mixtures)
    assert not posterior(mixtures[0], SCORES).any()


def test_of_a_hundred_clouds_none_is_split_and_of_fifty_mixtures_all_are(rng):
    clouds = [draw(size=300) for draw in (rng.normal, rng.lognormal) for _ in range(100)]
    assert not any(fit_mixture_samples(cloud).split for cloud in clouds)

    found = [fit_mixture_samples(two_gaussians(rng, 1000)) for _ in range(50)]
    assert all(mixture.split for mixture in found)
    assert max(abs(np.subtract(mixture.means, (0, 4))).max() for mixture in found) < 0.25
    assert max(abs(np.subtract(mixture.weights, (0.7, 0.3))).max() for mixture in found) < 0.06


def test_a_long_tail_is_not_split_however_many_voxels_it_has(rng):
    mixture = fit_mixture(*histogram(rng.lognormal(size=300_000)))

    assert not mixture.split
    assert "sd apart" in mixture.reason


def test_the_order_of_the_scores_changes_nothing(rng):
    values = two_gaussians(rng, 500)

    assert fit_mixture_samples(values) == fit_mixture_samples(values[::-1]) == fit_mixture_samples(np.sort(values))


def test_the_smaller_mean_is_clean_even_where_most_scores_are_noisy(rng):
    counts, centers = histogram(two_gaussians(rng, 50_000, share=0.7))

    mixture = fit_mixture(counts[::-1], centers[::-1])

    assert mixture.means == pytest.approx((0, 4), abs=0.05)
    assert mixture.weights == pytest.approx((0.3, 0.7), abs=0.02)


def test_errors_in_one_voxel_of_two_hundred_are_found(rng):
    mixture = fit_mixture(*histogram(two_gaussians(rng, 400_000, share=0.005, apart=6)))

    assert mixture.split
    assert mixture.means == pytest.approx((0, 6), abs=0.1)
    assert mixture.weights[1] == pytest.approx(0.005, abs=0.0005)


def test_the_fit_is_the_fixed_point_of_em_written_with_plain_loops():
    values = [0.0, 0.5, 0.9, 1.1, 1.4, 1.6, 2.0, 6.1, 6.8, 7.0, 7.3, 8.0]
    mixture = fit_mixture_samples(np.array(values))

    means, sds, weights = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for c in (0, 1):
        r = [responsibility(mixture, x, c) for x in values]
        weights[c] = sum(r) / len(values)
        means[c] = sum(a * x for a, x in zip(r, values, strict=True)) / sum(r)
        variance = sum(a * (x - means[c]) ** 2 for a, x in zip(r, values, strict=True)) / sum(r)
        sds[c] = (variance + 5e-4) ** 0.5

    assert mixture.split
    assert (*means, *sds, *weights) == pytest.approx((*mixture.means, *mixture.sds, *mixture.weights), abs=1e-4)


def responsibility(mixture, x, component):
    density = [
        w / s * np.exp(-((x - m) ** 2) / (2 * s * s))
        for m, s, w in zip(mixture.means, mixture.sds, mixture.weights, strict=True)
    ]
    return density[component] / sum(density)


def test_the_histogram_fit_agrees_with_scikit_learn_on_the_values(rng):
    sklearn = pytest.importorskip("sklearn.mixture")
    values = two_gaussians(rng, 20_000, sd=2.0)

    mixture = fit_mixture(*histogram(values))
    other = sklearn.GaussianMixture(2, tol=1e-9, max_iter=1000, means_init=[[0], [4]]).fit(values[:, None])

    assert mixture.means == pytest.approx(tuple(other.means_[:, 0]), abs=0.01)
    assert mixture.sds == pytest.approx(tuple(np.sqrt(other.covariances_[:, 0, 0])), abs=0.01)
    assert mixture.weights == pytest.approx(tuple(other.weights_), abs=0.005)


def test_neighbouring_voxels_do_not_count_as_independent_evidence(rng):
    counts, centers = histogram(two_gaussians(rng, 200, share=0.05, apart=3.5), bins=40)

    many, few = (fit_mixture(counts * 1000, centers, effective_n=n) for n in (None, 30))

    assert (many.split, few.split) == (True, False)
    assert "BIC" in few.reason
    assert many.n == few.n == 200_000


@given(
    gap=st.floats(0.01, 10),
    sds=st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)),
    share=st.floats(0.001, 0.999),
)
def test_the_likelihood_never_falls_where_the_score_rises(gap, sds, share):
    p = posterior(a_mixture((0.0, gap), sds, (1 - share, share)), SCORES)

    assert (np.diff(p) >= 0).all()
    assert p[0] == 0 and p[-1] == 1


def a_mixture(means=(0.0, 4.0), sds=(1.0, 1.0), weights=(0.5, 0.5), clean_below=-np.inf, split=True):
    return Mixture(means, sds, weights, split, "", 1.0, clean_below, 0.0, 1)


def test_the_likelihood_is_one_half_where_both_components_are_as_likely():
    assert posterior(a_mixture(), np.array([[1.0, 2.0, 3.0]])) == pytest.approx(
        np.array([[0.018, 0.5, 0.982]]), abs=1e-3
    )


def test_a_fifth_of_the_scores_stays_clean_even_if_nearly_all_look_noisy(rng):
    values = two_gaussians(rng, 1000, share=0.95, apart=8)

    mixture = fit_mixture_samples(values)

    assert mixture.split
    assert (posterior(mixture, values) < 0.5).mean() == pytest.approx(0.2, abs=0.005)


def test_a_case_without_a_score_counts_as_clean(rng):
    values = np.append(two_gaussians(rng, 300), [np.nan, np.nan])

    mixture = fit_mixture_samples(values)

    assert mixture.n == 300
    assert (posterior(mixture, values)[-2:] == 0).all()


def test_the_table_gives_each_stored_level_its_likelihood():
    levels = np.array([-3.0, 3.0, 9.0])
    codes = np.array([[2, 0], [1, 1], [0, 2]])

    likelihood = posterior_lut(a_mixture(), levels)[codes]

    assert likelihood.dtype == np.uint8
    assert likelihood.tolist() == [[255, 0], [250, 250], [0, 255]]


@pytest.mark.parametrize(("values", "why"), [([2.5] * 50, "equal"), ([0.0, 0.1, 9.0, 9.1], "too few")])
def test_scores_that_show_nothing_are_not_split_and_say_why(values, why):
    mixture = fit_mixture_samples(np.array(values))

    assert not mixture.split
    assert why in mixture.reason


def test_many_equal_scores_do_not_make_the_fit_collapse(rng):
    values = np.append(np.zeros(900), rng.normal(3, 0.5, 100))

    mixture = fit_mixture_samples(values)

    assert mixture.split
    assert mixture.means == pytest.approx((0, 3), abs=0.2)
    assert min(mixture.sds) >= 5e-4**0.5


def test_what_is_no_histogram_is_refused():
    with pytest.raises(ShapeMismatch, match="one count per bin centre"):
        fit_mixture(np.ones(4), np.arange(5))
    with pytest.raises(InputError, match="0 or more"):
        fit_mixture(np.array([1, -1]), np.arange(2))
    with pytest.raises(InputError, match="0 or more"):
        fit_mixture_samples(np.array([1.0, np.inf]))
    with pytest.raises(InputError, match="at least one score"):
        fit_mixture_samples(np.array([np.nan]))


def test_a_smaller_gain_in_bic_may_be_asked_for_and_one_gaussian_still_is_one():
    rng = np.random.default_rng(0)
    few = np.concatenate([rng.normal(0, 1, 40), rng.normal(4, 1.5, 20)])
    gains = [g for g in range(60) if fit_mixture_samples(few, min_gain=g).split]
    assert gains == list(range(len(gains))) and fit_mixture_samples(few) == fit_mixture_samples(few, min_gain=10)
    assert not any(fit_mixture_samples(rng.normal(size=68), min_gain=4).split for _ in range(40))
