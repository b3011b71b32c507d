from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from napari_noisylabel.errors import InputError
from napari_noisylabel.methods import fmi_consensus as hoc
from napari_noisylabel.methods.fmi_consensus import Consensus, check_usable, consensus, expected, neighbours, solve

CLASSES = ("background", "liver", "spleen")


def some_matrix(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A transition matrix with a large diagonal, and frequencies."""
    return 0.45 * rng.dirichlet(np.ones(n), n) + 0.55 * np.eye(n), rng.dirichlet(np.full(n, 3.0))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# ---------------------------------------------------------------- neighbours


def test_neighbours_come_from_other_cases_each_from_another_one_nearest_first():
    rng = np.random.default_rng(0)
    x, cases = rng.normal(size=(60, 3)), rng.integers(0, 5, 60)
    near = unit(x) @ unit(x).T
    found = neighbours(x, cases, depth=2)
    assert found.shape == (60, 4, 2)
    for a in range(60):
        of = {u: sorted((b for b in range(60) if cases[b] == u), key=lambda b: -near[a, b])[:2] for u in range(5)}
        del of[cases[a]]
        assert found[a].tolist() == sorted(of.values(), key=lambda best: -near[a, best[0]])


def test_of_two_cases_both_neighbours_are_of_the_other_one():
    rng = np.random.default_rng(1)
    x, cases = rng.normal(size=(20, 3)), np.repeat([0, 1], 10)
    near = unit(x) @ unit(x).T
    for a, found in enumerate(neighbours(x, cases)[:, :, 0]):
        others = [b for b in range(20) if cases[b] != cases[a]]
        assert found.tolist() == sorted(others, key=lambda b: -near[a, b])[:2]


def test_without_cases_an_example_is_no_neighbour_of_its_own_but_its_duplicate_is():
    x = np.array([[1.0, 0], [1, 0], [1, 0.1], [0, 1]])
    found = neighbours(x, None)[:, :, 0]
    assert found[0].tolist() == [1, 2] and found[1].tolist() == [0, 2]


def test_voxels_of_one_case_have_no_neighbours():
    with pytest.raises(InputError, match=r"neighbours must come from other cases.*come from 1 case\(s\). Add cases"):
        neighbours(np.ones((5, 2)), np.zeros(5, int))
    with pytest.raises(InputError, match="three examples, got 2"):
        neighbours(np.ones((2, 2)), None)


def test_the_first_two_allowed_neighbours_keep_their_order():
    found = np.array([[7, 3, 5, 1], [2, 4, 6, 8]])
    allowed = np.array([[False, True, False, True], [False, False, True, False]])
    two, enough = hoc.first_two(found, allowed)
    assert two[0].tolist() == [3, 1] and enough.tolist() == [True, False]


def test_the_purest_are_those_with_the_clearest_vote_of_each_class():
    shares = np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]])
    kept = hoc.purest(shares, np.array([0.0, 0.1, 0.0, 0.9, 0.0, 0.0]), 0.5)
    assert kept.tolist() == [True, False, False, True, False, True]


# ---------------------------------------------------------------- the equations


def test_shares_of_pairs_and_triples_sum_to_one_and_have_the_singles_as_margin():
    triples = np.random.default_rng(0).integers(0, 3, (200, 3))
    found = consensus(triples, 3)
    assert found.second.sum() == pytest.approx(1) and found.third.sum() == pytest.approx(1)
    assert found.second.sum(axis=1) == pytest.approx(found.first)
    for j, k, n in np.ndindex(3, 3, 3):
        assert found.third[j, k, n] == np.mean((triples == (j, k, n)).all(axis=1))


def test_the_expected_consensus_is_the_sum_over_the_true_classes():
    t, p = some_matrix(3, np.random.default_rng(1))
    found = expected(t, p)
    for j, k, n in np.ndindex(3, 3, 3):
        assert found.third[j, k, n] == pytest.approx(sum(p[i] * t[i, j] * t[i, k] * t[i, n] for i in range(3)))
        assert found.second[j, k] == pytest.approx(sum(p[i] * t[i, j] * t[i, k] for i in range(3)))
        assert found.first[j] == pytest.approx(sum(p[i] * t[i, j] for i in range(3)))


@pytest.mark.parametrize("kind", [hoc._squared, hoc._unsquared], ids=["squared", "not squared"])
def test_the_gradient_is_that_of_small_differences(kind):
    rng = np.random.default_rng(2)
    c = Consensus(rng.random(3), rng.random((3, 3)), rng.random((3, 3, 3)))
    objective, x = kind(c), rng.normal(size=12)
    assert objective(x)[1] == pytest.approx(approx_fprime(x, lambda v: objective(v)[0], 1e-7), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_from_an_exact_consensus_the_solver_finds_the_matrix(n):
    rng = np.random.default_rng(n)
    t, p = some_matrix(n, rng)
    found = solve(expected(t, p), rng)
    assert np.abs(found.matrix - t).max() < 1e-5 and np.abs(found.prior - p).max() < 1e-5
    assert found.objective < 1e-6 and found.ambiguity < 1e-5


def test_many_classes_are_solved_without_second_derivatives():
    rng = np.random.default_rng(9)
    t, p = some_matrix(9, rng)
    found = solve(expected(t, np.full(9, 1 / 9)), rng, starts=1)
    assert np.abs(found.matrix - t).mean() < 0.01


def test_the_released_solver_keeps_its_best_step_unless_told_to_return_the_last():
    t, p = some_matrix(3, np.random.default_rng(4))
    observed = expected(t, p)
    best, last = (
        hoc.solve_as_released(observed, np.random.default_rng(0), steps=300, keep=keep) for keep in ("best", "last")
    )
    assert best.objective < last.objective
    assert np.abs(hoc.solve_as_released(observed, np.random.default_rng(0)).matrix - t).max() < 0.02


def test_pairs_alone_do_not_tell_the_matrix_and_the_ambiguity_says_so():
    """A third order of zeros is as good as none: many matrices explain it as badly."""
    t, p = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0.5, 0.5])
    found = solve(expected(t, p), np.random.default_rng(0))
    assert found.objective < 1e-3 and (found.ambiguity > 0.05 or np.abs(found.matrix - t).max() < 0.05)


def test_counting_takes_the_neighbours_label_for_the_truth():
    triples = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
    assert hoc.counted_matrix(consensus(triples, 3)).tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]


# ---------------------------------------------------------------- what cannot be used


def test_a_singular_matrix_is_refused_and_names_the_classes_that_look_the_same():
    singular = np.array([[0.9, 0.05, 0.05], [0.1, 0.46, 0.44], [0.1, 0.45, 0.45]])
    with pytest.raises(InputError, match=r"singular \(smallest singular value 0.0\d+\): 'liver' and 'spleen'"):
        check_usable(singular, CLASSES)


def test_a_class_that_is_mostly_given_as_another_one_is_refused():
    with pytest.raises(InputError, match="more than half of the labels of 'spleen'.*given as 'liver'"):
        check_usable(np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.0, 0.7, 0.3]]), CLASSES)
    check_usable(np.eye(3), CLASSES)
