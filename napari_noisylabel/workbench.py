"""The flow in six verbs: open, score, propose, review, retrain, export. Start reading here.

`Workbench` joins the project folder, the worker and the session that the window follows. Widgets,
the command line, scripts and tests all go through it.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays import labels as voxel_runs
from napari_noisylabel.decisions import Box, changes, decide, edit, sort_regions, turn_back, union, verify
from napari_noisylabel.engine.filter import FilterRequest, refilter
from napari_noisylabel.engine.watch import Watch
from napari_noisylabel.engine.worker import FILTER_REQUEST
from napari_noisylabel.errors import NotAProject, NothingToDo, ProjectError
from napari_noisylabel.export import ExportResult, export_project
from napari_noisylabel.methods import is_weak
from napari_noisylabel.records import (
    CaseView,
    Event,
    Region,
    RegionState,
    Report,
    Run,
    RunState,
    Verdict,
)
from napari_noisylabel.runs import (
    OpenProject,
    RunResult,
    complete_run,
    new_run,
    read_run,
    resumed,
    settle_runs,
    take_in,
)
from napari_noisylabel.session import Counters, ReviewSession
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.events import now
from napari_noisylabel.store.files import write_json
from napari_noisylabel.views import affinity, load_view


class Workbench:
    """One project under review. `session` is what a window shows; `store` what the disk holds."""

    def __init__(self, session: ReviewSession | None = None) -> None:
        self.session = session or ReviewSession()
        self._store: ProjectStore | None = None
        self._watch: Watch | None = None
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="noisylabel")
        self._ingest: Future[tuple[Report, RunResult]] | None = None
        self._labels: dict[str, np.ndarray] = {}  # corrected labels of the case shown, without strokes
        self._painted: dict[str, Box] = {}  # where the strokes on the case shown are
        self._regions: dict[int, Region] = {}  # of the run shown, as they were when they were read

    # ------------------------------------------------------------ the six verbs

    def open(self, folder: Path | str, *, read_only: bool = False, by: str = "") -> ReviewSession:
        """Open a project: its cases, structures, runs and events.

        Runs whose worker ended while nobody watched are taken in, or marked as interrupted.
        Raises NotAProject, NewerSchema, ProjectLocked, ReadOnlyProject.
        """
        self.close_project()
        return self.enter(self.read(folder, read_only=read_only), by=by)

    def score(self, run: str | None = None) -> Run:
        """Make a complete run the current one: its histograms, its filter, its regions.

        Raises NothingToDo where no run is complete, UnknownName.
        """
        chosen = complete_run(self.store, run)
        self._show_result(read_run(self.store, chosen))
        return chosen

    def propose(
        self, level: str = "case", threshold: float = 0.0, run: str | None = None,
        progress: Callable[[Report], None] | None = None,
    ) -> tuple[Region, ...]:  # fmt: skip
        """Filter the stored scores again and rebuild the regions, in this process.

        `threshold` 0 takes the level's default. Returns the open regions, best first.
        """
        chosen = complete_run(self.store, run)
        request = FilterRequest(chosen.id, level, threshold, is_weak(chosen.method)).checked()
        for report in refilter(self.store, self.store.run_folder(chosen.id), request):
            if progress is not None:
                progress(report)
        take_in(self.store, chosen.id)
        self.score(chosen.id)
        return self.session.queue

    def review(
        self,
        verdict: Verdict,
        region: int | None = None,
        *,
        by: str = "",
        case: str = "",
        track: str = "",
        labels: np.ndarray | Path | str | None = None,
        note: str = "",
    ) -> Event:
        """Write a decision to the log; it is on the disk, and in the labels shown, when this returns.

        Parameters
        ----------
        verdict : ACCEPTED, REJECTED, UNSURE and EDITED act on `region` (default: the one under
            review); VERIFIED on `case` and `track`; UNDONE and REDONE on the log.
        labels : EDITED: the painted class indices of the case shown, (*spatial); VERIFIED: a
            file that replaces the labels of the case.

        Raises NothingToDo, UnknownName, ReadOnlyProject; nothing has changed then.
        """
        event = self._event(Verdict(verdict), region, by or self.session.by, case, track, labels, note)
        written = self.store.append(event)
        self._follow(written)
        return written

    def retrain(
        self,
        method: str = "self-cleansing",
        *,
        settings: Mapping[str, Any] | None = None,
        engine: Mapping[str, Any] | None = None,
        epochs: int = 0,
        folds: int = 2,
        seed: int = 0,
        device: str = "auto",
        resume: str = "",
    ) -> Watch:
        """Start a run on the current labels in a process of its own; the first run starts here too.

        `epochs` 0 lets the size of the data decide. `resume` goes on with an interrupted run.
        Raises UnknownName, BadSetting, ReadOnlyProject.
        """
        if self._watch is not None and self._watch.is_alive:
            raise ProjectError(f"one run at a time: {self._watch.run_id} is at work. Stop it, or wait for its end.")
        if resume:
            run = resumed(self.store, resume)
        else:
            run = new_run(self.store, method, settings or {}, engine or {}, epochs, folds, seed, device)
        return self._start(run.id, "train")

    def export(
        self, out: Path | str, *, format: str = "same", what: str = "corrected", overwrite: bool = False
    ) -> ExportResult:
        """Write volumes in the geometry of their sources, and `origin.json` beside them.

        `what` is "corrected", "likelihood" or "proposal". Raises ExportRefused, DiskFull.
        """
        return export_project(self.store, Path(out), self.session.run, format=format, what=what, overwrite=overwrite)

    # ------------------------------------------------------------ beside the verbs

    @property
    def store(self) -> ProjectStore:
        """The open project. Raises NotAProject."""
        if self._store is None:
            raise NotAProject("no project is open. Open one, or make one with `noisylabel new`.")
        return self._store

    def read(self, folder: Path | str, *, read_only: bool = False) -> OpenProject:
        """Open a project's store and read what the window shows of it. Touches no session: may be called aside.

        Raises as `open`.
        """
        store = ProjectStore.open(Path(folder), read_only=read_only)
        try:
            watch = None if store.read_only else settle_runs(store)
            latest = store.latest_complete_run()
            return OpenProject(store, watch, read_run(store, latest) if latest is not None else None)
        except BaseException:
            store.close()
            raise

    def enter(self, project: OpenProject, *, by: str = "") -> ReviewSession:
        """Make a project that was read the one under review."""
        self.close_project()
        self._store = store = project.store
        self._watch = project.watch
        session = self.session
        session.project, session.name, session.read_only = store.folder, store.name, store.read_only
        session.by = by or _login_name()
        session.tracks, session.cases = store.tracks, store.cases()
        session.track = store.tracks[0].name if store.tracks else ""
        session.runs = store.runs()
        if project.result is not None:
            self._show_result(project.result)
        else:
            self._show_queue(())
        return session

    @property
    def watch(self) -> Watch | None:
        """The worker that runs now or ran last."""
        return self._watch

    def start_propose(self, level: str = "case", threshold: float = 0.0) -> Watch:
        """Filter again in the worker; `poll` takes the regions in when it is done."""
        run = self._complete_run()
        request = FilterRequest(run.id, level, threshold, is_weak(run.method)).checked()
        write_json(
            self.store.run_folder(run.id) / FILTER_REQUEST,
            {"run": run.id, "level": str(request.level), "threshold": request.threshold},
        )
        return self._start(run.id, "filter")

    def poll(self) -> list[Report]:
        """Take what the worker reported into the session. Quick; to be called every 100 ms."""
        reports = self._watch.poll() if self._watch is not None else []
        for report in reports:
            self._hear(report)
        if self._ingest is not None and self._ingest.done():
            finished, self._ingest = self._ingest, None
            self._finish(*finished.result())
        return reports

    def wait(self) -> Iterator[Report]:
        """All reports of the run at work, until its regions are in the project."""
        watch = self._watch
        if watch is None:
            return
        for report in watch.wait():
            self._hear(report)
            yield report
        if self._ingest is not None:
            finished, self._ingest = self._ingest, None
            self._finish(*finished.result())

    def stop(self) -> None:
        """Ask the worker to stop; within a second it has."""
        if self._watch is not None:
            self._watch.stop()

    def load(self, case_id: str) -> CaseView:
        """Read a case from the disk: image, labels, maps. Slow for large cases: call it aside."""
        return load_view(self.store, case_id, self.session.run, self.session.view)

    def show(self, view: CaseView) -> None:
        """Make a loaded case the one on the screen, with the decisions made since it was read."""
        shown = self.session.view
        if shown is not None and shown.corrected is view.corrected:  # the same case with other maps
            self.session.view = view
            return
        self._labels = dict(view.decided)
        drafts = {t: self.store.draft(view.case.id, t) for t in view.given}
        self._painted = {t: voxel_runs.runs_box(d, view.given[t].shape) for t, d in drafts.items() if d is not None}
        self.session.view = view
        if self.store.label_version > view.label_version:
            for event in self.store.events(view.case.id):
                if event.number > view.label_version:
                    self._apply(event)
        self.session.draft = bool(self._painted)

    def select(self, index: int) -> Region | None:
        """Move the cursor of the queue; the region it is on now."""
        self.session.cursor = int(np.clip(index, 0, max(0, len(self.session.queue) - 1)))
        return self.session.current

    def sort(self, order: str = "gain", seed: int = 0) -> tuple[Region, ...]:
        """Order the queue by gain, likelihood, size, case or random. Raises UnknownName."""
        self.session.queue = sort_regions(self.session.queue, order, seed)
        return self.session.queue

    def save_draft(self, track: str, labels: np.ndarray, box: Box | None = None) -> None:
        """Keep the strokes on the labels of the case shown; they survive a crash, and decide nothing.

        `box` is where the last stroke was, as (first voxel, one past the last); None: anywhere.
        """
        view = self._view()
        whole = (0,) * labels.ndim, labels.shape
        self._painted[track] = union(self._painted.get(track), box or whole)
        self.store.save_draft(view.case.id, track, changes(self._labels[track], labels, self._painted[track]))
        self.session.draft = True

    def discard_draft(self, track: str) -> None:
        """Forget the strokes; the labels shown are those of the log again."""
        view = self._view()
        self.store.clear_draft(view.case.id, track)
        self._painted.pop(track, None)
        view.corrected[track][...] = self._labels[track]
        self.session.draft = False

    def accept_all(
        self, *, run: str | None = None, min_likelihood: float | None = None, by: str = ""
    ) -> tuple[list[Event], int]:
        """Accept every open region of cases that are not held out, from a likelihood on; never a weak one.

        Returns the events and how many voxels they changed. Raises NothingToDo.
        """
        if run is not None or self.session.run is None:
            self.score(run)
        limit = min_likelihood
        if limit is None:
            limit = self.session.filter.threshold if self.session.filter is not None else 0.0
        likely = [r for r in self.session.queue if r.likelihood >= limit - 1e-6]
        chosen = [r for r in likely if not r.weak]
        if likely and not chosen:
            raise NothingToDo(
                "regions that go back to image-level tags alone, or to networks that have not learnt the class, are "
                f"weak evidence and never accepted in bulk, and all {len(likely)} of {likely[0].run} are: nothing "
                "was accepted. Look at each, and accept it by --region ID or in the window."
            )
        if not chosen:
            raise NothingToDo(
                f"no open region has a likelihood of {limit:g} or more: nothing was accepted. Lower --min-likelihood, "
                "or filter again with a lower threshold."
            )
        events = self.review_all(Verdict.ACCEPTED, [r.id for r in chosen], by=by)
        return events, sum(voxel_runs.count(voxel_runs.changed_runs(e.runs)) for e in events)

    def review_all(self, verdict: Verdict, regions: Sequence[int], *, by: str = "") -> list[Event]:
        """Accept or reject many regions as one transaction: all, or none. Raises as `review`."""
        name = by or self.session.by
        events = [decide(self.store, self.store.region(number), verdict, name) for number in regions]
        written = self.store.append_all(events)
        for event in written:
            self._apply(event)
        self._show_decided()
        return list(written)

    def affinity(self, case_id: str, index: Sequence[int], axis: int = 0) -> np.ndarray:
        """Which pixels the network believes belong with one voxel, in the slice through it across `axis`."""
        return affinity(self.store, self._complete_run(), case_id, index, axis)

    def close_project(self) -> None:
        """Let go of the project. A worker goes on; see `stop`."""
        store, taking_in, self._ingest = self._store, self._ingest, None
        if store is not None:
            if taking_in is None:
                store.close()
            else:  # the regions are still being written, on a thread that must not be waited for
                taking_in.add_done_callback(lambda _: store.close())
        self._store, self._watch = None, None
        self._labels, self._painted, self._regions = {}, {}, {}
        session = self.session
        session.view, session.run, session.filter, session.scores = None, None, None, None
        session.queue, session.runs, session.cases, session.tracks = (), (), (), ()
        session.progress, session.curve, session.project = None, (), None

    def close(self) -> None:
        """Let go of everything. A worker goes on; see `stop`."""
        self.close_project()
        self._aside.shutdown()

    # ------------------------------------------------------------ decisions

    def _event(
        self, verdict: Verdict, region: int | None, by: str, case: str, track: str, labels: Any, note: str
    ) -> Event:
        if verdict in (Verdict.UNDONE, Verdict.REDONE):
            return turn_back(self.store, verdict, by, note)
        if verdict is Verdict.VERIFIED:
            chosen = self.store.case(case or self._view().case.id)
            return verify(self.store, chosen, track or self.session.track, by, labels, note)
        if verdict is Verdict.EDITED:
            return self._edit(by, region, track, labels, note)
        return decide(self.store, self._region(region), verdict, by, note)

    def _edit(self, by: str, region: int | None, track: str, labels: Any, note: str) -> Event:
        view = self._view()
        track = track or self.session.track
        if labels is None:
            labels = view.corrected[track]
        current = self.session.current if region is None else self.store.region(region)
        own = current if current is not None and (current.case, current.track) == (view.case.id, track) else None
        return edit(
            self.store, (view.case.id, track), self._labels[track], labels, by,
            box=self._painted.get(track), region=own, note=note,
        )  # fmt: skip

    def _apply(self, event: Event) -> None:
        """Bring the labels on the screen to what the log says."""
        view = self.session.view
        if view is None or view.case.id != event.case or event.track not in self._labels:
            return
        voxel_runs.apply_runs(self._labels[event.track], event.runs)
        voxel_runs.apply_runs(view.corrected[event.track], event.runs)
        if event.verdict is Verdict.EDITED:
            self._painted.pop(event.track, None)
            self.session.draft = False

    def _follow(self, event: Event) -> None:
        self._apply(event)
        cursor = self.session.cursor
        self._show_decided()
        self.session.cursor = min(cursor, max(0, len(self.session.queue) - 1))

    def _region(self, region: int | None) -> Region:
        if region is not None:
            return self.store.region(region)
        if self.session.current is None:
            raise NothingToDo("the queue is empty: there is no region to decide on. Filter again, or train.")
        return self.session.current

    def _view(self) -> CaseView:
        if self.session.view is None:
            raise NothingToDo("no case is on the screen. Choose one first.")
        return self.session.view

    # ------------------------------------------------------------ runs

    def _complete_run(self) -> Run:
        """The run on the screen, or else the latest complete one. Raises NothingToDo."""
        return complete_run(self.store, self.session.run.id if self.session.run else None)

    def _start(self, run_id: str, task: str) -> Watch:
        self._watch = Watch(self.store.folder, run_id, task)
        self.session.runs = self.store.runs()
        if task == "train":
            self.session.curve = ()
        self.session.progress = Report(run_id, "start", message="starting" if task == "train" else "filtering")
        return self._watch

    def _hear(self, report: Report) -> None:
        """One report of the worker into the session, and into the project when it is the last."""
        session = self.session
        if report.kind == "epoch":
            session.curve = (*(r for r in session.curve if r.run == report.run), report)
        if report.kind == "start" and report.epochs:
            self.store.set_run(report.run, epochs=report.epochs)
        if report.kind == "done":
            trained = self._watch is None or self._watch.task == "train"
            self._ingest = self._aside.submit(lambda store: (report, take_in(store, report.run, trained)), self.store)
            session.progress = replace(report, kind="phase", stage="taking the regions in")
            return
        session.progress = report
        training = self._watch is not None and self._watch.task == "train"
        if report.kind in ("stopped", "failed") and training:
            state = RunState.FAILED if report.kind == "failed" else RunState.INTERRUPTED
            self.store.set_run(report.run, state=state, message=report.message, finished=now())
            session.runs = self.store.runs()
            session.notice = f"{report.run}: {report.message}"

    def _finish(self, report: Report, result: RunResult) -> None:
        self.session.runs = self.store.runs()
        self._show_result(result)
        self.session.progress = report
        found = len(self.session.queue)
        self.session.notice = f"{report.run}: {report.message}, {found} regions to look at"

    # ------------------------------------------------------------ the session

    def _show_result(self, result: RunResult) -> None:
        session = self.session
        session.run, session.filter, session.scores = result.run, result.filter, result.scores
        if not session.is_training:  # or the curves of the run at work would go
            session.curve = result.reports
        self._regions = {}
        self._show_queue(result.regions)

    def _show_decided(self) -> None:
        """The queue after a decision, in the order it had; only what the decision changed is read."""
        run = self.session.run
        self._show_queue(self.store.regions_again(run.id, self._regions) if run is not None else (), keep_order=True)

    def _show_queue(self, regions: Sequence[Region], keep_order: bool = False) -> None:
        session = self.session
        held_out = {c.id for c in session.cases if c.held_out}
        self._regions.update((r.id, r) for r in regions)
        own = {r.id: r for r in regions if r.state == RegionState.OPEN and r.case not in held_out}
        if keep_order:
            kept = [own.pop(r.id) for r in session.queue if r.id in own]
            session.queue = (*kept, *sort_regions(tuple(own.values()), "gain"))
        else:
            session.queue = sort_regions(tuple(own.values()), "gain")
            session.cursor = 0
        decided = [r for r in regions if r.state not in (RegionState.OPEN, RegionState.GONE)]
        changed = sum(r.ml for r in decided if r.state in (RegionState.ACCEPTED, RegionState.EDITED))
        session.counters = Counters(len(decided), len(session.queue), changed)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        return "unknown"
