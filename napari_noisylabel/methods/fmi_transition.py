"""fmi-transition: the transition matrix read off neighbours in other cases, and a loss that sees through it.

Z. Zhu, J. Wang, Y. Liu, "Beyond Images: Label Noise Transition Matrix Estimation for Tasks with
Lower-Quality Features", ICML 2022 (arXiv 2202.01273), on top of HOC: Z. Zhu, Y. Song, Y. Liu, ICML 2021
(arXiv 2102.05291). Formulas: `fmi_weights` (features), `fmi_consensus` (neighbours, equations, solver);
`fmi_features` says what is known of a voxel, `fmi_estimate` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_noisylabel.errors import InputError
from napari_noisylabel.inner import Curve, InnerState, Matrix, Note, from_json, to_json
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method
from napari_noisylabel.methods.fmi_consensus import check_usable, expected
from napari_noisylabel.methods.fmi_estimate import Estimate, Recipe, Sample, estimate
from napari_noisylabel.methods.fmi_features import feature_names, hand_made, places
from napari_noisylabel.methods.jcas_formulas import clean_prior, corrected_classes, log_probabilities, posterior_wrong
from napari_noisylabel.methods.losses import segmentation_loss, weighted_mean
from napari_noisylabel.records import IGNORE, Track

FEW_GROUPS = 3  # from so many on, neighbours come from other groups (persons), else from other cases
MOST_SAMPLED = 60000  # voxels of all cases of a fold together


class FmiTransition(Method):
    """Estimate which classes are given instead of which; learn through that matrix; ask what a label then is worth."""

    name = "fmi-transition"
    title = "Transition matrix from neighbours in other cases, features weighted by f-mutual information"
    source = "Zhu, Wang and Liu, ICML 2022, arXiv 2202.01273; HOC: Zhu, Song and Liu, ICML 2021, arXiv 2102.05291"

    def __init__(
        self,
        dice_weight: float = 1.0,
        features_from: str = "hand",
        wait: float = 0.3,
        voxels: int = 600,
        space: str = "raw",
        weights: str = "tv",
        neighbours: str = "cases",
        lift: bool = True,
        pure: float = 0.5,
        rounds: int = 8,
        share: float = 0.5,
        repeats: int = 10,
        solver: str = "bfgs",
        keep: str = "best",
        label_bins: int = 0,
        floor: bool = True,
        likelihood: str = "networks",
        proposal: str = "posterior",
    ) -> None:
        self.dice_weight, self.features_from, self.wait, self.voxels = dice_weight, features_from, wait, voxels
        self.space, self.weights, self.neighbours, self.lift, self.pure = space, weights, neighbours, lift, pure
        self.rounds, self.share, self.repeats, self.solver, self.keep = rounds, share, repeats, solver, keep
        self.label_bins, self.floor = label_bins, floor
        self.likelihood, self.proposal = likelihood, proposal
        self._matrices: dict[str, np.ndarray] = {}
        self._shown: dict[str, list[InnerState]] = {}
        self._on_device: dict[str, Tensor] = {}
        self._wrong: dict[str, list[Tensor]] = {}

    # ------------------------------------------------------------ the moments

    def on_epoch_start(self, run: FoldRun) -> None:
        self._wrong = {}
        if not self._shown and run.epoch >= self._first(run):
            self._estimate(run)

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        logits = run.networks[0](batch.images).logits
        losses = [self._loss(batch, t.name, logits[t.name]) for t in run.tracks]
        return sum(losses[1:], losses[0])

    def state_dict(self) -> dict[str, Any]:
        return {"matrices": dict(self._matrices), "shown": {t: to_json(s) for t, s in self._shown.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._matrices = {track: np.asarray(matrix) for track, matrix in state["matrices"].items()}
        self._shown = {track: from_json(shown) for track, shown in state["shown"].items()}
        self._on_device = {}

    def inner(self) -> list[InnerState]:
        if not self._shown:
            return [Note("transition matrix", "not estimated yet; until then labels are learnt as they are")]
        shown = [item for own in self._shown.values() for item in own]
        means = {track: float(torch.stack(values).mean()) for track, values in self._wrong.items()}
        return [*shown, Curve("share of wrong labels in training patches, by network and matrix", means)]

    # ------------------------------------------------------------ scoring

    def propose(self, evidence: Evidence) -> np.ndarray:
        """The most probable true class, after the label was heard: P(i | label j, image) ~ P(i | image) T[i, j]."""
        matrix = self._matrices.get(evidence.track.name)
        if self.proposal == "network" or matrix is None:
            return super().propose(evidence)
        return true_class(evidence.probs, evidence.labels, matrix)

    def noise_likelihood(self, evidence: Evidence) -> np.ndarray | None:
        """P(the true class is not the label | label, image), if asked for."""
        return self._posterior_wrong(evidence) if self.likelihood == "posterior" else None

    def maps(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """The same, always, as a map to look at."""
        return {"posterior": self._posterior_wrong(evidence)}

    def _posterior_wrong(self, evidence: Evidence) -> np.ndarray:
        name = evidence.track.name
        return posterior_wrong(evidence.probs, evidence.labels, self._matrices.get(name, np.eye(len(evidence.probs))))

    # ------------------------------------------------------------ training

    def _loss(self, batch: Batch, track: str, logits: Tensor) -> Tensor:
        """Cross-entropy and Dice of what the labels should look like through T; verified ones are the truth."""
        labels, weight, verified = batch.working[track], batch.weight[track], batch.verified[track]
        if track not in self._matrices:
            return segmentation_loss(logits, labels, weight, self.dice_weight)
        matrix = self._matrix_on(logits.device, track)
        with torch.autocast(logits.device.type, enabled=False):
            probs = logits.float().softmax(1)
            seen = torch.where(verified[:, None], probs, corrected_classes(probs, matrix))
            self._note_wrong(track, probs.detach(), seen.detach(), labels, weight * ~verified, matrix)
            return segmentation_loss(log_probabilities(seen), labels, weight, self.dice_weight)

    def _matrix_on(self, device: torch.device, track: str) -> Tensor:
        if track not in self._on_device:
            self._on_device[track] = torch.from_numpy(self._matrices[track]).float().to(device)
        return self._on_device[track]

    def _note_wrong(
        self, track: str, probs: Tensor, seen: Tensor, labels: Tensor, weight: Tensor, matrix: Tensor
    ) -> None:
        own = labels.clamp_max(len(matrix) - 1)[:, None]
        right = probs.gather(1, own)[:, 0] * matrix.diagonal()[own[:, 0]]
        wrong = 1 - right / seen.gather(1, own)[:, 0].clamp_min(1e-8)
        self._wrong.setdefault(track, []).append(weighted_mean(wrong, weight))

    # ------------------------------------------------------------ the estimate

    def _first(self, run: FoldRun) -> int:
        """The epoch before which the matrix is estimated: at once, or when the network has features to offer."""
        return 0 if self.features_from == "hand" else max(1, round(self.wait * run.epochs))

    def _estimate(self, run: FoldRun) -> None:
        for track in run.tracks:
            self._shown[track.name] = []
        rng = np.random.default_rng(run.rng.integers(2**63))
        samples = self._samples(run, rng)
        for track in run.tracks:
            try:
                found = estimate(samples[track.name], track.classes, self._recipe(), rng)
                self._shown[track.name] = list(_shown(track, found, _frequencies(run, track, found.matrix)))
                check_usable(found.matrix, track.classes)
                self._matrices[track.name] = found.matrix.astype(np.float32)
            except InputError as error:
                self._shown[track.name].append(
                    Note(f"about {track.name}", f"labels are learnt as they are, because {error}")
                )

    def _recipe(self) -> Recipe:
        return Recipe(
            self.space, self.weights, self.neighbours, self.lift, self.pure, self.rounds, self.share, self.repeats,
            self.solver, self.keep, self.label_bins, self.floor,
        )  # fmt: skip

    def _samples(self, run: FoldRun, rng: np.random.Generator) -> dict[str, Sample]:
        """Features and labels of some voxels of each case, per track. Verified voxels are no examples of noise."""
        n = max(100, min(self.voxels, MOST_SAMPLED // max(1, len(run.case_ids))))
        units = _units(run)
        unit_mm = float(np.median([min(run.spacing[case]) for case in run.case_ids]))
        kept: dict[str, list[tuple[np.ndarray, np.ndarray, int]]] = {track.name: [] for track in run.tracks}
        for case, features in self._images(run):
            for track in run.tracks:
                labels = np.asarray(run.labels[case][track.name])
                verified = run.verified[case][track.name]
                free = labels < track.n_classes if verified is None else (labels < track.n_classes) & ~verified
                at = places(labels, free, track.n_classes, n, run.spacing[case], rng)
                if not len(at):
                    continue
                if self.features_from == "hand":
                    x = hand_made(features, at, run.spacing[case], unit_mm)
                else:  # features are at half the resolution
                    half = np.minimum(at // 2, np.array(features.shape[1:]) - 1)
                    x = features[(slice(None), *half.T)].T.astype(np.float32)
                kept[track.name].append((x, labels[tuple(at.T)], units[case]))
        return {track: self._joined(own, run) for track, own in kept.items()}

    def _images(self, run: FoldRun) -> Iterator[tuple[str, np.ndarray]]:
        """Per case the image, or this fold's features of it: those of two networks cannot be compared."""
        if self.features_from == "hand":
            yield from ((case, run.image(case)) for case in run.case_ids)
        else:
            for prediction in run.predict(features=True):
                if prediction.features is not None:
                    yield prediction.case, prediction.features

    def _joined(self, kept: Sequence[tuple[np.ndarray, np.ndarray, int]], run: FoldRun) -> Sample:
        if not kept:
            return Sample(np.zeros((0, 1)), ("none",), np.zeros(0, np.uint8), np.zeros(0, np.int64))
        x, labels = np.concatenate([k[0] for k in kept]), np.concatenate([k[1] for k in kept])
        cases = np.repeat([k[2] for k in kept], [len(k[0]) for k in kept])
        if self.features_from == "hand":
            image = run.image(run.case_ids[0])
            return Sample(x, feature_names(len(image), image.ndim - 1), labels, cases)
        return Sample(x, tuple(f"channel {m + 1} of the network" for m in range(x.shape[1])), labels, cases)


