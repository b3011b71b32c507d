"""Which of the doubtful examples should a person look at first? Samplers, as scores that are high where to ask.

The samplers of Khanal et al., "Active Label Refinement for Robust Training of Imbalanced Medical Image
Classification Tasks in the Presence of High Label Noise", MICCAI 2024: uncertainty of the network (entropy, least
confidence, margin), disagreement of several passes (BALD, Gal et al. 2017) and coverage (core-set, Sener and
Savarese 2018). An example is a voxel, a region, a case or a picture; its class axis comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TINY = 1e-12


def entropy(probs: np.ndarray) -> np.ndarray:
    """Entropy of class probabilities in nats: probs (K, ...) -> (...), between 0 and ln K."""
    p = np.asarray(probs, np.float64)
    return -(p * np.log(np.maximum(p, TINY))).sum(0)


def least_confidence(probs: np.ndarray) -> np.ndarray:
    """1 - the largest probability: probs (K, ...) -> (...), between 0 and 1 - 1/K."""
    return 1 - np.asarray(probs, np.float64).max(0)


def margin(probs: np.ndarray) -> np.ndarray:
    """1 - (largest probability - second largest): probs (K, ...), K >= 2 -> (...), in [0, 1]."""
    two = np.partition(np.asarray(probs, np.float64), -2, axis=0)[-2:]
    return 1 - (two[1] - two[0])


def disagreement(passes: np.ndarray) -> np.ndarray:
    """BALD: the entropy of the mean of several passes, less the mean of their entropies, in nats.

    passes (n, K, ...) -> (...). 0 where all passes say the same, ln K at most.
    """
    passes = np.asarray(passes, np.float64)
    own = np.mean([entropy(p) for p in passes], axis=0)
    return np.maximum(entropy(passes.mean(0)) - own, 0)


def farthest_first(
    candidates: np.ndarray, centres: np.ndarray, n: int, groups: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Core-set by greedy k-centre: the candidate farthest from all centres becomes a centre, `n` times.

    Parameters
    ----------
    candidates : (N, d) features of the examples that may be asked about.
    centres : (M, d) of those that are settled; M may be 0, then the first candidate begins.
    n : how many to choose; at most N are.
    groups : (N,) and (M,) integers; distances count only within a group, as features of
        different networks cannot be compared. A group without a centre is farthest from all.

    Returns
    -------
    (min(n, N),) indices of candidates in the order of choice. Of equals the first. Euclidean distances.
    """
    candidates, centres = np.asarray(candidates, np.float64), np.asarray(centres, np.float64)
    own, theirs = groups if groups is not None else (np.zeros(len(candidates)), np.zeros(len(centres)))
    nearest = np.full(len(candidates), np.inf)
    for centre, group in zip(centres, theirs, strict=True):
        nearest = np.minimum(nearest, _distance(candidates, own, centre, group))
    chosen: list[int] = []
    for _ in range(min(n, len(candidates))):
        nearest[chosen[-1:]] = -1  # never again
        best = int(nearest.argmax())
        chosen.append(best)
        rest = nearest >= 0
        nearest[rest] = np.minimum(nearest, _distance(candidates, own, candidates[best], own[best]))[rest]
    return np.array(chosen, np.int64)


def in_turn(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Order that takes the best of each class in turn, (N,) indices; rare classes are not crowded out.

    scores, classes (N,); classes begin in rising order, and one that is used up is left out.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    turn = np.zeros(len(order), np.int64)
    for k in np.unique(classes):
        own = order[np.asarray(classes)[order] == k]
        turn[own] = np.arange(len(own))
    return order[np.lexsort((np.asarray(classes)[order], turn[order]))]


def spread(order: Sequence[int], places: Sequence[object]) -> np.ndarray:
    """`order` with one example per place first, then the second of each, and so on; (N,) indices.

    places : (N,) hashable; two examples of one place, such as two pieces of one object, answer the same question.
    """
    seen: dict[object, int] = {}
    turn = []
    for i in order:
        turn.append(seen.get(places[i], 0))
        seen[places[i]] = turn[-1] + 1
    return np.asarray(order, np.int64)[np.argsort(turn, kind="stable")]


def _distance(points: np.ndarray, groups: np.ndarray, centre: np.ndarray, group: float) -> np.ndarray:
    far = np.sqrt(((points - centre) ** 2).sum(1))
    return np.where(groups == group, far, np.inf)
