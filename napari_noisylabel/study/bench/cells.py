"""One cell: a project of spoiled labels, trained, reviewed by a simulated person, accepted as a whole, measured."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from napari_noisylabel.engine.spec import RUN_FILE, library_versions, read_spec, write_spec
from napari_noisylabel.errors import NothingToDo, RunFailed
from napari_noisylabel.records import Report, Run, RunState, Verdict
from napari_noisylabel.store.events import now
from napari_noisylabel.store.files import disk_errors
from napari_noisylabel.study.bench.baseline import keep_probabilities, score_with_cleanlab
from napari_noisylabel.study.bench.plan import CLEANLAB, Cell
from napari_noisylabel.study.bench.sets import TRACK, SetFiles, given_labels, make_cell_project, set_files
from napari_noisylabel.study.evaluate import evaluate
from napari_noisylabel.study.simulate import simulate
from napari_noisylabel.study.training import Hear, watch_to_the_end
from napari_noisylabel.workbench import Workbench

BY = "benchmark"
SHARE_OF_GAIN = 0.95


def run_cell(cell: Cell, out: Path, hear: Hear) -> dict[str, Any]:
    """The figures of a cell, see `docs/bench.md`. What it made for them is removed again.

    `hear` gets every report of the training.

    Raises
    ------
    What keeps the cell from its figures: a NoisyLabelError with a sentence, as a rule.
    """
    if cell.method.name == CLEANLAB:
        return {**score_with_cleanlab(probabilities_folder(cell.bases[0], out)), "versions": library_versions()}
    files = set_files(cell, out)
    work = out / "work" / cell.name
    shutil.rmtree(work, ignore_errors=True)
    try:
        make_cell_project(cell, files, given_labels(cell, files, out), work / "project")
        return _measured(cell, files, work / "project", out, hear)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def probabilities_folder(cell: Cell, out: Path) -> Path:
    """Where a cell leaves its out-of-fold probabilities, if cleanlab wants them."""
    return out / "probabilities" / cell.name


def maps_folder(cell: Cell, out: Path) -> Path:
    """Where a cell leaves the maps of its run, if an ensemble wants them."""
    return out / "maps" / cell.name


def regions_needed(curve: Sequence[float | None], share: float = SHARE_OF_GAIN) -> int | None:
    """Regions a reviewer must see to have `share` of the Dice that the queue can give.

    `curve[i]` is the mean Dice after i regions. None where seeing regions gives nothing.
    """
    known = [value for value in curve if value is not None]
    if len(known) != len(curve) or not known or max(known) <= known[0]:
        return None
    wanted = known[0] + share * (max(known) - known[0])
    return next(i for i, value in enumerate(known) if value >= wanted - 1e-12)


# ---------------------------------------------------------------- helpers, in order of use


def _measured(cell: Cell, files: SetFiles, project: Path, out: Path, hear: Hear) -> dict[str, Any]:
    workbench = Workbench()
    try:
        workbench.open(project, by=BY)
        for case in files.verified:
            workbench.review(Verdict.VERIFIED, case=case, track=TRACK, labels=files.truth_of(case))
        for base in cell.bases:
            _bring(workbench, base, out)
        costs = _train(workbench, cell, hear)
        if not cell.protocol.filter.is_default:
            workbench.propose(cell.protocol.filter.level, cell.protocol.filter.threshold)
        run = workbench.session.run
        if run is None:
            raise RunFailed("the training is complete, but left no run. Run the cell again.")
        found: dict[str, Any] = {"review": _reviewed(workbench, files.measured)}
        found["accepted"] = _accepted(workbench)
        found["evaluate"] = evaluate(workbench.store, files.measured)
        if cell.keeps_maps:
            _keep_maps(workbench.store.run_folder(run.id), maps_folder(cell, out))
        if cell.keeps_probabilities:
            keep_probabilities(workbench.store, run, files.measured, probabilities_folder(cell, out))
        return {**found, **costs, "note": workbench.session.filter.note if workbench.session.filter else ""}
    finally:
        workbench.close()


def _keep_maps(run: Path, folder: Path) -> None:
    """What an ensemble needs of a run: its spec and its maps, without features."""
    with disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run / "maps", folder / "maps", ignore=shutil.ignore_patterns("features.*", "*.score.*"))
        shutil.copyfile(run / RUN_FILE, folder / RUN_FILE)


def _bring(workbench: Workbench, cell: Cell, out: Path) -> None:
    """A run of another cell of the same labels into this cell's project, if it was trained to its end."""
    kept = maps_folder(cell, out)
    if not kept.exists():
        return
    spec, store = read_spec(kept), workbench.store
    run = store.add_run(
        Run("", spec.method, spec.settings, spec.engine, spec.seed, spec.folds, spec.epochs, store.label_version,
            RunState.COMPLETE, now())
    )  # fmt: skip
    with disk_errors(store.folder):
        shutil.copytree(kept, store.run_folder(run.id), dirs_exist_ok=True)
    write_spec(store.run_folder(run.id), replace(spec, run=run.id))


