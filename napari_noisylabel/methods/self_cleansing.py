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
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from napari_noisylabel.arrays.competence import learnt
from napari_noisylabel.arrays.likelihood import axes_of_array, best_class, displacement
from napari_noisylabel.arrays.metrics import dice
from napari_noisylabel.arrays.mixture import Mixture
from napari_noisylabel.arrays.strangers import count_objects
from napari_noisylabel.inner import Curve, InnerState, Matrix, Note, from_json, to_json
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Prediction
from napari_noisylabel.methods.cleansing import (
    FilterResult,
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
from napari_noisylabel.methods.cleansing_guards import (
    Lost,
    at_least,
    lost_objects,
    object_volumes,
    over_the_cap,
    surplus,
    usual_number,
    without_specks,
    worth_redrawing,
)
from napari_noisylabel.methods.cleansing_objects import (
    SHELL_VOXELS,
    Candidate,
    classes_of,
    concerned,
    find_objects,
    find_pieces,
    redrawn_off,
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
    """What a refresh keeps of one case and track: not its prediction, but the samples found in it.

    `predicted` (K,) are the voxels per predicted class, `points` the features that prototypes are made from.
    `distance`, `overlap` (K,): displacement in voxels and Dice of label and prediction.
    """

    case: str
    labels: np.ndarray
    verified: np.ndarray | None
    spacing: tuple[float, ...]
    objects: list[Candidate]
    pieces: list[Candidate]
    predicted: np.ndarray
    points: Mapping[int, np.ndarray]
    distance: np.ndarray
    overlap: np.ndarray

    @property
    def is_reference(self) -> bool:
        """Verified as a whole."""
        return self.verified is not None and bool(self.verified.all())


@dataclass(frozen=True, eq=False)
class _Filtered:
    """What the filter says of a track: P(noisy) of the objects and the pieces of each view, and what is usual.

    `smallest` (K,) mm3 and `most` (K,) objects per case are limits of what pseudo labels may add; `known` (K,) are the
    classes that the network has learnt: labels of the others are left alone.
    """

    views: list[_View]
    scores: np.ndarray
    by_object: FilterResult
    by_piece: FilterResult
    noisy: list[np.ndarray]
    thick: list[np.ndarray]
    smallest: np.ndarray
    most: list[int]
    known: np.ndarray

    def doubtful(self) -> set[str]:
        """The cases that need a second look: something in them may be noisy, or they are verified as a whole."""
        every = zip(self.views, self.noisy, self.thick, strict=True)
        return {v.case for v, p, q in every if v.is_reference or (p > 0).any() or (q > 0).any()}


@dataclass(frozen=True, eq=False)
class _Cleansed:
    """Pseudo labels of a case (*spatial), the objects they delete, and their Dice per class if it is a reference."""

    pseudo: np.ndarray
    lost: list[Lost]
    agreement: Mapping[int, float]


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
            self._refresh(run)

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

    def _refresh(self, run: FoldRun) -> None:
        """Filter the samples of all training cases, then look again at the doubtful ones and cleanse them.

        One prediction is in memory at a time.
        """
        views: dict[str, list[_View]] = {track.name: [] for track in run.tracks}
        for p in run.predict(features=True):
            for track in run.tracks:
                views[track.name].append(_view(run, track, p, self.level, self.confident))
        if self.drop_small:
            views = {track.name: _without_small(track, views[track.name]) for track in run.tracks}
        found = {track.name: self._filter(track, views[track.name]) for track in run.tracks}
        made: dict[str, dict[str, _Cleansed]] = {track.name: {} for track in run.tracks}
        doubtful = set().union(*(of.doubtful() for of in found.values()))
        for p in run.predict([case for case in run.case_ids if case in doubtful], features=True):
            for track in run.tracks:
                made[track.name][p.case] = self._cleanse(run, track, found[track.name], p)
        for track in run.tracks:
            self._settle(run, track, found[track.name], made[track.name])

    def _filter(self, track: Track, views: list[_View]) -> _Filtered:
        objects, pieces = [c for v in views for c in v.objects], [c for v in views for c in v.pieces]
        scores = self._smoothed(track, views)
        by_object = filter_scores(scores, classes_of(objects), track.n_classes, pool=self.level == "object")
        by_piece = filter_scores(scores_of(pieces), classes_of(pieces), track.n_classes, pool=True)
        known = learnt(np.array([v.distance for v in views]), np.array([v.overlap for v in views]))
        by_object = replace(by_object, noisy=self._only_bad(objects, _of_known(by_object.noisy, objects, known)))
        by_piece = replace(by_piece, noisy=_of_known(by_piece.noisy, pieces, known))
        noisy = _split_up(by_object.noisy, [len(v.objects) for v in views])
        thick = _split_up(by_piece.noisy, [len(v.pieces) for v in views])
        filters = {OBJECTS: by_object, PIECES: by_piece}
        self._fits[track.name] = {name: dict(result.fits) for name, result in filters.items()}
        self._heard[track.name] = [n for n, result in filters.items() if _is_group(result.noisy)]
        self._update_prototypes(track, views, noisy)
        smallest, most = self._smallest(track, views, noisy), _usual_numbers(track, views)
        return _Filtered(views, scores, by_object, by_piece, noisy, thick, smallest, most, known)

    def _settle(self, run: FoldRun, track: Track, found: _Filtered, made: Mapping[str, _Cleansed]) -> None:
        """Write the pseudo labels of all cases into the working labels, and keep what is shown of them."""
        views = found.views
        each = [made.get(v.case) or _Cleansed(v.labels.copy(), [], {}) for v in views]
        notes = self._spare(track, views, each)
        for view, result in zip(views, each, strict=True):
            run.working_labels[view.case][track.name] = result.pseudo
            if self.soft and view.case not in made:
                run.attach("clean", view.case, track.name, np.ones(view.labels.shape, np.float16))
        objects, pieces = [c for v in views for c in v.objects], [c for v in views for c in v.pieces]
        voxels = [float(np.prod(v.spacing)) for v in views]
        self._shown[track.name] = [
            *shown_filter(track, OBJECTS, found.scores, classes_of(objects), found.by_object, self.tau),
            *shown_filter(track, PIECES, scores_of(pieces), classes_of(pieces), found.by_piece, self.tau),
            _ranking(track, views, found.scores, found.by_object.noisy),
            *shown_changes(track, [v.labels for v in views], [m.pseudo for m in each], voxels),
            *_agreement(track, each),
            *_not_learnt(track, found.known),
            *notes,
        ]

    def _only_bad(self, objects: Sequence[Candidate], noisy: np.ndarray) -> np.ndarray:
        """P(noisy), 0 for objects that the network redraws no further off than its own errors would."""
        if not objects:
            return noisy
        off, both = np.array([c.off for c in objects]), np.array([c.kind in ("object", "case") for c in objects])
        return np.where(worth_redrawing(off, classes_of(objects), noisy > 1 - self.tau, both), noisy, 0.0)

    def _without_pieces(
        self, fits: Mapping[str, Mixture], view: _View, probs: np.ndarray, noisy: np.ndarray, thick: np.ndarray
    ) -> np.ndarray:
        """P(noisy) of what noisy pieces leave of each object: one that only lacks a piece is not redrawn."""
        settled = concerned(view.labels, best_class(probs), view.pieces, thick) > 1 - self.tau
        if view.verified is not None:
            settled |= view.verified
        rest = rescored(view.objects, probs, view.labels, settled)
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
            for k in set(view.points) - self._noisy_classes(view, p):
                points[k].append(view.points[k])
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
            limits[k] = at_least(volumes)
        return limits

    def _cleanse(self, run: FoldRun, track: Track, found: _Filtered, prediction: Prediction) -> _Cleansed:
        """Pseudo labels of one case where the filter doubts its labels."""
        i = [v.case for v in found.views].index(prediction.case)
        view, noisy, thick, probs = found.views[i], found.noisy[i], found.thick[i], prediction.probs[track.name]
        if self.level == "object":
            noisy = self._without_pieces(found.by_object.fits, view, probs, noisy, thick)
        fused = self._fused(track, probs, prediction.features)
        best = best_class(fused)
        p = concerned(view.labels, best, [*view.objects, *view.pieces], [*noisy, *thick])
        p[p <= (0.0 if self.soft else 1 - self.tau)] = 0.0
        p[surplus(view.labels, fused, p > 0, found.most)] = 0.0
        pseudo = cleanse(view.labels, fused, p > 0, self.confident)
        pseudo = without_specks(pseudo, view.labels, found.smallest, view.spacing)
        if self.soft:
            run.attach("clean", view.case, track.name, 1 - p)
        lost = lost_objects(view.labels, pseudo, fused.max(0), view.spacing)
        classes = range(1, track.n_classes) if view.is_reference else ()
        return _Cleansed(pseudo, lost, {k: dice(best == k, view.labels == k) for k in classes})

    def _spare(self, track: Track, views: Sequence[_View], made: Sequence[_Cleansed]) -> list[Note]:
        """Of the labelled objects that pseudo labels delete, leave out those over the cap; say which ones go."""
        deleted, n_spared = [], 0
        lost = [(view, own, gone) for view, own in zip(views, made, strict=True) for gone in own.lost]
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


def _of_known(noisy: np.ndarray, candidates: Sequence[Candidate], known: np.ndarray) -> np.ndarray:
    """P(noisy), 0 for those of classes that the network has not learnt: it is no judge of them."""
    return np.where(known[classes_of(candidates)], noisy, 0.0) if candidates else noisy


def _not_learnt(track: Track, known: np.ndarray) -> list[Note]:
    """A note per class of which the network has not learnt enough to cleanse its labels."""
    text = "most labels are far from what the network draws: they are left as they are until it knows the class"
    return [Note(f"{track.name}/{track.classes[k]} is not learnt", text) for k in np.flatnonzero(~known)]


def _view(run: FoldRun, track: Track, p: Prediction, level: str, confident: float) -> _View:
    labels, verified = np.asarray(run.labels[p.case][track.name]), run.verified[p.case][track.name]
    known, spacing = None if verified is None else np.asarray(verified), tuple(run.spacing[p.case])
    probs = p.probs[track.name]
    what, best = (probs, labels, spacing, known), best_class(probs)
    if level == "object":
        found = find_objects(*what), find_pieces(*what)
    else:
        scores = {k: float(s) for k, s in enumerate(score_case(*what)) if not np.isnan(s)}
        found = [_whole_case(k, s, labels, best, spacing) for k, s in scores.items()], []
    predicted = np.bincount(best.ravel(), minlength=track.n_classes)
    points = {} if p.features is None else agreed_features(p.features, labels, probs, confident)
    return _View(p.case, labels, known, spacing, *found, predicted, points, *_apart(run, track, labels, best))


def _apart(run: FoldRun, track: Track, labels: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Displacement in voxels and Dice of label and prediction per class, (K,) each; NaN for background."""
    axes = axes_of_array(run.axes, labels.ndim)
    best = np.where(labels == IGNORE, IGNORE, best)
    distances = [displacement(labels, best, k, axes) for k in range(1, track.n_classes)]
    overlaps = [dice(labels == k, best == k) for k in range(1, track.n_classes)]
    return np.array([np.nan, *distances]), np.array([np.nan, *overlaps])


def _whole_case(k: int, score: float, labels: np.ndarray, best: np.ndarray, spacing: tuple[float, ...]) -> Candidate:
    """All of a case as one sample of class `k`."""
    box, volume = tuple(slice(0, n) for n in labels.shape), float((labels == k).sum() * np.prod(spacing))
    off = redrawn_off(labels == k, (best == k) & (labels != IGNORE))
    return Candidate(k, "case", str(k), score, box, np.ones(labels.shape, bool), spacing, volume, off)


def _without_small(track: Track, views: Sequence[_View]) -> list[_View]:
    """Views without predicted objects that are smaller than labelled ones are: young networks scatter specks."""
    smallest = [0.0]
    for k in range(1, track.n_classes):
        smallest.append(at_least(np.concatenate([object_volumes(v.labels, k, v.spacing) for v in views])))

    def large(c: Candidate) -> bool:
        return c.kind != "missing label" or c.volume_mm3 >= smallest[c.k]

    return [replace(v, objects=[c for c in v.objects if large(c)]) for v in views]


def _usual_numbers(track: Track, views: Sequence[_View]) -> list[int]:
    """(K,): how many objects of each class a case may have after cleansing; 0 for background."""
    per_case = [count_objects(v.labels, track.n_classes) for v in views]
    return [0, *(usual_number([counts[k] for counts in per_case]) for k in range(1, track.n_classes))]


def _agreement(track: Track, made: Sequence[_Cleansed]) -> list[Curve]:
    """Dice of pseudo labels with the labels of cases that are verified as a whole, where there are any."""
    known = {k: [m.agreement[k] for m in made if k in m.agreement] for k in range(1, track.n_classes)}
    means = {
        f"{track.name}/{track.classes[k]}": float(np.nanmean(v)) for k, v in known.items() if not np.isnan(v).all()
    }
    return [Curve("Dice of pseudo labels with verified cases", means)] if means else []


def _split_up(values: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _free_of_size(scores: np.ndarray, track: Track, views: Sequence[_View]) -> np.ndarray:
    """Scores of whole cases, log-transformed and compared with those of objects of like predicted size."""
    classes = classes_of([c for v in views for c in v.objects])
    sizes = np.array([v.predicted[c.k] for v in views for c in v.objects])
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