def true_class(probs: np.ndarray, labels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The class i with the largest P(i | image) T[i, label], (*spatial) uint8; by the image alone where ignored.

    probs (K, *spatial), labels (*spatial) with others than 0..K-1 ignored, matrix (K, K).

    Source: the posterior of Beyond Images with a classifier's output instead of a prior; using it to correct
    single voxels is ours.
    """
    known = labels < len(probs)
    safe = np.where(known, labels, 0).astype(np.int64)
    best, highest = np.zeros(labels.shape, np.uint8), np.full(labels.shape, -1, np.float32)
    for i, plane in enumerate(probs):
        own = plane.astype(np.float32) * np.where(known, matrix[i].astype(np.float32)[safe], 1)
        best[own > highest] = i
        np.maximum(highest, own, out=highest)
    return best


# ---------------------------------------------------------------- helpers, in order of use


def _units(run: FoldRun) -> dict[str, int]:
    """What counts as another case, as numbers: another group (person) where there are three, else another case."""
    groups = {case: run.groups[case] for case in run.case_ids}
    if len(set(groups.values())) < FEW_GROUPS:
        groups = {case: case for case in run.case_ids}
    numbers = {name: i for i, name in enumerate(sorted(set(groups.values())))}
    return {case: numbers[group] for case, group in groups.items()}


def _frequencies(run: FoldRun, track: Track, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K,) of all labels of the fold, and of the true classes that T makes of them."""
    counts = np.zeros(track.n_classes)
    for case in run.case_ids:
        labels = np.asarray(run.labels[case][track.name]).reshape(-1)
        counts += np.bincount(labels, minlength=IGNORE + 1)[: track.n_classes]
    given = torch.from_numpy(counts / max(1, counts.sum()))
    return given.numpy(), clean_prior(torch.from_numpy(matrix), given).numpy()


def _shown(track: Track, found: Estimate, frequencies: tuple[np.ndarray, np.ndarray]) -> Iterator[InnerState]:
    classes, name = track.classes, track.name
    shown = tuple(classes[i] for i in found.shown)
    yield Matrix(f"transition matrix of {name}", classes, classes, _rows(found.matrix), _rows(found.spread))
    yield Matrix(f"disagreements of neighbours, counted, {name}", classes, classes, _rows(found.counted))
    yield Matrix(
        f"frequencies of {name}", ("labels", "true classes", "sampled voxels"), classes,
        _rows(np.stack([*frequencies, found.support.astype(float)])),
    )  # fmt: skip
    fitted = expected(found.solution.matrix, found.solution.prior)
    yield Matrix(f"labels of neighbours, observed, {name}", shown, shown, _rows(found.observed.second))
    yield Matrix(f"labels of neighbours, as the matrix implies, {name}", shown, shown, _rows(fitted.second))
    order = np.argsort(-found.weights, kind="stable")
    columns = np.stack([found.weights, found.information], axis=1)[order]
    kind = f"weights of features, {name}"
    yield Matrix(kind, tuple(found.columns[m] for m in order), ("weight", "f-mutual information"), _rows(columns))
    before, after = found.agreement
    yield Curve(f"nearest neighbours with the same label, {name}", {"unweighted": before, "weighted": after})
    worst = float(np.abs(fitted.third - found.observed.third).max())
    yield Note(
        f"fit of {name}",
        f"objective {found.solution.objective:.4f}; of triples of labels, {worst:.4f} is the largest share unexplained",
    )
    for text in found.notes:
        yield Note(f"about {name}", text)


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(v) for v in row) for row in values)
