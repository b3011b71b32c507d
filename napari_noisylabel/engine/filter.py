"""Filtering: stored scores become likelihoods, likelihoods become regions. No training, no torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays import likelihood as lk
from napari_noisylabel.arrays.mixture import Mixture
from napari_noisylabel.arrays.regions import Components, changed_voxels, regions_among
from napari_noisylabel.engine.casemaps import VOTES, CaseScores, TrackStatistics, known_classes
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.errors import BadSetting
from napari_noisylabel.records import IGNORE, Case, Filter, FilterLevel, MixtureFit, Region, Report, Track
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.files import read_json, write_json

THRESHOLDS = {FilterLevel.CASE: 0.8, FilterLevel.REGION: 0.9, FilterLevel.VOXEL: 0.95}
"""Default threshold per level: strict, so that clean masks stay clean (docs/filter.md)."""

WEAK_THRESHOLD = 0.5
"""Default for methods that learn from tags, at every level: a mask that starts empty is no clean one to be kept."""

RESULT = "filter"
TUPLES = ("start", "stop", "votes")  # fields of a region that JSON makes lists of


@dataclass(frozen=True)
class FilterRequest:
    """What to filter and how; a threshold of 0 takes the level's default.

    `weak`: the run's method learns from tags, so all its regions are weak evidence, and marked so.
    """

    run: str
    level: str = FilterLevel.CASE
    threshold: float = 0.0
    weak: bool = False

    def checked(self) -> FilterRequest:
        """With the default filled in. Raises BadSetting."""
        if self.level not in list(FilterLevel):
            raise BadSetting(f"the level of a filter is voxel, region or case, got {self.level!r}. Choose one of them.")
        if not 0 <= self.threshold <= 1:
            raise BadSetting(f"a threshold is a likelihood between 0 and 1, got {self.threshold:g}. Give another one.")
        default = WEAK_THRESHOLD if self.weak else THRESHOLDS[FilterLevel(self.level)]
        return replace(self, threshold=self.threshold or default)


@dataclass(frozen=True)
class FilterResult:
    """What a filter left in the run's folder: the filter, the regions and their voxels."""

    filter: Filter
    regions: tuple[Region, ...]
    voxels: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class CaseMaps:
    """One case and track as a filter sees it; maps are (*spatial), and read when a level asks for them.

    `blank`: its mask started empty. Nothing says how it is drawn, so no level's model is asked: the likelihood is
    what the method says of the empty mask.
    """

    scores: CaseScores
    track: str
    labels: np.ndarray
    statistics: TrackStatistics
    spacing: tuple[float, ...]
    blank: bool = False

    @cached_property
    def proposal(self) -> np.ndarray:
        """Class indices, uint8."""
        return self.scores.require(f"{self.track}.proposal")

    @cached_property
    def score(self) -> np.ndarray:
        """Stored scores, uint16."""
        return self.scores.require(f"{self.track}.score")

    @cached_property
    def rejection(self) -> np.ndarray:
        """How surely all networks reject the label, uint8."""
        return self.scores.require(f"{self.track}.rejection")

    @cached_property
    def changed(self) -> np.ndarray:
        """Flat indices of the voxels that the proposal would change: few, and all that becomes regions."""
        return changed_voxels(self.labels, self.proposal)


