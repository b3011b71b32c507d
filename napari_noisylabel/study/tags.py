"""Active label refinement of whole examples: pictures or cases with one class each, such as their tags.

Two classifiers find the labels that are probably clean; in rounds, a sampler chooses among the others, an oracle
answers for as many as the budget buys, and the first classifier goes on with what is clean or bought. Khanal et al.,
MICCAI 2024. An oracle's answer changes the labels that were bought, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_noisylabel.arrays import sampling
from napari_noisylabel.arrays.metrics import confusion_matrix
from napari_noisylabel.errors import BadSetting, NoPairs, NothingToDo, UnknownName
from napari_noisylabel.io.files import list_folder
from napari_noisylabel.io.tables import read_tags
from napari_noisylabel.io.volumes import case_id, is_known, read_image
from napari_noisylabel.methods import MethodInfo
from napari_noisylabel.methods.settings import PeersSettings

if TYPE_CHECKING:
    from napari_noisylabel.engine.peers import Peers

UNKNOWN = 255
"""Class index of an example that the oracle cannot tell."""

SAMPLERS = ("random", "entropy", "least-confidence", "margin", "balanced-entropy", "bald", "core-set")
INFO = MethodInfo("active-refinement of tags", "Active label refinement of tags", PeersSettings, "")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tagged:
    """Examples with one class each: pictures (N, C, *spatial) or features (N, d); given and true classes (N,) uint8.

    Where the truth is `UNKNOWN`, the oracle cannot tell.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    examples: np.ndarray
    given: np.ndarray
    true: np.ndarray


def read_tagged(images: Path | str, given: Path | str, truth: Path | str, column: str = "", side: int = 64) -> Tagged:
    """Pictures in a folder, and two tables of their tags: a header, cases in the first column, one column per tag.

    Parameters
    ----------
    column : the tag that is the class of a case; may be left out where there is one only.
    side : pictures are brought to so many pixels per axis.

    Cases that the given table does not tag are left out; where the truth has none, the oracle cannot tell.

    Raises
    ------
    UnknownName : no such column. NoPairs : no picture is tagged. BadSetting : fewer than two classes.
    """
    from napari_noisylabel.engine.peers import prepare_pictures

    rows, true_rows = read_tags(given), read_tags(truth)
    column = column or _only_column(rows, given)
    tags = {name: row[column] for name, row in rows.items() if column in row}
    if not tags:
        raise UnknownName(f"there is no tag {column!r} in {given}. Name one of its columns with --column.")
    files = {case_id(path): path for path in list_folder(Path(images)) if is_known(path)}
    names = tuple(sorted(set(files) & set(tags)))
    if not names:
        raise NoPairs(f"a tag must be of a picture, and not one case of {given} is in {images}. Correct the table.")
    answers = {name: true_rows.get(name, {}).get(column, "") for name in names}
    classes = tuple(sorted({*(tags[n] for n in names), *filter(None, answers.values())}))
    if len(classes) < 2:
        raise BadSetting(f"tags need at least two classes, and all of {column!r} are {classes[0]!r}. Add others.")
    pictures = prepare_pictures([np.asarray(read_image(files[name]).array) for name in names], side)
    number = {c: i for i, c in enumerate(classes)} | {"": UNKNOWN}
    own = np.array([number[tags[name]] for name in names], np.uint8)
    true = np.array([number[answers[name]] for name in names], np.uint8)
    return Tagged(names, classes, pictures, own, true)


