"""How often neighbours agree, and which transition matrix explains it.

The estimator HOC: Z. Zhu, Y. Song, Y. Liu, "Clusterability as an Alternative to Anchor Points When
Learning with Noisy Labels", ICML 2021 (arXiv 2102.05291). If an example and its two nearest
neighbours are of one class, and their labels went wrong independently, then with T[i, j] =
P(given = j, if true = i) and p the frequencies of the true classes

    c1[j] = sum_i p_i T[i, j]      c2[j, k] = sum_i p_i T[i, j] T[i, k]      c3 likewise of three.

Labels of one drawing go wrong together, so neighbours come from other cases only, and the two from
two cases. Shapes: N examples, M features, K classes, U cases (or groups of them), R neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from napari_noisylabel.errors import InputError

RANKS = 32
"""Neighbours that are kept of each example, one per case."""
LARGE_K = 8
"""From so many classes on the solver keeps no matrix of second derivatives."""
RESIDUAL_SCALE = 1e3
ALIKE = 1.05
"""Starts that end within 5 % of the best objective count as solutions, too."""
SINGULAR = 0.05
"""A smallest singular value below this: what two classes become is the same."""


class Consensus(NamedTuple):
    """Shares of labels of examples (K,), of pairs (K, K) and of triples (K, K, K); each sums to 1."""

    first: np.ndarray
    second: np.ndarray
    third: np.ndarray


@dataclass(frozen=True, eq=False)
class Solution:
    """A transition matrix (K, K), the true frequencies (K,) and how well they explain the consensus.

    `objective` is the published one: the norms of what is left unexplained, and the diagonal term,
    without which T with exchanged rows would do as well. `ambiguity` is the largest difference in any
    entry between solutions that do as well, over the starts.
    """

    matrix: np.ndarray
    prior: np.ndarray
    objective: float
    ambiguity: float = 0.0


# ---------------------------------------------------------------- neighbours


def neighbours(features: np.ndarray, cases: np.ndarray | None, depth: int = 1) -> np.ndarray:
    """The nearest examples of each example by cosine, nearest case first: (N, R, D) indices, R at least 2.

    Parameters
    ----------
    features : (N, M), of any length but 0.
    cases : (N,) case of each example: R are the other cases, at most 32, and D the nearest examples in
        each. Where there are only two cases, R are the two nearest of the other one; where `cases` is
        None, the two nearest of all but the example itself. D is 1 then.
    depth : D, or as many as the smallest case has.

    Raises
    ------
    InputError : all examples are of one case, or there are fewer than three.
    """
    x = np.asarray(features, np.float32)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    if cases is None:
        return _two_of_all(x)[:, :, None]
    names = np.unique(cases)
    if len(names) < 2:
        raise InputError(
            f"neighbours must come from other cases, because labels of one drawing go wrong together, and labelled "
            f"voxels come from {len(names)} case(s). Add cases, or train with more of them in each fold."
        )
    return _some_of_each(x, cases, names, depth) if len(names) > 2 else _two_of_the_other(x, cases, names)


def first_two(found: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of neighbours (N, R), the first two that are `allowed` (N, R), and which rows (N,) have two."""
    order = np.argsort(~allowed, axis=1, kind="stable")[:, :2]
    return np.take_along_axis(found, order, 1), allowed.sum(axis=1) >= 2


def purest(shares: np.ndarray, closeness: np.ndarray, keep: float) -> np.ndarray:
    """(N,) bool: of the examples voted for each class, the share `keep` with the clearest vote.

    Parameters
    ----------
    shares : (N, K), of the votes of further neighbours, which say nothing about the triple itself:
        where they agree, neighbours are of one class; T is the same there as elsewhere, if errors
        depend on the class alone.
    closeness : (N,), decides between equal votes, high = close.
    keep : in (0, 1].
    """
    voted, clear = shares.argmax(axis=1), shares.max(axis=1)
    kept = np.zeros(len(shares), bool)
    for k in np.unique(voted):
        own = np.flatnonzero(voted == k)
        best = own[np.lexsort((closeness[own], clear[own]))[::-1]]
        kept[best[: max(1, round(keep * len(own)))]] = True
    return kept


def consensus(triples: np.ndarray, n_classes: int) -> Consensus:
    """Shares from labels (N, 3) of examples and of their two neighbours."""
    k = n_classes
    a, b, c = triples.astype(np.int64).T
    third = np.bincount((a * k + b) * k + c, minlength=k**3).reshape(k, k, k) / max(1, len(triples))
    return Consensus(third.sum(axis=(1, 2)), third.sum(axis=2), third)