def refilter(store: ProjectStore, folder: Path, request: FilterRequest) -> Iterator[Report]:
    """Fit the mixtures, write each case's likelihood map, find its regions.

    Writes inside the run's folder only; the project takes the regions from there
    (`read_result`). Needs the maps of a scored run.

    Raises
    ------
    BadSetting : level or threshold.
    """
    request = request.checked()
    cases = [c for c in store.cases() if CaseScores(folder, c.id).complete]
    statistics = {c.id: CaseScores(folder, c.id).statistics() for c in cases}
    fitter = _FITTERS[FilterLevel(request.level)]
    known = {t.name: _known(t, cases, statistics) for t in store.tracks}
    models = {t.name: fitter(store, folder, t, cases, statistics) for t in store.tracks}
    aside = folder / f".{RESULT}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    regions: list[dict[str, Any]] = []
    indices: list[np.ndarray] = []
    counts = {t.name: np.zeros(256, np.int64) for t in store.tracks}
    for i, case in enumerate(cases):
        own = statistics[case.id]
        for found, components in _case_regions(store, folder, case, models, known, own, request, counts):
            regions += [vars(r) for r in found]  # thousands: asdict would copy them deeply
            indices += [components.voxels(j) for j in range(len(components))]
        yield Report(request.run, "phase", stage="propose", done=i + 1, total=len(cases))
    fits = {t: tuple(_as_record(f) for f in model.fits) for t, model in models.items()}
    flat = np.concatenate(indices) if indices else np.zeros(0, np.int64)
    np.save(aside / "indices.npy", flat)
    np.save(aside / "offsets.npy", np.cumsum([0, *(len(v) for v in indices)]))
    write_json(aside / "filter.json", {
        "run": request.run, "level": str(request.level), "threshold": request.threshold,
        "note": _note(request, store.tracks, fits, known),
        "fits": {t: [asdict(f) for f in own] for t, own in fits.items()}, "regions": regions,
        "likelihood_counts": {t: c.tolist() for t, c in counts.items()},
    }, nan_as_null=True, compact=True)  # fmt: skip
    shutil.rmtree(folder / RESULT, ignore_errors=True)
    aside.rename(folder / RESULT)


def read_result(folder: Path) -> FilterResult:
    """What `refilter` left. Raises UnreadableFile."""
    tree = read_json(folder / RESULT / "filter.json")
    fits = {t: tuple(MixtureFit.from_json(f) for f in own) for t, own in tree["fits"].items()}
    made = Filter(tree["run"], 0, FilterLevel(tree["level"]), tree["threshold"], fits, tree["note"])
    offsets = np.load(folder / RESULT / "offsets.npy")
    indices = np.load(folder / RESULT / "indices.npy", mmap_mode="r")
    regions = tuple(Region(**r | {key: tuple(r.get(key, ())) for key in TUPLES}) for r in tree["regions"])
    return FilterResult(made, regions, tuple(indices[a:b] for a, b in zip(offsets, offsets[1:], strict=False)))


def likelihood_counts(folder: Path) -> dict[str, np.ndarray]:
    """Per track (256,): voxels that a proposal would change, per uint8 likelihood."""
    tree = read_json(folder / RESULT / "filter.json")
    return {t: np.array(c, np.int64) for t, c in tree["likelihood_counts"].items()}


# ---------------------------------------------------------------- one model per level


class _CaseModel:
    """Is this object of this case badly drawn? Then what all networks reject is suspicious."""

    def __init__(
        self, store: ProjectStore, folder: Path, track: Track, cases: Sequence[Case], statistics: Mapping[str, Any]
    ) -> None:
        own = [statistics[c.id][track.name] for c in cases if not c.held_out]
        moved = np.array([lk.excess(s.seen, s.between) for s in own]).reshape(-1, track.n_classes)
        self.fits = tuple(lk.fit_cases(moved[:, k]) for k in range(track.n_classes))

    def likelihood(self, maps: CaseMaps) -> np.ndarray:
        excess = lk.excess(maps.statistics.seen, maps.statistics.between)
        bad = [0.0] + [float(lk.case_likelihood(f, e)) for f, e in zip(self.fits[1:], excess[1:], strict=True)]
        return lk.case_map(np.array(bad), maps.labels, maps.proposal, maps.rejection, maps.statistics.systematic)


class _VoxelModel:
    """Does this voxel's loss belong to the noisy component of its class?"""

    def __init__(
        self, store: ProjectStore, folder: Path, track: Track, cases: Sequence[Case], statistics: Mapping[str, Any]
    ) -> None:
        own = [statistics[c.id][track.name].histogram for c in cases if not c.held_out]
        self.fits = lk.fit_voxels(np.sum(own, axis=0) if own else np.zeros((track.n_classes, lk.BINS)))
        self._table = lk.as_uint8(lk.voxel_table(self.fits))

    def likelihood(self, maps: CaseMaps) -> np.ndarray:
        out = np.zeros(maps.labels.shape, np.uint8)
        for k, row in enumerate(self._table):
            np.copyto(out, row[maps.score], where=maps.labels == k)
        return out


