"""Mixture filter and label cleansing, inspired by Deep Self-Cleansing.

J. Dong, Y. Zhang et al., "Deep self-cleansing for medical image segmentation with noisy labels",
Medical Physics 2025 (arXiv 2409.05024). Only the abstract was available: a Gaussian mixture tells
clean from noisy labels, a cleansing module makes pseudo labels for the noisy ones, and both then
supervise the network together. Everything below that is a reconstruction, not the authors'
algorithm: `cleansing` has its score, filter, cleansing and loss, `cleansing_objects` the samples
that are smaller than a case, `cleansing_prototypes` the prototypes, `cleansing_guards` what no
pseudo label may do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from napari_noisylabel.arrays.metrics import dice
from napari_noisylabel.arrays.mixture import Mixture
from napari_noisylabel.inner import Curve, InnerState, Matrix, Note, from_json, to_json
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Prediction
from napari_noisylabel.methods.cleansing import (
    cleanse,
    filter_scores,
    fuse,
    joint_loss,
    noisy_posterior,
    score_case,
    size_free,
    soft_loss,
    wrong_nats,
)
from napari_noisylabel.methods.cleansing_guards import lost_objects, object_volumes, over_the_cap, without_specks
from napari_noisylabel.methods.cleansing_objects import (
    SHELL_VOXELS,
    Candidate,
    classes_of,
    concerned,
    find_objects,
    find_pieces,
    rescored,
    scores_of,
    suspicion,
)
from napari_noisylabel.methods.cleansing_prototypes import agreed_features, prototype_probs, resized, updated
from napari_noisylabel.methods.cleansing_report import shown_changes, shown_filter, shown_losses, shown_ranking
from napari_noisylabel.records import IGNORE, Track

A_GROUP = 0.02  # a filter that calls fewer samples noisy found outliers: it says nothing about the others
OBJECTS, PIECES = "objects", "pieces"


@dataclass(frozen=True, eq=False)
class _View:
    """One case and track at a refresh, and the samples found in it."""

    case: str
    probs: np.ndarray
    features: np.ndarray | None
    labels: np.ndarray
    verified: np.ndarray | None
    spacing: tuple[float, ...]
    objects: list[Candidate]
    pieces: list[Candidate]


@dataclass(frozen=True, eq=False)
class _Cleansed:
    """Pseudo labels of a case, how sure they are, and P(noisy) of each voxel that they speak about; (*spatial)."""

    pseudo: np.ndarray
    sure: np.ndarray
    noisy: np.ndarray


class SelfCleansing(Method):
    """Warm up on all labels; then keep refreshing which are clean, and repair the others."""

    name = "self-cleansing"
    title = "Mixture filter and label cleansing (inspired by Deep Self-Cleansing)"
    source = "inspired by Dong, Zhang et al., Medical Physics 2025 (arXiv 2409.05024): a reconstruction"

    def __init__(
        self,
        dice_weight: float = 1.0,
        warmup: float = 0.4,
        ramp: int = 2,
        refresh: int = 2,
        level: str = "object",
        soft: bool = False,
        tau: float = 0.5,
        smoothing: float = 0.5,
        confident: float = 0.8,
        temperature: float = 0.1,
        prototypes: int = 3,
        background_prototypes: int = 5,
        drop_small: bool = True,
        max_deleted: float = 0.1,
    ) -> None:
        self.dice_weight, self.warmup, self.ramp, self.refresh = dice_weight, warmup, ramp, refresh
        self.level, self.soft, self.tau, self.smoothing = level, soft, tau, smoothing
        self.confident, self.temperature = confident, temperature
        self.prototypes, self.background_prototypes = prototypes, background_prototypes
        self.drop_small, self.max_deleted = drop_small, max_deleted
        self._scores: dict[str, dict[str, dict[str, float]]] = {}  # by track, case and object
        self._prototypes: dict[str, dict[str, np.ndarray]] = {}  # by track and class
        self._fits: dict[str, dict[str, dict[str, Mixture]]] = {}  # by track, samples and class
        self._heard: dict[str, list[str]] = {}  # by track: the filters that found two groups
        self._shown: dict[str, list[InnerState]] = {}

    # ------------------------------------------------------------ training

    def on_epoch_start(self, run: FoldRun) -> None:
        since = run.epoch - self._first(run)
        if since >= 0 and since % self.refresh == 0:
            predictions = list(run.predict(features=True))
            for track in run.tracks:
                self._refresh(run, track, predictions)

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        logits = run.networks[0](batch.images).logits
        ramp = float(np.clip((run.epoch - self._first(run) + 1) / self.ramp, 0, 1))
        losses = [self._loss(logits[t.name], batch, t.name, ramp) for t in run.tracks]
        return sum(losses[1:], losses[0])

    def state_dict(self) -> dict[str, Any]:
        return {
            "scores": self._scores,
            "prototypes": self._prototypes,
            "fits": {
                t: {n: {k: asdict(f) for k, f in own.items()} for n, own in s.items()} for t, s in self._fits.items()
            },
            "heard": self._heard,
            "shown": {track: to_json(shown) for track, shown in self._shown.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scores = {t: {c: dict(own) for c, own in cases.items()} for t, cases in state["scores"].items()}
        self._prototypes = {track: dict(own) for track, own in state["prototypes"].items()}
        self._fits = {
            t: {n: {k: _mixture(f) for k, f in own.items()} for n, own in s.items()} for t, s in state["fits"].items()
        }
        self._heard = {track: list(names) for track, names in state["heard"].items()}
        self._shown = {track: from_json(shown) for track, shown in state["shown"].items()}

    def inner(self) -> list[InnerState]:
        return [item for shown in self._shown.values() for item in shown]

    # ------------------------------------------------------------ scoring

    def score(self, evidence: Evidence) -> np.ndarray:
        """-log P(label is right): the cross-entropy, less where the filter calls object and piece clean."""
        return wrong_nats(super().score(evidence), list(self._witnesses(evidence).values()))

    def maps(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """How sure the pseudo label is, and P(noisy) of the objects and pieces that the filter judged."""
        found = {"fused": self._fused(evidence.track, evidence.probs, evidence.features).max(0)}
        return found | {f"noisy-{name}": noisy for name, noisy in self._witnesses(evidence).items()}

    def _witnesses(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """P(noisy) per voxel by each filter that told two groups apart when it was last fitted."""
        fits, found = self._fits.get(evidence.track.name, {}), {}
        if not fits or self.level == "case":
            return {}
        what, shape = (evidence.probs, evidence.labels, evidence.spacing), evidence.labels.shape
        finders = {OBJECTS: (find_objects, SHELL_VOXELS), PIECES: (find_pieces, 1)}
        for name in self._heard[evidence.track.name]:
            find, reach = finders[name]
            candidates = find(*what)
            noisy = noisy_posterior(fits[name], scores_of(candidates), classes_of(candidates))
            found[name] = suspicion(shape, candidates, noisy, reach)
        return found

    # ------------------------------------------------------------ one refresh

    def _first(self, run: FoldRun) -> int:
        return max(1, round(self.warmup * run.epochs))

    def _loss(self, logits: Tensor, batch: Batch, track: str, ramp: float) -> Tensor:
        clean = batch.extra.get("clean", {}).get(track)
        if clean is None:
            return joint_loss(logits, batch, track, ramp, self.dice_weight)
        return soft_loss(logits, batch, track, clean, ramp, self.dice_weight)

    def _refresh(self, run: FoldRun, track: Track, predictions: Sequence[Prediction]) -> None:
        """Filter the samples of all training cases of a track, then cleanse what is noisy."""
        views = [_view(run, track, p, self.level) for p in predictions]
        objects, pieces = [c for v in views for c in v.objects], [c for v in views for c in v.pieces]
        scores = self._smoothed(track, views)
        by_object = filter_scores(scores, classes_of(objects), track.n_classes, pool=self.level == "object")
        by_piece = filter_scores(scores_of(pieces), classes_of(pieces), track.n_classes, pool=True)
        noisy = _split_up(by_object.noisy, [len(v.objects) for v in views])
        thick = _split_up(by_piece.noisy, [len(v.pieces) for v in views])
        filters = {OBJECTS: by_object, PIECES: by_piece}
        self._fits[track.name] = {name: dict(found.fits) for name, found in filters.items()}
        self._heard[track.name] = [n for n, found in filters.items() if _is_group(found.noisy)]

        self._update_prototypes(track, views, noisy)
        smallest = self._smallest(track, views, noisy)
        if self.level == "object":
            noisy = [self._without_pieces(by_object.fits, *of) for of in zip(views, noisy, thick, strict=True)]
        made = [self._cleanse(track, *of, smallest) for of in zip(views, noisy, thick, strict=True)]
        notes = self._spare(track, views, made)
        for view, result in zip(views, made, strict=True):
            run.working_labels[view.case][track.name] = result.pseudo
            if self.soft:
                run.attach("clean", view.case, track.name, 1 - result.noisy)
        self._shown[track.name] = [
            *shown_filter(track, OBJECTS, scores, classes_of(objects), by_object, self.tau),
            *shown_filter(track, PIECES, scores_of(pieces), classes_of(pieces), by_piece, self.tau),
            _ranking(track, views, scores, by_object.noisy),
            *shown_changes(
                track, [v.labels for v in views], [m.pseudo for m in made], [float(np.prod(v.spacing)) for v in views]
            ),
            *self._agreement(track, views),
            *notes,
        ]

    def _without_pieces(
        self, fits: Mapping[str, Mixture], view: _View, noisy: np.ndarray, thick: np.ndarray
    ) -> np.ndarray:
        """P(noisy) of what noisy pieces leave of each object: one that only lacks a piece is not redrawn."""
        settled = concerned(view.labels, view.probs.argmax(0), view.pieces, thick) > 1 - self.tau
        if view.verified is not None:
            settled |= view.verified
        rest = rescored(view.objects, view.probs, view.labels, settled)
        return np.minimum(noisy, noisy_posterior(fits, rest, classes_of(view.objects)))

    def _smoothed(self, track: Track, views: Sequence[_View]) -> np.ndarray:
        """The scores of all objects of all cases, each a moving mean over the refreshes."""
        kept, out = self._scores.setdefault(track.name, {}), []
        for view in views:
            before = kept.get(view.case, {})
            now = [self.smoothing * before.get(c.key, c.score) + (1 - self.smoothing) * c.score for c in view.objects]
            kept[view.case] = {c.key: float(s) for c, s in zip(view.objects, now, strict=True) if c.key}
            out += now
        scores = np.array(out, np.float64)
        return _free_of_size(scores, track, views) if self.level == "case" else scores

    def _update_prototypes(self, track: Track, views: Sequence[_View], noisy: Sequence[np.ndarray]) -> None:
        """From the clean set only, as many voxels of each case."""
        points: dict[int, list[np.ndarray]] = {k: [] for k in range(track.n_classes)}
        for view, p in zip(views, noisy, strict=True):
            if view.features is not None:
                agreed = agreed_features(view.features, view.labels, view.probs, self.confident)
                for k in set(points) - self._noisy_classes(view, p):
                    points[k].append(agreed[k])
        kept = self._prototypes.setdefault(track.name, {})
        for k, found in points.items():
            n = self.prototypes if k else self.background_prototypes
            made = updated(kept.get(str(k)), np.concatenate(found or [np.zeros((0, 1))]), n)
            if made is not None:
                kept[str(k)] = made

    def _noisy_classes(self, view: _View, noisy: np.ndarray) -> set[int]:
        return {c.k for c, p in zip(view.objects, noisy, strict=True) if p > 1 - self.tau}

    def _smallest(self, track: Track, views: Sequence[_View], noisy: Sequence[np.ndarray]) -> np.ndarray:
        """(K,) mm3: the 1st percentile of the volumes of clean labelled objects; 0 where there are none."""
        limits = np.zeros(track.n_classes)
        for k in range(1, track.n_classes) if self.drop_small else ():
            clean = [v for v, p in zip(views, noisy, strict=True) if k not in self._noisy_classes(v, p)]
            volumes = np.concatenate([np.zeros(0), *(object_volumes(v.labels, k, v.spacing) for v in clean)])
            limits[k] = np.percentile(volumes, 1) if volumes.size else 0.0
        return limits

    def _cleanse(
        self, track: Track, view: _View, noisy: np.ndarray, thick: np.ndarray, smallest: np.ndarray
    ) -> _Cleansed:
        if not (noisy > 0).any() and not (thick > 0).any():
            nothing = np.zeros(view.labels.shape, np.float32)
            return _Cleansed(view.labels.copy(), nothing, nothing)
        fused = self._fused(track, view.probs, view.features)
        p = concerned(view.labels, fused.argmax(0), [*view.objects, *view.pieces], [*noisy, *thick])
        p[p <= (0.0 if self.soft else 1 - self.tau)] = 0.0
        pseudo = cleanse(view.labels, fused, p > 0, self.confident)
        return _Cleansed(without_specks(pseudo, view.labels, smallest, view.spacing), fused.max(0), p)

    def _spare(self, track: Track, views: Sequence[_View], made: Sequence[_Cleansed]) -> list[Note]:
        """Of the labelled objects that pseudo labels delete, leave out those over the cap; say which ones go."""
        deleted, n_spared = [], 0
        lost = [
            (view, own, gone)
            for view, own in zip(views, made, strict=True)
            for gone in lost_objects(view.labels, own.pseudo, own.sure, view.spacing)
        ]
        for k in range(1, track.n_classes):
            mine = [entry for entry in lost if entry[2].k == k]
            there = sum(object_volumes(v.labels, k, v.spacing).size for v in views) if mine else 0
            spared = over_the_cap([gone for _, _, gone in mine], there, self.max_deleted)
            for (view, own, gone), spare in zip(mine, spared, strict=True):
                if spare:
                    own.pseudo.reshape(-1)[gone.voxels] = IGNORE
                else:
                    deleted.append((view.case, k, gone.volume_mm3))
            n_spared += sum(spared)
        return shown_losses(track, deleted, n_spared)

    def _agreement(self, track: Track, views: Sequence[_View]) -> list[Curve]:
        """Dice of pseudo labels with the labels of cases that are verified as a whole, where there are any."""
        found: dict[str, list[float]] = {}
        for view in views:
            if view.verified is not None and view.verified.all():
                pseudo = self._fused(track, view.probs, view.features).argmax(0)
                for k in range(1, track.n_classes):
                    name = f"{track.name}/{track.classes[k]}"
                    found.setdefault(name, []).append(dice(pseudo == k, view.labels == k))
        means = {name: float(np.nanmean(v)) for name, v in found.items() if not np.isnan(v).all()}
        return [Curve("Dice of pseudo labels with verified cases", means)] if means else []

    def _fused(self, track: Track, probs: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        kept = self._prototypes.get(track.name, {})
        if features is None or len(kept) < track.n_classes:  # a class without prototypes would lose everywhere
            return fuse(probs, None)
        coarse = prototype_probs(features, [kept[str(k)] for k in range(track.n_classes)], self.temperature)
        return fuse(probs, resized(coarse, probs.shape[1:]))


# ---------------------------------------------------------------- helpers, in order of use


def _mixture(values: Mapping[str, Any]) -> Mixture:
    """The mixture of `asdict(mixture)` after a trip through JSON, which has no tuples."""
    return Mixture(**{**values, **{name: tuple(values[name]) for name in ("means", "sds", "weights")}})


def _is_group(noisy: np.ndarray) -> bool:
    return bool(noisy.size) and float((noisy > 0.5).mean()) >= A_GROUP


def _view(run: FoldRun, track: Track, p: Prediction, level: str) -> _View:
    labels, verified = np.asarray(run.labels[p.case][track.name]), run.verified[p.case][track.name]
    known, spacing = None if verified is None else np.asarray(verified), tuple(run.spacing[p.case])
    what = p.probs[track.name], labels, spacing, known
    if level == "object":
        found = find_objects(*what), find_pieces(*what)
    else:
        scores = {k: float(s) for k, s in enumerate(score_case(*what)) if not np.isnan(s)}
        found = [_whole_case(k, s, labels, spacing) for k, s in scores.items()], []
    return _View(p.case, what[0], p.features, labels, known, spacing, *found)


def _whole_case(k: int, score: float, labels: np.ndarray, spacing: tuple[float, ...]) -> Candidate:
    """All of a case as one sample of class `k`."""
    box, volume = tuple(slice(0, n) for n in labels.shape), float((labels == k).sum() * np.prod(spacing))
    return Candidate(k, "case", str(k), score, box, np.ones(labels.shape, bool), spacing, volume)


def _split_up(values: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _free_of_size(scores: np.ndarray, track: Track, views: Sequence[_View]) -> np.ndarray:
    """Scores of whole cases, log-transformed and compared with those of objects of like predicted size."""
    classes = classes_of([c for v in views for c in v.objects])
    predicted = [np.bincount(v.probs.argmax(0).ravel(), minlength=track.n_classes) for v in views]
    sizes = np.array([n[c.k] for v, n in zip(views, predicted, strict=True) for c in v.objects])
    out = np.zeros(len(scores))
    for k in np.unique(classes):
        out[classes == k] = size_free(scores[classes == k], sizes[classes == k])
    return out


def _ranking(track: Track, views: Sequence[_View], scores: np.ndarray, noisy: np.ndarray) -> Matrix:
    every = [(v.case, c) for v in views for c in v.objects]
    return shown_ranking(
        track, [case for case, _ in every], classes_of([c for _, c in every]), [c.kind for _, c in every], noisy,
        scores, np.array([c.volume_mm3 for _, c in every]),
    )  # fmt: skip