def simulate_tags(
    data: Tagged, *, order: str = "entropy", rounds: int = 3, budget: int = 10,
    settings: Mapping[str, Any] | None = None, seed: int = 0, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Teach two classifiers, then ask the oracle in rounds.

    Parameters
    ----------
    order : random, entropy, least-confidence, margin, balanced-entropy, bald or core-set.
    budget : examples per round.
    settings : of `PeersSettings`, "preset" among them.

    Returns
    -------
    `{"classes", "order", "n", "candidates", "kept", "given_error", "rounds", "queue", "changes"}`. `kept` has precision
    and recall of the examples judged clean, as a whole and per class; each round, from 0 (nothing asked
    yet), has `asked`, `changed`, `hit_rate`, `cost`, `share_of_candidates`, `share_of_all`, `error` (wrong labels among
    those trained on) and, on held-out examples, `balanced_accuracy` and `macro_f1`; `queue` says who was asked about
    and why: name, round, given, predicted, its probability, score, answer.

    Raises
    ------
    BadSetting : settings, rounds or a budget under 1. UnknownName : the order.
    NothingToDo : no example is in doubt, or the oracle can tell of none.
    """
    chosen = tag_settings(settings or {})
    _check(order, rounds, budget)
    measured = _held_out(data.true, chosen.held_out, seed)
    rows = np.flatnonzero(~measured)
    peers = _peers(data.examples[rows], data.given[rows], len(data.classes), chosen, seed)
    for report in peers.teach():
        if progress is not None:
            progress(report.epoch + 1, chosen.epochs + rounds)
    study = _Study(data, rows, np.flatnonzero(measured), peers)
    if not (~study.clean).any():
        raise NothingToDo("every label was judged clean, so there is nothing to ask about. Raise `forget`.")
    study.measure(0, 0, 0)
    for number in range(1, rounds + 1):
        if not study.open.any():
            break
        study.ask(order, budget, number, np.random.default_rng([seed, number]))
        if progress is not None:
            progress(chosen.epochs + number, chosen.epochs + rounds)
    return {"order": order, **study.summary()}


def tag_settings(values: Mapping[str, Any]) -> PeersSettings:
    """Settings with their defaults. Raises BadSetting."""
    return cast(PeersSettings, INFO.check(values))


def relabelled(labels: np.ndarray, true: np.ndarray, bought: np.ndarray) -> np.ndarray:
    """The labels (N,) after the oracle answered for the examples `bought` (indices); all others are as they were.

    Where the truth is `UNKNOWN` the label stays.
    """
    out = labels.copy()
    told = bought[true[bought] != UNKNOWN]
    out[told] = true[told]
    return out


def rank_examples(order: str, peers: Peers, open_: np.ndarray, settled: np.ndarray, rng: np.random.Generator) -> tuple[
    np.ndarray, np.ndarray
]:  # fmt: skip
    """Indices of the `open_` examples (N,) bool, those to ask about first in front, and the score of every example.

    Scores are of the evaluation view, and of augmented ones for BALD. Core-set takes `settled` (N,) bool as centres.
    """
    probs, features = peers.look()
    own = np.flatnonzero(open_)
    if order == "random":
        return own[rng.permutation(len(own))], np.zeros(len(open_))
    if order == "core-set":
        found = sampling.farthest_first(features[own], features[settled], len(own))
        scores = np.zeros(len(open_))
        scores[own[found]] = np.arange(len(own), 0, -1)
        return own[found], scores
    scores = _score(order, peers, probs)
    if order == "balanced-entropy":
        return own[sampling.in_turn(scores[own], probs[own].argmax(1))], scores
    return own[np.argsort(-scores[own], kind="stable")], scores


# ---------------------------------------------------------------- the rounds


class _Study:
    """Labels as they are bought, and what is measured after each round."""

    def __init__(self, data: Tagged, rows: np.ndarray, measured: np.ndarray, peers: Peers) -> None:
        self.data, self.rows, self.measured, self.peers = data, rows, measured, peers
        self.labels, self.true = data.given[rows].copy(), data.true[rows]
        self.clean = peers.clean.copy()
        self.kept = self.clean.copy()  # trained on: judged clean, or answered
        self.open = ~self.clean
        self.cost = 0
        self.rounds: list[dict[str, Any]] = []
        self.queue: list[dict[str, Any]] = []
        self.changes = np.zeros((len(data.classes), len(data.classes)), int)

    def ask(self, order: str, budget: int, number: int, rng: np.random.Generator) -> None:
        """Order the candidates, buy answers, train on."""
        ranked, scores = rank_examples(order, self.peers, self.open, self.kept, rng)
        bought = ranked[:budget]
        told = bought[self.true[bought] != UNKNOWN]
        if not len(told):
            raise NothingToDo(
                f"the oracle decided on none of the {len(bought)} examples of round {number}, so nothing can be learnt "
                "from them: the truth says nothing of these. Complete its table."
            )
        probs = self.peers.look()[0]
        before = self.labels
        self.labels = relabelled(before, self.true, bought)
        for i in bought:
            self.queue.append(self._line(int(i), number, probs[i], float(scores[i]), int(before[i])))
        changed = told[before[told] != self.labels[told]]
        np.add.at(self.changes, (before[changed], self.labels[changed]), 1)
        self.open[bought] = False  # what the oracle cannot tell is left out for good
        self.kept[told] = True
        self.cost += len(bought)
        self.peers.refine(self.labels, self.kept)
        self.measure(number, len(bought), len(changed))

    def measure(self, number: int, asked: int, changed: int) -> None:
        known = self.kept & (self.true != UNKNOWN)
        n_open = max(1, int((~self.clean).sum()))
        self.rounds.append({
            "round": number, "asked": asked, "changed": changed, "hit_rate": changed / asked if asked else None,
            "cost": self.cost, "share_of_candidates": self.cost / n_open, "share_of_all": self.cost / len(self.rows),
            "error": float((self.labels != self.true)[known].mean()) if known.any() else None, **self._figures(),
        })  # fmt: skip

    def summary(self) -> dict[str, Any]:
        told = self.true != UNKNOWN
        given = self.data.given[self.rows]
        right = given == self.true
        return {
            "classes": list(self.data.classes), "n": len(self.rows), "candidates": int((~self.clean).sum()),
            "given_error": float((~right)[told].mean()),
            "kept": {
                "precision": _share(right, self.clean & told), "recall": _share(self.clean, right & told),
                "recall_of_class": {
                    name: _share(self.clean, right & told & (given == k)) for k, name in enumerate(self.data.classes)
                },
            },
            "rounds": self.rounds, "queue": self.queue, "changes": self.changes.tolist(),
        }  # fmt: skip

    def _figures(self) -> dict[str, float | None]:
        """Balanced accuracy and macro F1 of the first classifier on held-out examples."""
        if not len(self.measured):
            return {"balanced_accuracy": None, "macro_f1": None}
        probs, _ = self.peers.look(self.data.examples[self.measured])
        return classification_figures(probs.argmax(1), self.data.true[self.measured], len(self.data.classes))

    def _line(self, i: int, number: int, probs: np.ndarray, score: float, given: int) -> dict[str, Any]:
        names, best = self.data.classes, int(probs.argmax())
        answer = int(self.true[i])
        return {
            "case": self.data.names[self.rows[i]], "round": number, "given": names[given], "predicted": names[best],
            "probability": float(probs[best]), "score": score, "answer": None if answer == UNKNOWN else names[answer],
        }  # fmt: skip


def classification_figures(predicted: np.ndarray, true: np.ndarray, n_classes: int) -> dict[str, float | None]:
    """Mean recall over the classes that occur, and mean F1 over those predicted or true. UNKNOWN does not count."""
    matrix = confusion_matrix(predicted.astype(np.uint8), true, n_classes)
    hits, guessed, there = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    if not there.any():
        return {"balanced_accuracy": None, "macro_f1": None}
    f1 = (2 * hits / np.maximum(guessed + there, 1))[guessed + there > 0]
    return {"balanced_accuracy": float((hits / np.maximum(there, 1))[there > 0].mean()), "macro_f1": float(f1.mean())}


# ---------------------------------------------------------------- helpers, in order of use


def _only_column(rows: Mapping[str, Mapping[str, str]], path: Path | str) -> str:
    columns = sorted({name for row in rows.values() for name in row})
    if len(columns) != 1:
        raise BadSetting(f"one tag is the class of a case, and {path} has {', '.join(columns)}. Give --column NAME.")
    return columns[0]


def _check(order: str, rounds: int, budget: int) -> None:
    if order not in SAMPLERS:
        raise UnknownName(f"there is no order {order!r} of examples. The orders are: {', '.join(SAMPLERS)}.")
    if budget < 1:
        raise BadSetting(
            f"a round's budget pays for at least one example, got {budget}: nothing could be asked. Give --budget."
        )
    if rounds < 1:
        raise BadSetting(f"there is at least one round, got {rounds}. Give --rounds 1 or more.")


def _held_out(true: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(N,) bool: the same share of every class, at least one of it where there is any share; drawn by `seed`."""
    out, rng = np.zeros(len(true), bool), np.random.default_rng([seed, 11])
    for k in np.unique(true[true != UNKNOWN]):
        own = rng.permutation(np.flatnonzero(true == k))
        out[own[: int(np.ceil(share * len(own)))]] = True
    return out


def _peers(examples: np.ndarray, labels: np.ndarray, classes: int, settings: PeersSettings, seed: int) -> Peers:
    from napari_noisylabel.engine.peers import Peers

    return Peers(examples, labels, classes, settings, seed)


def _score(order: str, peers: Peers, probs: np.ndarray) -> np.ndarray:
    if order == "bald":
        return sampling.disagreement(np.moveaxis(peers.passes(), 1, 2))  # (n, K, N)
    measure = {"least-confidence": sampling.least_confidence, "margin": sampling.margin}.get(order, sampling.entropy)
    return measure(probs.T)


def _share(which: np.ndarray, among: Sequence[bool] | np.ndarray) -> float | None:
    chosen = which[np.asarray(among)]
    return float(chosen.mean()) if len(chosen) else None
