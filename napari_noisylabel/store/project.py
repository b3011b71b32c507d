"""A project folder: cases, runs, regions, events and settings, safe against crashes.

    with ProjectStore.open(folder) as store:
        event = store.append(Event(...))    # on the disk when this returns

Given labels are never stored nor written here: corrected labels are the given ones plus all
events, replayed in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from napari_noisylabel.arrays.labels import VoxelRuns
from napari_noisylabel.errors import BadLabels, NotAProject, ShapeMismatch, UnknownName
from napari_noisylabel.records import (
    Case,
    Event,
    Filter,
    Region,
    RegionState,
    Run,
    RunState,
    SourceFile,
    Track,
    Verdict,
)
from napari_noisylabel.store import cases as case_rows
from napari_noisylabel.store import events as log
from napari_noisylabel.store import notes
from napari_noisylabel.store import regions as region_rows
from napari_noisylabel.store import runs as run_rows
from napari_noisylabel.store.claims import follow_event
from napari_noisylabel.store.database import Database, database_errors
from napari_noisylabel.store.files import plain_name
from napari_noisylabel.store.lock import WriterLock
from napari_noisylabel.store.make import make_project
from napari_noisylabel.store.manifest import DATABASE_FILE, Manifest, read_manifest, write_manifest
from napari_noisylabel.store.schema import check_version, migrate


class ProjectStore:
    """One open project. One program writes at a time, any number read; all threads may call.

    `folder` is absolute; `journal` is "wal" or "delete" (where the file system refuses WAL), ""
    when read-only.
    """

    def __init__(self, folder: Path, read_only: bool, steal_lock: bool) -> None:
        self.folder = folder.absolute()
        self.journal = ""
        manifest = read_manifest(self.folder)
        self.name, self.tracks = manifest.name, manifest.tracks
        self._lock: WriterLock | None = None
        self._database = Database(self.folder / DATABASE_FILE, read_only)
        try:
            with database_errors(self.folder / DATABASE_FILE):
                check_version(self._database.connection, self.folder, read_only)
                if not read_only:
                    self._start_writing(manifest, steal_lock)
            self._read_cases()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ make, open, close

    @classmethod
    def create(cls, folder: Path, name: str, tracks: Sequence[Track], cases: Sequence[Case]) -> ProjectStore:
        """Make a project in `folder`, which must be absent or empty, and open it for writing.

        Raises
        ------
        ProjectExists : the folder holds a project or other files.
        BadSetting : case ids or track names that are not plain or come twice.
        DiskFull, ReadOnlyProject : the folder cannot be written.
        """
        make_project(Path(folder).absolute(), name, tracks, cases)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, read_only: bool = False, steal_lock: bool = False) -> ProjectStore:
        """Open the project in `folder`. `steal_lock` takes the lock from a program that hangs.

        Raises
        ------
        NotAProject : no project, or a damaged one. NewerSchema : of a later version.
        ProjectLocked : another program writes to it (reading is still possible).
        ReadOnlyProject : it may not be written (reading is still possible).
        """
        return cls(Path(folder), read_only, steal_lock)

    def close(self) -> None:
        """Close the project and give the lock back; a second call does nothing."""
        self._database.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> ProjectStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def read_only(self) -> bool:
        """True where nothing can be changed."""
        return self._database.read_only

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes made within are written together when it ends, or none if an error ends it."""
        with self._database.writing():
            yield

    # ------------------------------------------------------------ cases and tracks

    def cases(self) -> tuple[Case, ...]:
        """All cases, in the order in which they were given."""
        return tuple(self._cases.values())

    def case(self, case_id: str) -> Case:
        """One case. Raises UnknownName."""
        return _known(self._cases.get(case_id), "case", case_id, self._cases)

    def track(self, name: str) -> Track:
        """One track. Raises UnknownName."""
        names = {track.name: track for track in self.tracks}
        return _known(names.get(name), "track", name, names)

    def update_source(self, case_id: str, file: SourceFile, replaces: Path | None = None) -> None:
        """Take a given file of a case as it is now, under its path or in the place of `replaces`."""
        self.case(case_id)
        with self._database.writing() as connection:
            case_rows.replace_source(connection, case_id, file, replaces or file.path, self.folder)
        self._read_cases()

    # ------------------------------------------------------------ events

    def append(self, event: Event, region_state: tuple[int, RegionState] | None = None) -> Event:
        """Write `event` to the log; it is on the disk when this returns, with its number and time.

        In the same transaction its region gets the state that follows from the verdict (or
        `region_state`), undecided regions lose the voxels that were decided on, and an edit
        ends the draft of its case and track. Undo gives regions back what the event took.

        Raises
        ------
        UnknownName, ShapeMismatch, BadSetting : the event does not fit the project.
        NothingToDo : an undo or redo whose turn it is not.
        DiskFull, ReadOnlyProject, ProjectLocked : it cannot be written; nothing has changed.
        """
        return self._append([event], region_state)[0]

    def append_all(self, events: Sequence[Event]) -> tuple[Event, ...]:
        """Like `append` for many events in one transaction: all are written, or none."""
        return self._append(events, None)

    def events(self, case: str | None = None, track: str | None = None, upto: int | None = None) -> tuple[Event, ...]:
        """The log, whole or of a case or track, up to number `upto`."""
        return tuple(log.select_events(self._database, case, track, upto))

    def event(self, number: int) -> Event:
        """One event. Raises UnknownName."""
        return _known(log.select_event(self._database, number), "event", number)

    def last_event(self) -> Event | None:
        """The end of the log."""
        return log.select_event(self._database, self.label_version) if self.label_version else None

    @property
    def label_version(self) -> int:
        """The number of the last event, 0 while the labels are as given."""
        return int(self._database.rows("SELECT coalesce(max(number), 0) FROM events")[0][0])

    def active_events(self, case: str | None = None, track: str | None = None) -> tuple[Event, ...]:
        """The events that hold: undone ones, undos and redos are left out."""
        active = set(log.history(log.select_lines(self._database, case, track)).active)
        return tuple(event for event in self.events(case, track) if event.number in active)

    def undo_target(self) -> Event | None:
        """The event that undo takes back next. `store.undoing(event, by)` makes the undo of it."""
        number = log.history(log.select_lines(self._database)).undo_target
        return self.event(number) if number else None

    def redo_target(self) -> Event | None:
        """The event that redo does again next. `store.redoing(event, by)` makes the redo of it."""
        number = log.history(log.select_lines(self._database)).redo_target
        return self.event(number) if number else None

    def corrected(self, case: str, track: str, given: np.ndarray, upto: int | None = None) -> np.ndarray:
        """The labels of today: a copy of `given` (*spatial) uint8 with all events replayed.

        `upto` is the number of the last event that counts (0: none).
        """
        self._check_grid(case, track, given.shape)
        if given.dtype != np.uint8:
            raise BadLabels(f"labels must be class indices (uint8), got {given.dtype}, case {case!r}.")
        labels = np.array(given, order="C", copy=True)
        log.replay(labels, self._database, case, track, upto)
        return labels

    def verified(self, case: str, track: str, shape: Sequence[int], upto: int | None = None) -> np.ndarray | None:
        """True at the voxels that a person decided on, (*spatial) bool; None where there are none."""
        self._check_grid(case, track, shape)
        mask = np.zeros(tuple(shape), dtype=bool)
        return mask if log.mark_verified(mask, self._database, case, track, upto) else None

    # ------------------------------------------------------------ runs and filters

    def add_run(self, run: Run) -> Run:
        """Store a run and make its folder; the run with its id and, if it had none, its time."""
        with self._database.writing() as connection:
            run = replace(run, created=run.created or log.now())
            return run_rows.insert_run(connection, run, self.folder / "runs")

    def set_run(self, run_id: str, **changes: Any) -> Run:
        """Change `state`, `message`, `finished`, `epochs`, `settings` or `engine` of a run."""
        self.run(run_id)
        with self._database.writing() as connection:
            run_rows.update_run(connection, run_id, changes)
        return self.run(run_id)

    def run(self, run_id: str) -> Run:
        """One run. Raises UnknownName."""
        found = run_rows.select_runs(self._database, "id = ?", run_id)
        return found[0] if found else _known(None, "run", run_id, [run.id for run in self.runs()])

    def runs(self) -> tuple[Run, ...]:
        """All runs, oldest first."""
        return run_rows.select_runs(self._database)

    def latest_complete_run(self) -> Run | None:
        """The youngest run that came to its end."""
        found = run_rows.select_runs(self._database, "state = ?", RunState.COMPLETE)
        return found[-1] if found else None

    def run_folder(self, run_id: str) -> Path:
        """Where a run keeps its files."""
        return self.folder / "runs" / plain_name(self.run(run_id).id, "a run id")

    def add_filter(self, filter_: Filter) -> Filter:
        """Store a filter of a run; one of version 0 gets the next version."""
        self.run(filter_.run)
        with self._database.writing() as connection:
            return run_rows.insert_filter(connection, filter_)

    def latest_filter(self, run_id: str) -> Filter | None:
        """The filter of a run with the highest version."""
        return run_rows.select_latest_filter(self._database, run_id)

    # ------------------------------------------------------------ regions

    def replace_open_regions(
        self, run_id: str, regions: Sequence[Region], voxels: Sequence[np.ndarray | VoxelRuns]
    ) -> tuple[Region, ...]:
        """Put `regions` of a run in the place of those that nobody decided on; the same with ids.

        `voxels[i]` are the flat indices, ascending, or the runs of `regions[i]`. One that is the
        same as before keeps its id; others get ids that were never used. One that covers most
        of a region marked as unsure is unsure, too. What was decided on stays as it is.
        """
        self.run(run_id)
        for region in regions:
            self._check_place(region.case, region.track)
        packed = [(r, region_rows.pack_voxels(r, v)) for r, v in zip(regions, voxels, strict=True)]
        with self._database.writing() as connection:
            ids = region_rows.replace_undecided(connection, run_id, packed)
        now = {region.id: region for region in self.regions(run_id)}
        return tuple(now[region_id] for region_id in ids)

    def regions(
        self, run: str | None = None, states: Iterable[RegionState] | None = None, case: str | None = None
    ) -> tuple[Region, ...]:
        """Regions by id: all, or of a run, in given states, of a case."""
        return region_rows.select_regions(self._database, run, states, case)

    def regions_again(self, run: str, known: Mapping[int, Region]) -> tuple[Region, ...]:
        """Regions of a run by id after decisions, but for those that are gone.

        Those of `known` (by id) that are as they were are taken from there, so that a queue of
        thousands follows a decision at once. After another filter they must all be read.
        """
        return region_rows.select_again(self._database, run, known)

    def region(self, region_id: int) -> Region:
        """One region. Raises UnknownName."""
        return _known(region_rows.select_region(self._database, region_id), "region", region_id)

    def region_runs(self, region_id: int) -> VoxelRuns:
        """The voxels of a region, its class before and after. Raises UnknownName."""
        return _known(region_rows.select_voxels(self._database, region_id), "region", region_id)

    def set_region_state(self, region_id: int, state: RegionState) -> Region:
        """Change the state of a region without an event."""
        with self._database.writing() as connection:
            region_rows.set_state(connection, region_id, state)
        return self.region(region_id)

    # ------------------------------------------------------------ settings and drafts

    def get_setting(self, key: str, default: Any = None) -> Any:
        """What was set under `key`."""
        return notes.select_setting(self._database, key, default)

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key`."""
        with self._database.writing() as connection:
            notes.write_setting(connection, key, value)

    def save_draft(self, case: str, track: str, runs: VoxelRuns) -> None:
        """Keep brush strokes that are no decision yet, in the place of those kept before."""
        self._check_place(case, track)
        with self._database.writing() as connection:
            notes.write_draft(connection, case, track, runs)

    def draft(self, case: str, track: str) -> VoxelRuns | None:
        """Brush strokes that were kept, or None."""
        return notes.select_draft(self._database, case, track)

    def clear_draft(self, case: str, track: str) -> None:
        """Forget the brush strokes that were kept."""
        with self._database.writing() as connection:
            notes.drop_draft(connection, case, track)

    # ------------------------------------------------------------ helpers

    def _append(self, events: Sequence[Event], region_state: tuple[int, RegionState] | None) -> tuple[Event, ...]:
        cases = [self._check_place(event.case, event.track) for event in events]
        for event, case in zip(events, cases, strict=True):
            log.check_voxels(event, case)
            if event.region:
                self.region(event.region)
            if event.run:
                self.run(event.run)
        written: list[Event] = []
        with self._database.writing() as connection:
            lines = log.select_lines(self._database)
            for event, case in zip(events, cases, strict=True):
                log.check_target(event, lines)
                done = self.event(event.target) if event.target else None
                written.append(log.insert_event(connection, event))
                lines.append((written[-1].number, event.verdict, event.target))
                follow_event(connection, written[-1], done, region_state, case)
                if event.verdict == Verdict.EDITED:
                    notes.drop_draft(connection, event.case, event.track)
        return tuple(written)

    def _start_writing(self, manifest: Manifest, steal_lock: bool) -> None:
        self._lock = WriterLock(self.folder)
        with self._database.writing():
            self._lock.acquire(steal_lock)
        self._database.check = self._lock.check
        migrate(self._database.raw)
        self.journal = self._database.start_writing()
        write_manifest(self.folder, manifest)

    def _read_cases(self) -> None:
        try:
            found = case_rows.load_cases(self._database, self.folder)
        except (KeyError, TypeError, ValueError) as error:
            raise NotAProject(f"{self.folder} is damaged: {error}. Restore it from a copy.") from error
        self._cases = {case.id: case for case in found}

    def _check_place(self, case: str, track: str) -> Case:
        self.track(track)
        return self.case(case)

    def _check_grid(self, case: str, track: str, shape: Sequence[int]) -> None:
        expected = self._check_place(case, track).geometry.shape
        if tuple(shape) != tuple(expected):
            raise ShapeMismatch(
                f"labels must lie on the grid of their image: labels {tuple(shape)}, "
                f"image {tuple(expected)}, case {case!r}. Restore the label file as it was."
            )


def _known(found: Any, what: str, name: object, names: Iterable[object] = ()) -> Any:
    if found is not None:
        return found
    some = ", ".join(str(item) for item in list(names)[:8])
    raise UnknownName(f"this project has no {what} {name!r}." + (f" It has {some}." if some else ""))