def counted_matrix(observed: Consensus) -> np.ndarray:
    """Plain counting of disagreements, (K, K): the label, given that of the nearest neighbour as if it were true.

    Rows of classes that no neighbour shows are those of the identity.
    """
    rows = observed.second.T  # [neighbour, own]
    total = rows.sum(axis=1, keepdims=True)
    return np.where(total > 0, rows / np.where(total > 0, total, 1), np.eye(len(rows)))


# ---------------------------------------------------------------- the equations


def expected(matrix: np.ndarray, prior: np.ndarray) -> Consensus:
    """The consensus that T (K, K) and p (K,) lead to."""
    weighted = prior[:, None] * matrix
    second = weighted.T @ matrix
    n = len(prior)
    third = (weighted[:, :, None] * matrix[:, None]).reshape(n, -1).T @ matrix
    return Consensus(weighted.sum(axis=0), second, third.reshape(n, n, n))


def unexplained(observed: Consensus, matrix: np.ndarray, prior: np.ndarray) -> float:
    """Euclidean norms, not squared, of what T and p leave of the three orders; and the sum of (T_ii - max_j T_ij)^2."""
    gap = np.diagonal(matrix) - matrix.max(axis=1)
    norms = (np.linalg.norm(e - o) for e, o in zip(expected(matrix, prior), observed, strict=True))
    return float(sum(norms) + gap @ gap)


def solve(observed: Consensus, rng: np.random.Generator, starts: int = 6, near: Solution | None = None) -> Solution:
    """T and p that explain the consensus best, by BFGS on squared residuals from several starts.

    Parameters
    ----------
    observed : of the three orders.
    rng : for the starts after the first.
    starts : how many; the one with the lowest unsquared objective is kept.
    near : start here instead, once.

    Returns
    -------
    The diagonal of T is the largest of each row, unless that costs more than it explains.

    Source: equations, softmax rows and diagonal term of the papers; the solver is ours and finds T from an
    exact consensus to 1e-5, K = 2 to 5.
    """
    n = len(observed.first)
    found = []
    for start in range(1 if near else starts):
        first = _free_of(near) if near else _start(n, observed, rng, start)
        objective = _squared(observed)
        how = {"gtol": 1e-8, "maxiter": 500}
        end = minimize(objective, first, jac=True, method="BFGS" if n < LARGE_K else "L-BFGS-B", options=how)
        matrix, prior = _unpacked(end.x, n)
        found.append(Solution(matrix, prior, unexplained(observed, matrix, prior)))
    return _best(found)


def solve_as_released(
    observed: Consensus, rng: np.random.Generator, steps: int = 1501, lr: float = 0.1, keep: str = "best"
) -> Solution:
    """T and p by Adam on the unsquared norms and the diagonal term, as the released code of Beyond Images.

    `keep` "best" returns the step with the lowest objective after the fifth, as that code means to;
    "last" the last one, as it does, because it keeps a view of what goes on changing.
    """
    n = len(observed.first)
    x = np.concatenate([(3 * np.eye(n) - 2 * rng.random((n, n))).ravel(), 1 / n + 0.1 * rng.random(n)])
    objective = _unsquared(observed)
    mean, square = np.zeros_like(x), np.zeros_like(x)
    best, lowest = x, np.inf
    for step in range(1, steps + 1):
        value, gradient = objective(x)
        if step > 5 and value < lowest:
            best, lowest = x, value
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        x = x - lr * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    matrix, prior = _unpacked(best if keep == "best" else x, n)
    return Solution(matrix, prior, unexplained(observed, matrix, prior))