class _RegionModel:
    """Do the losses of this connected piece belong to the noisy component of its class?"""

    def __init__(
        self, store: ProjectStore, folder: Path, track: Track, cases: Sequence[Case], statistics: Mapping[str, Any]
    ) -> None:
        pieces: list[tuple[np.ndarray, np.ndarray]] = []
        for case in (c for c in cases if not c.held_out):
            maps = _maps(store, folder, case, track, statistics[case.id])
            if maps is not None and not maps.blank:
                found = self._candidates(maps)
                pieces.append((_concerned(found), self._scores(found, maps)))
        concerned = np.concatenate([c for c, _ in pieces] or [np.zeros(0)])
        scores = np.concatenate([s for _, s in pieces] or [np.zeros(0)])
        self.fits = tuple(lk.fit_regions(scores[concerned == k]) for k in range(track.n_classes))

    def likelihood(self, maps: CaseMaps) -> np.ndarray:
        out = np.zeros(maps.labels.size, np.uint8)
        found = self._candidates(maps)
        if len(found):
            scores, rejected = self._scores(found, maps), found.means(maps.score, lk.rejection_table())
            concerned = _concerned(found)
            values = np.zeros(len(found))
            for k, fit in enumerate(self.fits):
                own = concerned == k
                values[own] = lk.region_likelihood(fit, scores[own], rejected[own])
            out[found.indices] = np.repeat(lk.as_uint8(values), found.sizes)
        return out.reshape(maps.labels.shape)

    @staticmethod
    def _candidates(maps: CaseMaps) -> Components:
        annotated = maps.labels.reshape(-1)[maps.changed] != IGNORE
        return regions_among(maps.changed[annotated], maps.labels, maps.proposal, maps.spacing)

    @staticmethod
    def _scores(found: Components, maps: CaseMaps) -> np.ndarray:
        return lk.to_nats(found.means(maps.score)) * np.sqrt(found.sizes)


_FITTERS: Mapping[FilterLevel, Any] = {
    FilterLevel.CASE: _CaseModel,
    FilterLevel.VOXEL: _VoxelModel,
    FilterLevel.REGION: _RegionModel,
}


# ---------------------------------------------------------------- helpers, in order of use


def _case_regions(
    store: ProjectStore, folder: Path, case: Case, models: Mapping[str, Any], known: Mapping[str, np.ndarray],
    statistics: Mapping[str, TrackStatistics], request: FilterRequest, counts: Mapping[str, np.ndarray],
) -> Iterator[tuple[list[Region], Components]]:  # fmt: skip
    """The regions of one case, track by track; its likelihood maps are written on the way."""
    for track in store.tracks:
        maps = _maps(store, folder, case, track, statistics)
        if maps is None:
            continue
        shown = np.array(maps.rejection) if maps.blank else models[track.name].likelihood(maps)
        if track.ignore is not None:
            shown[maps.labels == IGNORE] = 0
        verified = store.verified(case.id, track.name, maps.labels.shape)
        if verified is not None:
            shown[verified] = 0
        CaseScores(folder, case.id).write(f"{track.name}.likelihood", shown)
        suspicion = shown.reshape(-1)[maps.changed]
        if not case.held_out:
            counts[track.name][:] += np.bincount(suspicion, minlength=256)
        enough = suspicion >= np.ceil(request.threshold * 255 - 1e-6)
        found = regions_among(maps.changed[enough], maps.labels, maps.proposal, maps.spacing)
        yield _regions(request, case, track, found, shown, maps, known[track.name]), found


def _known(track: Track, cases: Sequence[Case], statistics: Mapping[str, Any]) -> np.ndarray:
    """(K,) bool: the classes that the networks have learnt; what they propose of others is weak."""
    return known_classes([statistics[c.id][track.name] for c in cases if not c.held_out], track.n_classes)


def _maps(
    store: ProjectStore, folder: Path, case: Case, track: Track, statistics: Mapping[str, TrackStatistics]
) -> CaseMaps | None:
    """Labels as they are now, and what the run left; None where the case has no labels of the track."""
    if not case.is_labelled(track.name):
        return None
    labels = labels_of(store, case)[track.name]
    return CaseMaps(
        CaseScores(folder, case.id), track.name, labels, statistics[track.name], case.geometry.spacing,
        blank=case.is_blank(track.name),
    )  # fmt: skip


