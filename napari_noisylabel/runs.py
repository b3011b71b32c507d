"""The life of a run in the project: made, resumed, taken in when its worker is done, read for the window."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_noisylabel.arrays.likelihood import bin_edges, excess
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.combine import find_members
from napari_noisylabel.engine.filter import likelihood_counts, read_result
from napari_noisylabel.engine.journal import epoch_reports
from napari_noisylabel.engine.settings import check_engine
from napari_noisylabel.engine.spec import RunSpec, library_versions, write_spec
from napari_noisylabel.engine.watch import Watch, last_report, worker_is_alive
from napari_noisylabel.errors import BadSetting, MissingPart, NothingToDo, ProjectError
from napari_noisylabel.io.files import looks_changed, require_unchanged
from napari_noisylabel.methods import ENSEMBLE, MethodInfo, method_info
from napari_noisylabel.records import Case, Filter, Region, Report, Run, RunState, Track, found_classes
from napari_noisylabel.session import Scores
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.events import now

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, eq=False)
class RunResult:
    """What the session shows of a complete run, as read from the disk. `reports` are those of its epochs."""

    run: Run
    filter: Filter | None
    scores: Scores
    regions: tuple[Region, ...]
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True, eq=False)
class OpenProject:
    """A project that was read aside, for `Workbench.enter`. `watch` is at a run that was found training."""

    store: ProjectStore
    watch: Watch | None
    result: RunResult | None

    def close(self) -> None:
        """Let go of it: nobody will enter it."""
        self.store.close()


def new_run(
    store: ProjectStore, method: str, settings: Mapping[str, Any], engine: Mapping[str, Any], epochs: int,
    folds: int, seed: int, device: str,
) -> Run:  # fmt: skip
    """A new run on the labels of today, in the store and with its `run.json`. Raises BadSetting, UnknownName."""
    info = method_info(method)
    checked, checked_engine = info.check(settings).model_dump(), check_engine(engine).model_dump()
    if folds < 2 or epochs < 0 or seed < 0:
        raise BadSetting(
            f"a run has at least 2 folds and no negative epochs or seed, got folds {folds}, epochs {epochs}, "
            f"seed {seed}. Out-of-fold scores need the second fold."
        )
    if info.name == ENSEMBLE.name:
        checked["runs"] = ",".join(member.id for member in find_members(store, checked["runs"]))
    else:
        _require_training(store, info, folds, device)
    run = store.add_run(
        Run("", method, checked, checked_engine, seed, folds, epochs, store.label_version, RunState.RUNNING, now())
    )
    spec = RunSpec(
        run.id, method, checked, checked_engine, seed, folds, epochs, device, run.label_version, library_versions()
    )
    write_spec(store.run_folder(run.id), spec)
    return run


def resumed(store: ProjectStore, run_id: str) -> Run:
    """An interrupted run, marked as running again. Raises NothingToDo, ProjectError."""
    run = store.run(run_id)
    if run.state == RunState.COMPLETE:
        raise NothingToDo(f"run {run_id} is complete, there is nothing to resume. Start a new run.")
    if worker_is_alive(store.run_folder(run_id)):
        raise ProjectError(f"a worker is at run {run_id} already. Wait for its end, or stop it.")
    if run.method != ENSEMBLE.name:
        _require_torch()
    return store.set_run(run_id, state=RunState.RUNNING, message="")


def complete_run(store: ProjectStore, run: str | None) -> Run:
    """The run called `run`, or the latest complete one. Raises NothingToDo."""
    found = store.run(run) if run else store.latest_complete_run()
    if found is None:
        raise NothingToDo("no run is complete yet, so there are no scores. Train first: noisylabel train.")
    if found.state != RunState.COMPLETE:
        raise NothingToDo(f"run {found.id} is {found.state}, without scores. Resume it, or choose another run.")
    return found


def voices(run: Run | None, runs: Sequence[Run]) -> tuple[str, ...]:
    """Who votes on a region of `run`, in the order of `Region.votes`: the methods of the runs it combines.

    Where two runs are of one method, their names are added. Empty unless `run` is an ensemble.
    """
    if run is None or run.method != ENSEMBLE.name:
        return ()
    method = {other.id: other.method for other in runs}
    names = str(run.settings["runs"]).split(",")
    methods = [method.get(name, name) for name in names]
    return tuple(m if methods.count(m) == 1 else f"{m} {name}" for m, name in zip(methods, names, strict=True))


def read_run(store: ProjectStore, run: Run) -> RunResult:
    """The filter, histograms, regions and epochs of a complete run. Slow for thousands of regions."""
    scores, regions = _read_scores(store, run), store.regions(run=run.id)
    return RunResult(run, store.latest_filter(run.id), scores, regions, epoch_reports(store.run_folder(run.id)))


def _read_scores(store: ProjectStore, run: Run) -> Scores:
    """Histograms over the training cases, for the filter panel."""
    folder = store.run_folder(run.id)
    counts: dict[str, np.ndarray] = {}
    moved: dict[str, list[np.ndarray]] = {}
    for case in (c for c in store.cases() if not c.held_out):
        own = CaseScores(folder, case.id)
        if own.complete:
            for track, statistics in own.statistics().items():
                counts[track] = counts.get(track, 0) + statistics.histogram
                moved.setdefault(track, []).append(excess(statistics.seen, statistics.between))
    return Scores(bin_edges(), counts, likelihood_counts(folder), {t: np.array(own) for t, own in moved.items()})


def take_in(store: ProjectStore, run_id: str, complete: bool = False) -> RunResult:
    """Put the regions that a worker left into the project, and read what there is to show. Runs aside."""
    found = read_result(store.run_folder(run_id))
    with store.transaction():
        store.replace_open_regions(run_id, found.regions, found.voxels)
        store.add_filter(found.filter)
        if complete:
            store.set_run(run_id, state=RunState.COMPLETE, finished=now())
    return read_run(store, store.run(run_id))


def settle_runs(store: ProjectStore) -> Watch | None:
    """Runs that nobody watched to their end: take in those that are done, watch those at work, mark the others."""
    watch = None
    for run in store.runs():
        if run.state != RunState.RUNNING:
            continue
        end = last_report(store.run_folder(run.id))
        if end is not None and end.kind == "done":
            take_in(store, run.id, complete=True)
        elif end is not None and end.kind == "failed":
            store.set_run(run.id, state=RunState.FAILED, message=end.message)
        else:
            watch = Watch.attach(store.folder, run.id)
            if watch is None:
                store.set_run(run.id, state=RunState.INTERRUPTED, message="interrupted; it can be resumed")
    return watch


# ---------------------------------------------------------------- helpers, in order of use


def _require_training(store: ProjectStore, info: MethodInfo, folds: int, device: str) -> None:
    """Refuse before a run is made what the worker could only fail at."""
    if device not in DEVICES:
        raise BadSetting(f"a device is {', '.join(DEVICES)}, got {device!r}. Choose one of them.")
    training = [c for c in store.cases() if not c.held_out]
    known = [c for c in training if info.weak or c.labels or store.events(c.id)]
    if training and not known:
        raise NothingToDo(
            f"method {info.name!r} learns from masks, and no training case has one. Train multi-sa, which learns from "
            "tags, or draw and verify masks first."
        )
    if info.weak:
        _require_tags(store.tracks, training, info)
    groups = {c.group for c in known}
    if len(groups) < folds:
        raise NothingToDo(
            f"out-of-fold scores need a group of training cases per fold, and there are {len(groups)} for {folds} "
            "folds. Add cases, or hold fewer of them out."
        )
    for case in store.cases():
        for file in (*case.images, *case.labels.values()):
            if looks_changed(file):  # of hundreds of files only the suspicious ones are read
                require_unchanged(file)
    _require_torch()


def _require_tags(tracks: Sequence[Track], training: Sequence[Case], info: MethodInfo) -> None:
    """Without any mask, tags must tell some cases from others."""
    if any(c.labels for c in training):
        return
    told = [c for c in training if c.findings is not None]
    counts = {f"{t.name}/{k}": sum(k in (found_classes(c, t) or ()) for c in told) for t in tracks
              for k in range(1, t.n_classes)}  # fmt: skip
    if not any(counts.values()):
        raise BadSetting(
            f"method {info.name!r} learns from tags, and no training case has a finding: there is no positive case. "
            "Correct the tags, or hold other cases out."
        )
    if not any(0 < n < len(told) for n in counts.values()):
        raise BadSetting(
            f"method {info.name!r} learns where something is from images that show it and images that do not, and "
            f"every finding is in all {len(told)} training cases or in none. Add cases without, or cut the images up."
        )


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise MissingPart(
            "training needs torch, which is not installed. Install it with: pip install 'napari-noisylabel[train]'."
        )
