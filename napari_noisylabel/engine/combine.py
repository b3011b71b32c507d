"""The ensemble: the evidence of several complete runs becomes that of one, without training and without torch.

Each run is calibrated (a temperature) and weighted (stacking) by what its out-of-fold opinions said of
voxels that a person has decided on; where too few are, of the labels themselves. Then
probabilities and distances are means under these weights, rejections means made surer, and what follows,
filter, regions, queue, export, is as for any run. Which runs agree is kept per voxel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.likelihood import as_uint8, best_class, label_probs, score_histogram, to_uint16
from napari_noisylabel.arrays.pooling import contested, extremised, pooled, stacking_weights, temperature, tempered
from napari_noisylabel.engine.casemaps import MEASURED, VOTES, CaseScores, TrackStatistics
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.engine.spec import RunSpec
from napari_noisylabel.errors import BadSetting, NothingToDo
from napari_noisylabel.inner import Curve, Note, to_json
from napari_noisylabel.methods import ENSEMBLE, is_weak
from napari_noisylabel.records import IGNORE, Case, Report, Run, RunState, Track
from napari_noisylabel.store import ProjectStore

ENOUGH = 500
"""Contested voxels on which a person must have decided before decisions alone weigh the runs."""

PER_CASE = 4000
"""Contested voxels of one case and track that are looked at: none must outweigh the others."""

SLAB = 8
"""Slices that are pooled in one go."""


@dataclass(frozen=True, eq=False)
class Opinions:
    """How the runs count, per track: `temperatures` and `weights` (M,), and the evidence they come from."""

    temperatures: np.ndarray
    weights: np.ndarray
    evidence: str
    voxels: int


def find_members(store: ProjectStore, named: str) -> tuple[Run, ...]:
    """The runs to combine: those named, by commas, or else the latest complete one of each method.

    Raises
    ------
    UnknownName, NothingToDo : a run that is not there, not complete or itself an ensemble, or fewer than two.
    BadSetting : a run named twice.
    """
    names = [name.strip() for name in named.split(",") if name.strip()]
    if names:
        runs = [store.run(name) for name in names]
    else:
        usable = [r for r in store.runs() if r.state == RunState.COMPLETE and _why_not(r) == ""]
        runs = list({run.method: run for run in usable}.values())
    for run in runs:
        if why := _why_not(run):
            raise NothingToDo(f"an ensemble combines complete runs, and {run.id} is {why}. Name other runs.")
    if len({run.id for run in runs}) < len(runs):
        raise BadSetting(f"an ensemble takes each run once, got {', '.join(names)}. Name them without repetition.")
    if len(runs) < 2:
        raise NothingToDo(
            f"an ensemble combines at least two complete runs, and there are {len(runs)}. Train with another method, "
            "or name two runs: --set runs=run-001,run-002."
        )
    return tuple(runs)


def combine(spec: RunSpec, store: ProjectStore, folder: Path) -> Iterator[Report]:
    """Write maps and statistics of all cases as a training would, from those of `spec.settings["runs"]`.

    Writes inside the run's folder only. Raises as `find_members`, UnreadableFile.
    """
    runs = find_members(store, spec.settings["runs"])
    cases = [c for c in store.cases() if all(_maps(store, run, c).complete for run in runs)]
    total = 2 * len(cases)
    yield Report(spec.run, "start", epochs=1, total=total)
    samples: dict[str, list[_Sample]] = {t.name: [] for t in store.tracks}
    for i, case in enumerate(cases):
        if not case.held_out:
            for track in (t for t in store.tracks if t.name in case.labels):
                samples[track.name].append(_sample(spec, store, case, track, runs))
        yield Report(spec.run, "phase", stage="weigh", done=i + 1, total=total)
    equal = spec.settings["weights"] == "equal"
    found = {name: weigh(own, len(runs), equal) for name, own in samples.items()}
    yield Report(spec.run, "epoch", done=len(cases), total=total, epochs=1, inner=to_json(_shown(runs, found)))
    for i, case in enumerate(cases):
        _combine_case(spec, store, folder, case, runs, found)
        yield Report(spec.run, "phase", stage="combine", done=len(cases) + i + 1, total=total)


@dataclass(frozen=True, eq=False)
class _Sample:
    """Contested voxels of one case: opinions (M, K, N), their class now (N,), whether a person decided on it."""

    opinions: np.ndarray
    labels: np.ndarray
    verified: np.ndarray


def weigh(samples: Sequence[_Sample], n_runs: int, equal: bool) -> Opinions:
    """Temperatures and weights of one track, from decisions where there are enough, else from labels."""
    if not samples:
        return Opinions(np.ones(n_runs), np.full(n_runs, 1 / n_runs), "nothing", 0)
    opinions = np.concatenate([s.opinions for s in samples], axis=2)
    labels = np.concatenate([s.labels for s in samples])
    verified = np.concatenate([s.verified for s in samples])
    decided = int(verified.sum()) >= ENOUGH
    if decided:
        opinions, labels = opinions[:, :, verified], labels[verified]
    temperatures = np.array([temperature(own, labels) for own in opinions])
    at = np.arange(labels.size)
    told = [tempered(own, t)[labels, at] for own, t in zip(opinions, temperatures, strict=True)]
    weights = np.full(n_runs, 1 / n_runs) if equal else stacking_weights(np.array(told))
    return Opinions(temperatures, weights, "decisions" if decided else "labels", int(labels.size))


# ---------------------------------------------------------------- helpers, in order of use


def _why_not(run: Run) -> str:
    """What keeps a run out of an ensemble, whose regions may be accepted in bulk; "" where nothing does."""
    if run.method == ENSEMBLE.name:
        return "an ensemble itself"
    if run.state != RunState.COMPLETE:
        return f"{run.state}, without scores"
    return "weak evidence, from tags" if is_weak(run.method) else ""


def _maps(store: ProjectStore, run: Run, case: Case) -> CaseScores:
    return CaseScores(store.run_folder(run.id), case.id)


def _sample(spec: RunSpec, store: ProjectStore, case: Case, track: Track, runs: Sequence[Run]) -> _Sample:
    """At most PER_CASE contested voxels of what a person decided on, and as many of the rest."""
    maps = [_maps(store, run, case).require(f"{track.name}.probs") for run in runs]
    labels = labels_of(store, case, spec.label_version)[track.name]
    mask = store.verified(case.id, track.name, labels.shape, upto=spec.label_version)
    verified = np.zeros(labels.shape, bool) if mask is None else mask
    open_ = contested([m / np.float32(255) for m in maps]) & (labels != IGNORE)
    rng = np.random.default_rng([spec.seed, *case.id.encode()])
    chosen = [_some(np.flatnonzero(open_ & part), rng) for part in (verified, ~verified)]
    at = np.concatenate(chosen)
    opinions = np.stack([m.reshape(len(m), -1)[:, at] for m in maps]) / np.float32(255)
    return _Sample(opinions, labels.reshape(-1)[at].astype(np.int64), verified.reshape(-1)[at])


def _some(indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return indices if indices.size <= PER_CASE else np.sort(rng.choice(indices, PER_CASE, replace=False))


def _shown(runs: Sequence[Run], found: Mapping[str, Opinions]) -> list[Curve | Note]:
    names = [f"{run.method} ({run.id})" for run in runs]
    shown: list[Curve | Note] = []
    for track, own in found.items():
        shown += [
            Curve(f"weights of {track}", dict(zip(names, own.weights.tolist(), strict=True))),
            Curve(f"temperatures of {track}", dict(zip(names, own.temperatures.tolist(), strict=True))),
            Note(f"evidence of {track}", f"weighed by {own.voxels} contested voxels, by {own.evidence}"),
        ]
    return shown


def _combine_case(
    spec: RunSpec, store: ProjectStore, folder: Path, case: Case, runs: Sequence[Run], found: Mapping[str, Opinions]
) -> None:
    out = CaseScores(folder, case.id)
    given = {t: own for t, own in labels_of(store, case, spec.label_version).items() if not case.is_blank(t)}
    statistics = {}
    members = [_maps(store, run, case) for run in runs]
    known = [m.statistics() for m in members]
    for track in (t for t in store.tracks if all(t.name in own for own in known)):
        name, opinions = track.name, found[track.name]
        counts = opinions.temperatures.tolist(), opinions.weights.tolist()
        maps = [m.require(f"{name}.probs") for m in members]
        labels = given.get(name, np.full(maps[0].shape[1:], IGNORE, np.uint8))
        probs = np.empty(maps[0].shape, np.uint8)
        score, proposal = np.empty(labels.shape, np.uint16), np.empty(labels.shape, np.uint8)
        for a in range(0, len(labels), SLAB):
            part = slice(a, a + SLAB)
            mean = pooled([m[:, part] / np.float32(255) for m in maps], *counts)
            probs[:, part] = as_uint8(mean)
            proposal[part] = best_class(mean)
            score[part] = to_uint16(-np.log(np.clip(label_probs(mean, labels[part]), 1e-7, 1)))
        proposals = [m.require(f"{name}.proposal") for m in members]
        agreed = np.stack([own == proposal for own in proposals])
        rejected = np.zeros(labels.shape, np.float32)
        for member, agrees, weight in zip(members, agreed, opinions.weights, strict=True):
            rejected += np.float32(weight / 255) * np.where(agrees, member.require(f"{name}.rejection"), 0)
        verified = store.verified(case.id, name, labels.shape, upto=spec.label_version)
        histogram = score_histogram(score, labels, track.n_classes, verified)
        statistics[name] = _mean_statistics(histogram, [own[name] for own in known], opinions.weights)
        out.write(f"{name}.score", score)
        out.write(f"{name}.proposal", proposal)
        out.write(f"{name}.rejection", as_uint8(extremised(np.minimum(rejected, 1))))
        out.write(f"{name}.probs", probs)
        out.write(f"{name}.{VOTES}", agreed.view(np.uint8))
    best = int(np.argmax(np.mean([own.weights for own in found.values()], axis=0)))
    features = members[best].read("features")
    if features is not None:
        out.write("features", features)
    out.write_statistics(statistics)


def _mean_statistics(histogram: np.ndarray, known: Sequence[TrackStatistics], weights: np.ndarray) -> TrackStatistics:
    """Weighted means of what each run measured, and what those runs that know of it say of errors that labels share."""
    measured = {name: _mean([getattr(own, name) for own in known], weights) for name in MEASURED}
    shared = [own.systematic for own in known if own.systematic is not None]
    return TrackStatistics(histogram, **measured, systematic=np.mean(shared, axis=0) if shared else None)


def _mean(rows: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the runs (M, K) -> (K,) without NaN; NaN where there is nothing else."""
    table = np.array(rows, float)
    known = np.isfinite(table)
    share = (known * weights[:, None]).sum(0)
    total = (np.where(known, table, 0) * weights[:, None]).sum(0)
    return np.divide(total, share, out=np.full(table.shape[1], np.nan), where=share > 0)
