"""From features and noisy labels of voxels to a transition matrix with its uncertainty.

Weights of features (`fmi_weights`), neighbours from other cases and the consensus equations
(`fmi_consensus`), repeated over random parts of the voxels, and for the standard errors over
parts of the cases. Shapes: N voxels, M features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from napari_noisylabel.errors import InputError
from napari_noisylabel.methods import fmi_consensus as hoc
from napari_noisylabel.methods import fmi_weights
from napari_noisylabel.methods.fmi_consensus import Consensus, Solution

FEW_FEATURES, FLOOR = 5, 0.05
"""With fewer features than this the least informative one keeps this weight."""
FEW_VOXELS = 30
"""A row of the matrix rests on at least so many sampled voxels with that label, or is not estimated."""
MOST_VOXELS = 15000  # in one search for neighbours, as in the released code
ENOUGH_CASES, FEW_CASES = 6, 4
"""From so many cases on, repeats are over halves of the cases; fewer are left out one by one, or, below 4, halves of
the voxels are."""
DEPTH = 3  # voxels of each further case that vote on whether neighbours are of one class
FEW_VOTES = 3
ABOVE_CHANCE = 0.01
"""By how much neighbours agree more often than any two voxels, at least, and by more than two standard errors."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Voxels of several cases: features (N, M) by name, noisy labels (N,), cases (N,) as numbers."""

    features: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    cases: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """How T is estimated. The defaults are ours; the fields are those of the method's settings."""

    space: str = "raw"
    weights: str = "tv"
    neighbours: str = "cases"
    lift: bool = True
    pure: float = 0.5
    rounds: int = 8
    share: float = 0.5
    repeats: int = 10
    solver: str = "bfgs"
    keep: str = "best"
    label_bins: int = 0
    floor: bool = True


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was found for one track.

    matrix, spread : (K, K), T[i, j] = P(given = j, if true = i), and its standard errors. Rows of
        classes that are not in `shown` are those of the identity.
    given, prior : (K,), frequencies of the labels in the sample, and of the true classes in it.
    counted : (K, K), plain counting of disagreements on the same weighted features.
    weights, information, columns : one per feature used, and their names.
    agreement : share of nearest neighbours with the same label, without weights and with them.
    support : (K,) sampled voxels per given class.
    observed, solution : the consensus of the classes shown, and what was made of it.
    notes : sentences that a person should read.
    """

    matrix: np.ndarray
    spread: np.ndarray
    given: np.ndarray
    prior: np.ndarray
    counted: np.ndarray
    weights: np.ndarray
    information: np.ndarray
    columns: tuple[str, ...]
    agreement: tuple[float, float]
    support: np.ndarray
    shown: np.ndarray
    observed: Consensus
    solution: Solution
    notes: tuple[str, ...] = field(default=())


def estimate(sample: Sample, classes: Sequence[str], recipe: Recipe, rng: np.random.Generator) -> Estimate:
    """T of one track from a sample of its voxels.

    Raises
    ------
    InputError : all voxels are of one case, fewer than two classes are shown by 30 voxels, no feature
        varies, or neighbours agree no more than any two voxels. Whether T can be used is for
        `fmi_consensus.check_usable` to say.
    """
    names, notes = tuple(classes), []
    k = len(names)
    support = np.bincount(sample.labels, minlength=k)[:k]
    shown = np.flatnonzero(support >= FEW_VOXELS)
    if len(shown) < 2:
        raise InputError(
            f"a transition matrix needs at least two classes with {FEW_VOXELS} sampled voxels each, and the sample has "
            + ", ".join(f"{n} of {c!r}" for n, c in zip(support, names, strict=True))
            + ". Add cases, or sample more voxels of each."
        )
    for i in set(range(k)) - set(shown.tolist()):
        notes.append(f"{names[i]!r} has {support[i]} sampled voxels, under {FEW_VOXELS}: its labels count as right")
    own = np.isin(sample.labels, shown)
    labels, cases = np.searchsorted(shown, sample.labels[own]), sample.cases[own]
    x, columns = _usable_features(sample.features[own], sample.names, recipe, notes)

    information = np.ones(x.shape[1])
    weights = np.ones(x.shape[1])
    if recipe.weights != "none":
        information = fmi_weights.f_mutual_information(x, labels, len(shown), recipe.weights, recipe.label_bins)
        floor = FLOOR if recipe.floor and x.shape[1] < FEW_FEATURES else 0.0
        weights = fmi_weights.weights_from(information, floor)

    rounds = _Rounds(labels, cases, len(shown), recipe, rng)
    rounds.run(_directions(x * weights, recipe))
    _check_agreement(rounds.agreed, labels)
    solution = _solve(rounds.observed(), recipe, rng)
    repeats = [_solve(c, recipe, rng, solution).matrix for c in rounds.repeated()]

    plain = rounds.agreement(_directions(x, recipe)) if recipe.weights != "none" else rounds.agreed
    notes += _warnings(solution, rounds.agreed, [names[i] for i in shown])
    cells = np.ix_(shown, shown)
    matrix, counted, spread = np.eye(k), np.eye(k), np.zeros((k, k))
    matrix[cells], counted[cells] = solution.matrix, hoc.counted_matrix(rounds.observed(counted=True))
    if len(repeats) > 1:
        scatter = np.mean([(r - solution.matrix) ** 2 for r in repeats], axis=0)
        spread[cells] = np.sqrt(rounds.factor * scatter)
    prior = np.zeros(k)
    prior[shown] = solution.prior
    return Estimate(
        matrix, spread, support / support.sum(), prior, counted, weights, information, columns,
        (plain, rounds.agreed), support, shown, rounds.observed(), solution, tuple(notes),
    )  # fmt: skip


# ---------------------------------------------------------------- helpers, in order of use


def _usable_features(
    features: np.ndarray, names: Sequence[str], recipe: Recipe, notes: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Standardised columns, decoupled if asked for, without those that have one value, which are told."""
    kept = fmi_weights.varying(features)
    if not kept.any():
        raise InputError(
            f"neighbours are found by features that vary, and none of {len(names)} does: the images have one value "
            "everywhere. Look at the images."
        )
    for m in np.flatnonzero(~kept).tolist():
        notes.append(f"feature {names[m]!r} has one value everywhere and is left out")
    x = fmi_weights.standardised(features[:, kept])
    if recipe.space == "decoupled":
        x = fmi_weights.decoupled(x)
        return x, tuple(f"direction {m + 1}" for m in range(x.shape[1]))
    return x, tuple(name for name, own in zip(names, kept, strict=True) if own)