def check_usable(matrix: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raises InputError where T (K, K) cannot be corrected for: it is singular, or a diagonal is not the largest."""
    smallest = float(np.linalg.svd(matrix, compute_uv=False)[-1])
    if smallest < SINGULAR:
        i, j = _most_alike(matrix)
        raise InputError(
            f"a transition matrix must tell classes apart, and this one is singular (smallest singular value "
            f"{smallest:.3f}): {classes[i]!r} and {classes[j]!r} get the same labels. Look at these two classes, or "
            "add cases."
        )
    for i, row in enumerate(matrix):
        if row.argmax() != i:
            raise InputError(
                f"more than half of the labels of {classes[i]!r} would be wrong: it is given as "
                f"{classes[int(row.argmax())]!r} more often than as itself. Look at its masks, or add cases."
            )


# ---------------------------------------------------------------- helpers, in order of use


def _two_of_all(x: np.ndarray) -> np.ndarray:
    if len(x) < 3:
        raise InputError(f"a consensus of three labels needs three examples, got {len(x)}. Add labelled voxels.")
    found = np.empty((len(x), 2), np.int64)
    for a in range(0, len(x), 1024):
        near = x[a : a + 1024] @ x.T
        rows = np.arange(len(near))
        near[rows, a + rows] = -np.inf  # itself, by index: a duplicate is a neighbour like any other
        for rank in range(2):
            found[a : a + 1024, rank] = near.argmax(axis=1)
            near[rows, found[a : a + 1024, rank]] = -np.inf
    return found


def _some_of_each(x: np.ndarray, cases: np.ndarray, names: np.ndarray, depth: int) -> np.ndarray:
    members = [np.flatnonzero(cases == name) for name in names]
    depth = min(depth, *map(len, members))
    nearness = np.empty((len(x), len(names)), np.float32)
    index = np.empty((*nearness.shape, depth), np.int64)
    rows = np.arange(len(x))
    for u, own in enumerate(members):
        near = x @ x[own].T
        for rank in range(depth):
            best = near.argmax(axis=1)
            index[:, u, rank] = own[best]
            if rank == 0:
                nearness[:, u] = near[rows, best]
            near[rows, best] = -np.inf
        nearness[own, u] = -np.inf
    order = np.argsort(-nearness, axis=1, kind="stable")[:, : min(RANKS, len(names) - 1)]
    return np.take_along_axis(index, order[:, :, None], 1)


def _two_of_the_other(x: np.ndarray, cases: np.ndarray, names: np.ndarray) -> np.ndarray:
    found = np.empty((len(x), 2), np.int64)
    for name in names:
        own, other = np.flatnonzero(cases == name), np.flatnonzero(cases != name)
        near = x[own] @ x[other].T
        best = near.argmax(axis=1)
        near[np.arange(len(own)), best] = -np.inf
        found[own, 0], found[own, 1] = other[best], other[near.argmax(axis=1)]
    return found[:, :, None]


def _start(n: int, observed: Consensus, rng: np.random.Generator, number: int) -> np.ndarray:
    """Free parameters: those of HOC for T first, then those of Beyond Images."""
    rows = 5 * np.eye(n) - 1 if number == 0 else 3 * np.eye(n) - 2 * rng.random((n, n))
    return np.concatenate([rows.ravel(), np.log(observed.first + 1e-3)])


def _free_of(solution: Solution) -> np.ndarray:
    return np.log(np.concatenate([solution.matrix.ravel(), solution.prior]) + 1e-4)


def _unpacked(x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """T with softmax rows and p from free parameters (K * K + K,)."""
    return _softmax(x[: n * n].reshape(n, n)), _softmax(x[n * n :])


def _softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def _squared(observed: Consensus) -> Objective:
    return _objective(observed, lambda r: (RESIDUAL_SCALE * float((r * r).sum()), 2 * RESIDUAL_SCALE * r))


def _unsquared(observed: Consensus) -> Objective:
    def norm(r: np.ndarray) -> tuple[float, np.ndarray]:
        length = float(np.linalg.norm(r))
        return length, r / max(length, 1e-12)

    return _objective(observed, norm)


def _objective(observed: Consensus, measure: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> Objective:
    """Value and gradient: `measure` of the residuals of each order, and the diagonal term."""
    n = len(observed.first)

    def at(x: np.ndarray) -> tuple[float, np.ndarray]:
        t, p = _unpacked(x, n)
        parts = [measure(e - o) for e, o in zip(expected(t, p), observed, strict=True)]
        (_, r1), (_, r2), (_, r3) = parts
        r2 = r2 + r2.T
        own = t @ r1  # of row i: what grows with p_i, order by order
        pairs = t @ r2
        r3 = r3 + r3.transpose(1, 0, 2) + r3.transpose(2, 0, 1)
        triples = ((r3 @ t.T) * t.T).sum(axis=1).T
        d_p = own + 0.5 * (pairs * t).sum(axis=1) + (triples * t).sum(axis=1) / 3
        d_t = p[:, None] * (r1[None] + pairs + triples)
        gap = np.diagonal(t) - t.max(axis=1)
        rows = np.arange(n)
        d_t[rows, rows] += 2 * gap
        d_t[rows, t.argmax(axis=1)] -= 2 * gap
        d_a = t * (d_t - (d_t * t).sum(axis=1, keepdims=True))
        d_b = p * (d_p - d_p @ p)
        value = sum(v for v, _ in parts) + float((gap * gap).sum())
        return value, np.concatenate([d_a.ravel(), d_b])

    return at


def _best(found: list[Solution]) -> Solution:
    best = min(found, key=lambda s: s.objective)
    alike = [s for s in found if s.objective <= ALIKE * best.objective + 1e-6]
    apart = max(float(np.abs(s.matrix - best.matrix).max()) for s in alike)
    return Solution(best.matrix, best.prior, best.objective, apart)


def _most_alike(matrix: np.ndarray) -> tuple[int, int]:
    """The two rows that differ least."""
    apart = np.abs(matrix[:, None] - matrix[None]).sum(axis=2) + 9 * np.eye(len(matrix))
    i, j = np.unravel_index(int(apart.argmin()), apart.shape)
    return int(i), int(j)