def _regions(
    request: FilterRequest, case: Case, track: Track, found: Components, shown: np.ndarray, maps: CaseMaps,
    known: np.ndarray,
) -> list[Region]:  # fmt: skip
    likelihood, score = found.means(shown) / 255, lk.to_nats(found.means(maps.score))
    voxel = float(np.prod(maps.spacing))
    histogram = maps.statistics.histogram
    above = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1] / np.maximum(histogram.sum(1, keepdims=True), 1)
    votes, sizes = _votes(maps, found), found.sizes
    weak = request.weak | ~(known[found.from_class] & known[found.to_class])
    bins = np.clip((score / lk.MAX_SCORE * lk.BINS).astype(int), 0, lk.BINS - 1)
    return [
        Region(
            id=0,
            run=request.run,
            weak=bool(weak[j]),
            case=case.id,
            track=track.name,
            from_class=int(found.from_class[j]),
            to_class=int(found.to_class[j]),
            start=tuple(int(v) for v in found.start[j]),
            stop=tuple(int(v) for v in found.stop[j]),
            voxels=int(sizes[j]),
            volume_mm3=float(sizes[j] * voxel),
            likelihood=float(likelihood[j]),
            score=float(score[j]),
            gain=float(likelihood[j] * sizes[j]),
            share_above=float(above[found.from_class[j], bins[j]]),
            votes=votes[j],
        )
        for j in range(len(found))
    ]


def _votes(maps: CaseMaps, found: Components) -> list[tuple[float, ...]]:
    """Of an ensemble: per region, the share of voxels for which each run proposes the same."""
    agreed = maps.scores.open(f"{maps.track}.{VOTES}")
    if agreed is None:
        return [()] * len(found)
    shares = [found.means(agreed[m]) for m in range(agreed.shape[0])]  # one run's map at a time
    return [tuple(float(v) for v in row) for row in np.transpose(shares)]


def _concerned(found: Components) -> np.ndarray:
    """The class a region is about: the one that is there, or the one proposed on background."""
    return np.where(found.from_class > 0, found.from_class, found.to_class)


def _as_record(fit: Mixture) -> MixtureFit:
    return MixtureFit(fit.means, fit.sds, fit.weights, fit.split, fit.reason, fit.n, fit.clean_below)


def _note(
    request: FilterRequest, tracks: Sequence[Track], fits: Mapping[str, Sequence[MixtureFit]],
    known: Mapping[str, np.ndarray],
) -> str:  # fmt: skip
    """On the classes whose mixture was refused, and what stands in for it, on those not learnt, on weak evidence."""
    weak = "without a mask the likelihood is the probability of the finding: weak evidence, from tags"
    if request.weak and not any(f.n for own in fits.values() for f in own):
        return weak
    sentences = [_split_note(FilterLevel(request.level), tracks, fits), *_unlearnt_notes(tracks, known)]
    return "; ".join(sentences + [weak] * request.weak)


def _unlearnt_notes(tracks: Sequence[Track], known: Mapping[str, np.ndarray]) -> list[str]:
    """A sentence for each class whose regions are weak, as no network knows it."""
    return [
        f"the networks have not learnt {t.classes[k]}, they are far from most labels that they were trained on: its "
        "regions are weak evidence, to be looked at one by one (train longer, or a larger network)"
        for t in tracks
        for k in np.flatnonzero(~known[t.name])
    ]


def _split_note(level: FilterLevel, tracks: Sequence[Track], fits: Mapping[str, Sequence[MixtureFit]]) -> str:
    refused = [t.classes[k] for t in tracks for k, f in enumerate(fits[t.name]) if k and not f.split]
    if not refused:
        return "the mixture separates clean from noisy in every class"
    instead = (
        "there an object counts as badly drawn where it is over a voxel from the networks"
        if level is FilterLevel.CASE
        else "there the likelihood is 1 - p(label), out of fold"
    )
    return f"no split found for {', '.join(refused)}: {instead}"