def _directions(x: np.ndarray, recipe: Recipe) -> np.ndarray:
    """What cosines are taken of: with a constant of the features' mean length, so that lengths count, too."""
    if not recipe.lift:
        return x.astype(np.float32)
    length = np.sqrt((x**2).sum(axis=1).mean())
    return np.concatenate([x, np.full((len(x), 1), length)], axis=1).astype(np.float32)


class _Rounds:
    """Counts labels of neighbours in random parts of the voxels, for all cases and for halves of them."""

    def __init__(
        self, labels: np.ndarray, cases: np.ndarray, n_classes: int, recipe: Recipe, rng: np.random.Generator
    ) -> None:
        self.labels, self.cases, self.n_classes, self.recipe, self.rng = labels, cases, n_classes, recipe, rng
        n = len(labels)
        self.size = min(n, MOST_VOXELS, max(round(recipe.share * n), 2 * n_classes**2))
        names = np.unique(cases)
        self._parts, self.factor = self._to_repeat(names if recipe.neighbours == "cases" else names[:0])
        self._triples: list[np.ndarray] = []
        self._all: list[np.ndarray] = []
        self._of_part: list[list[np.ndarray]] = [[] for _ in self._parts]

    def run(self, directions: np.ndarray) -> None:
        for _ in range(self.recipe.rounds):
            rows = self._draw()
            found = rows[hoc.neighbours(directions[rows], self._cases_of(rows), DEPTH)]
            self._all.append(self._labels_of(rows, found[:, :2, 0]))
            everything = np.ones(len(self.labels), bool)
            self._triples.append(self._counted(rows, found, directions, everything))
            for kept, part in zip(self._of_part, self._parts, strict=True):
                kept.append(self._counted(rows, found, directions, part))

    def observed(self, counted: bool = False) -> Consensus:
        """Over all rounds; `counted`: of all voxels, whether neighbours agree or not."""
        return hoc.consensus(np.concatenate(self._all if counted else self._triples), self.n_classes)

    def repeated(self) -> list[Consensus]:
        """Of each part in which every class is left."""
        found = [hoc.consensus(np.concatenate(kept), self.n_classes) for kept in self._of_part]
        return [c for c in found if c.first.min() > 0]

    @property
    def agreed(self) -> float:
        """Share of voxels whose nearest neighbour has the same label."""
        return float(np.mean([(t[:, 0] == t[:, 1]).mean() for t in self._all]))

    def agreement(self, directions: np.ndarray) -> float:
        """The same with other features, in one round."""
        rows = self._draw()
        found = rows[hoc.neighbours(directions[rows], self._cases_of(rows))]
        return float((self.labels[rows] == self.labels[found[:, 0, 0]]).mean())

    def _to_repeat(self, names: np.ndarray) -> tuple[list[np.ndarray], float]:
        """Voxels (N,) bool of each repeat, and what makes the scatter of repeats a squared standard error.

        Halves drawn without replacement scatter around the whole as much as the whole does around the truth; with
        one of n cases left out it is n - 1 times less.
        """
        n, repeats = len(self.labels), self.recipe.repeats
        if len(names) >= ENOUGH_CASES:
            halves = [self.rng.choice(names, len(names) // 2, replace=False) for _ in range(repeats)]
            return [np.isin(self.cases, half) for half in halves], 1.0
        if len(names) >= FEW_CASES and repeats:
            return [self.cases != name for name in names], len(names) - 1.0
        return [self.rng.permutation(n) < n // 2 for _ in range(repeats)], 1.0

    def _draw(self) -> np.ndarray:
        return np.sort(self.rng.permutation(len(self.labels))[: self.size])

    def _cases_of(self, rows: np.ndarray) -> np.ndarray | None:
        return self.cases[rows] if self.recipe.neighbours == "cases" else None

    def _labels_of(self, rows: np.ndarray, two: np.ndarray) -> np.ndarray:
        return np.stack([self.labels[rows], *self.labels[two].T], axis=1)

    def _counted(self, rows: np.ndarray, found: np.ndarray, directions: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Labels (N', 3) of the voxels of `part` and of their neighbours in it, where further neighbours agree best."""
        two, enough = hoc.first_two(found[:, :, 0], part[found[:, :, 0]])
        own = part[rows] & enough
        rows, two, found = rows[own], two[own], found[own]
        triples = self._labels_of(rows, two)
        if self.recipe.pure == 1 or not len(rows):
            return triples
        further = (found[:, :, :1] != two[:, None, :]).all(axis=2, keepdims=True) & part[found]
        voted = self.labels[found]
        counts = np.stack([(further & (voted == k)).sum(axis=(1, 2)) for k in range(self.n_classes)], axis=1)
        total = counts.sum(axis=1, keepdims=True)
        if np.median(total) < FEW_VOTES:
            return triples
        closeness = np.einsum("nm,nm->n", _unit(directions[rows]), _unit(directions[two[:, 1]]))
        return triples[hoc.purest(counts / np.maximum(total, 1), closeness, self.recipe.pure)]


def _check_agreement(agreed: float, labels: np.ndarray) -> None:
    frequencies = np.bincount(labels) / len(labels)
    chance = float(frequencies @ frequencies)
    if agreed < chance + max(ABOVE_CHANCE, 2 * (chance * (1 - chance) / len(labels)) ** 0.5):
        raise InputError(
            f"the features must say something about the labels, but neighbours in other cases have the same label in "
            f"{agreed:.0%}, and any two voxels have it in {chance:.0%}. Look at labels and images, or take the "
            "features of the network (features_from=network)."
        )


def _unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _solve(observed: Consensus, recipe: Recipe, rng: np.random.Generator, near: Solution | None = None) -> Solution:
    if recipe.solver == "adam":
        steps = 301 if len(observed.first) >= 100 else 1501
        return hoc.solve_as_released(observed, rng, steps, keep=recipe.keep)
    return hoc.solve(observed, rng, near=near)


def _warnings(solution: Solution, agreed: float, names: Sequence[str]) -> list[str]:
    """What a person should know before trusting the matrix."""
    found = []
    if agreed < 0.6:
        found.append(
            f"only {agreed:.0%} of the nearest neighbours in other cases have the same label: unless that many "
            "labels are wrong, the features tell classes apart badly, and the matrix shows more noise than there is"
        )
    if solution.ambiguity > 0.05:
        found.append(f"other matrices explain the labels as well; entries differ by up to {solution.ambiguity:.2f}")
    weak = [name for i, name in enumerate(names) if solution.matrix[i, i] < 0.5]
    if weak:
        found.append(
            f"more than half of the labels of {', '.join(weak)} are wrong by this matrix, which is hard to believe"
        )
    return found
