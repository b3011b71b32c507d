from __future__ import annotations

import math

import numpy as np
import pytest

from napari_noisylabel.arrays import sampling


def some_probs(n: int = 40, k: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([0.7] * k, n).T


def test_uncertainties_are_those_of_the_definitions_example_by_example():
    probs = some_probs()
    for i, p in enumerate(probs.T):
        best = sorted(p)[::-1]
        assert sampling.entropy(probs)[i] == pytest.approx(-sum(v * math.log(v) for v in p))
        assert sampling.least_confidence(probs)[i] == pytest.approx(1 - best[0])
        assert sampling.margin(probs)[i] == pytest.approx(1 - (best[0] - best[1]))


def test_with_two_classes_entropy_least_confidence_and_margin_give_the_same_order():
    probs = some_probs(k=2)
    orders = [np.argsort(-f(probs)) for f in (sampling.entropy, sampling.least_confidence, sampling.margin)]
    assert (orders[0] == orders[1]).all() and (orders[0] == orders[2]).all()


def test_with_more_classes_they_differ():
    probs = some_probs()
    assert (np.argsort(-sampling.entropy(probs)) != np.argsort(-sampling.margin(probs))).any()


def test_passes_that_agree_do_not_disagree_and_certain_opposites_do_by_ln_2():
    same = np.stack([some_probs()] * 5)
    opposite = np.array([[[1.0], [0.0]], [[0.0], [1.0]]])
    assert sampling.disagreement(same) == pytest.approx(0, abs=1e-12)
    assert sampling.disagreement(opposite) == pytest.approx(math.log(2))


def test_two_passes_that_are_unsure_alike_do_not_disagree():
    assert sampling.disagreement(np.full((2, 2, 1), 0.5)) == pytest.approx(0)


def test_the_core_set_is_the_one_found_by_looking_at_all_distances_each_time():
    rng = np.random.default_rng(3)
    points, centres = rng.normal(size=(12, 3)), rng.normal(size=(2, 3))
    known, expected = list(centres), []
    for _ in range(5):
        far = [min(math.dist(p, c) for c in known) if i not in expected else -1 for i, p in enumerate(points)]
        expected.append(int(np.argmax(far)))
        known.append(points[expected[-1]])
    assert sampling.farthest_first(points, centres, 5).tolist() == expected


def test_the_core_set_takes_none_twice_and_no_more_than_there_are():
    points = np.zeros((4, 2))
    assert sorted(sampling.farthest_first(points, np.zeros((1, 2)), 9).tolist()) == [0, 1, 2, 3]


def test_distances_count_within_a_group_only():
    points, centres = np.array([[0.0], [5.0], [4.0]]), np.array([[0.0], [4.1]])
    groups = np.array([0, 0, 1]), np.array([0, 0])
    assert sampling.farthest_first(points, centres, 1, groups).tolist() == [2]  # its group has no centre


def test_classes_are_asked_about_in_turn_each_best_first():
    scores, classes = np.array([9.0, 8, 7, 3, 1]), np.array([0, 0, 0, 2, 2])
    assert sampling.in_turn(scores, classes).tolist() == [0, 3, 1, 4, 2]


def test_pieces_of_one_object_come_apart():
    assert sampling.spread([2, 0, 1, 3], ["a", "b", "a", "b"]).tolist() == [2, 1, 0, 3]
