from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from napari_noisylabel.arrays.pooling import (
    contested,
    extremised,
    pooled,
    stacking_weights,
    temperature,
    tempered,
)


def opinions(rng, truth, k, sharpness):
    """Probabilities (K, N) that are honest at `sharpness` 1: noisy logits in favour of the truth."""
    logits = rng.normal(0, 1.5, (k, truth.size))
    honest = np.exp(logits) / np.exp(logits).sum(0)
    drawn = np.array([rng.choice(k, p=p) for p in honest.T])
    logits = logits * sharpness
    return np.exp(logits) / np.exp(logits).sum(0), drawn


def test_an_opinion_that_is_twice_as_sure_as_it_may_be_gets_a_temperature_of_two():
    rng = np.random.default_rng(0)
    for sharpness in (0.5, 1.0, 2.0):
        probs, truth = opinions(rng, np.zeros(4000), 3, sharpness)
        assert temperature(probs, truth) == pytest.approx(sharpness, rel=0.1)
    assert temperature(np.zeros((3, 0)), np.zeros(0, int)) == 1


def test_tempering_keeps_the_order_of_the_classes_and_a_temperature_of_one_changes_nothing():
    probs = np.random.default_rng(1).dirichlet([1, 1, 1], (4, 5)).transpose(2, 0, 1)
    assert np.allclose(tempered(probs, 1), probs, atol=2e-3)
    for t in (0.3, 3.0):
        out = tempered(probs, t)
        assert np.allclose(out.sum(0), 1, atol=1e-5) and (out.argmax(0) == probs.argmax(0)).all()


def test_the_weights_are_those_that_a_general_optimiser_finds():
    rng = np.random.default_rng(2)
    likelihoods = np.stack([rng.beta(a, 2, 3000) for a in (6, 4, 1)])

    def loss(z):
        w = np.exp(z) / np.exp(z).sum()
        return -np.log(w @ likelihoods).mean()

    z = minimize(loss, np.zeros(3)).x
    assert np.allclose(stacking_weights(likelihoods, prior=0), np.exp(z) / np.exp(z).sum(), atol=0.02)


def test_who_is_right_more_often_counts_more_and_without_evidence_all_count_alike():
    rng = np.random.default_rng(3)
    likelihoods = np.stack([rng.uniform(0.6, 1, 500), rng.uniform(0, 1, 500)])
    weights = stacking_weights(likelihoods)
    assert weights[0] > 0.7 and weights.sum() == pytest.approx(1) and weights.min() > 0
    assert np.allclose(stacking_weights(np.zeros((4, 0))), 0.25)
    assert np.allclose(stacking_weights(np.ones((2, 50))), 0.5)


def test_the_pooled_opinion_is_a_mean_and_two_halves_of_one_opinion_are_that_opinion():
    probs = np.random.default_rng(4).dirichlet([1, 1], (3, 4)).transpose(2, 0, 1)
    other = probs[::-1]
    assert np.allclose(pooled([probs, other], [1, 1], [0.25, 0.75]), 0.25 * probs + 0.75 * other, atol=2e-3)
    assert np.allclose(pooled([probs, probs], [1, 1], [0.5, 0.5]), probs, atol=2e-3)


def test_voxels_are_contested_where_opinions_differ_or_are_unsure():
    sure_a, sure_b, unsure = (np.array(p)[:, None] for p in ([0.99, 0.01], [0.02, 0.98], [0.6, 0.4]))
    assert not contested([sure_a, sure_a])[0]
    assert contested([sure_a, sure_b])[0] and contested([sure_a, unsure])[0] and contested([unsure])[0]


def test_opinions_together_are_surer_than_their_mean_and_undecided_ones_stay_so():
    share = np.linspace(0, 1, 101)
    together = extremised(share)
    assert np.allclose(together[[0, 50, 100]], [0, 0.5, 1]) and extremised(np.array(2 / 3)) == pytest.approx(0.8)
    assert (np.diff(together) > 0).all() and np.allclose(together + together[::-1], 1)
    assert (np.abs(together - 0.5) >= np.abs(share - 0.5) - 1e-12).all()


def test_two_witnesses_who_saw_different_things_are_surer_together_than_their_mean():
    """Each sees one of two independent signs; the truth given both is known, and the mean falls short of it."""
    rng = np.random.default_rng(0)
    signs = rng.normal(0, 1, (2, 200_000))
    honest = 1 / (1 + np.exp(-1.5 * signs))
    odds = np.prod(honest / (1 - honest), axis=0)
    wrong = rng.random(odds.size) < odds / (1 + odds)
    mean = honest.mean(0)
    surely = (mean > 0.7) & (mean < 0.8)
    assert wrong[surely].mean() > mean[surely].mean() + 0.05
    assert abs(extremised(mean)[surely].mean() - wrong[surely].mean()) < 0.03