@dataclass
class _Meter:
    """What a training costs, from its reports and its process."""

    pid: int
    folds: int
    epochs: list[float] = field(default_factory=list)
    steps: int = 0
    bytes: int = 0

    def hear(self, report: Report) -> None:
        if report.kind == "epoch":
            self.epochs.append(report.seconds)
            self.steps = round(report.total / (self.folds * report.epochs))
        self.bytes = max(self.bytes, peak_memory(self.pid))


def _train(workbench: Workbench, cell: Cell, hear: Hear) -> dict[str, Any]:
    budget = cell.protocol.budget
    began = time.monotonic()
    watch = workbench.retrain(
        cell.method.name, settings=cell.method.settings, engine=budget.engine, epochs=budget.epochs,
        folds=budget.folds, seed=cell.seed, device=budget.device,
    )  # fmt: skip
    meter = _Meter(watch.pid, budget.folds)

    def both(report: Report) -> None:
        meter.hear(report)
        hear(report)

    run = watch_to_the_end(workbench, watch, both, "Run the cell again.")
    epoch = None if cell.bases else median(meter.epochs)  # an ensemble has none
    step = None if epoch is None else epoch / max(1, meter.steps)
    return {
        "seconds": {"train": time.monotonic() - began, "epoch": epoch, "step": step},
        "epochs": run.epochs,
        "steps": meter.steps,
        "memory_mib": meter.bytes / 2**20,
        **_machine(workbench, run),
    }


def _machine(workbench: Workbench, run: Run) -> dict[str, Any]:
    spec = read_spec(workbench.store.run_folder(run.id))
    engine = {key: spec.engine[key] for key in ("precision", "threads", "network")}
    return {"device": spec.device, "engine": engine, "versions": dict(spec.versions)}


def peak_memory(pid: int) -> int:
    """Largest resident memory of a process so far in bytes; where the system keeps no peak, what it has now."""
    try:
        if psutil.LINUX:
            status = Path(f"/proc/{pid}/status").read_text()
            return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        memory = psutil.Process(pid).memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    except (OSError, StopIteration, psutil.Error):  # it has ended
        return 0


def _reviewed(workbench: Workbench, truth: Path) -> dict[str, Any]:
    """A perfect reviewer on the queue, best region first."""
    try:
        found = simulate(workbench.store, truth, order="gain")
    except NothingToDo:
        return {"regions": 0, "regions_95": None, "end": None}
    return {
        "regions": found["seen"], "useful": found["accepted"], "regions_95": regions_needed(found["curve"]),
        "end": found["end"]["dice_mean"],
    }  # fmt: skip


def _accepted(workbench: Workbench) -> dict[str, int]:
    try:
        events, voxels = workbench.accept_all(by=BY)
    except NothingToDo:
        return {"regions": 0, "voxels": 0}
    return {"regions": len(events), "voxels": voxels}
