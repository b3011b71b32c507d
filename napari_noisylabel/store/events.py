"""The append-only log: events as rows, what is undone, and what the events make of the labels."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from napari_noisylabel.arrays.labels import VoxelRuns, apply_runs, from_bytes, revert_runs, to_bytes
from napari_noisylabel.errors import BadSetting, NothingToDo, ShapeMismatch
from napari_noisylabel.records import Case, Event, Verdict
from napari_noisylabel.store.database import Database, Row

DECIDED = (Verdict.ACCEPTED, Verdict.REJECTED, Verdict.EDITED, Verdict.VERIFIED)
"""Verdicts whose voxels count as verified."""

COLUMNS = "number, time, by, verdict, case_id, track, run_id, region, target, note, runs"


def now() -> str:
    """The time, as records tell it: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# ---------------------------------------------------------------- what can be undone


@dataclass(frozen=True)
class History:
    """Which events hold, and what undo and redo act on. All are event numbers, ascending.

    Undo goes back from the last decision, one by one; redo forward again, until a new decision
    is made. So an event is undone only while its voxels are as it left them.
    """

    active: tuple[int, ...] = ()
    undone: tuple[int, ...] = ()

    @property
    def undo_target(self) -> int:
        """The last event that holds, 0 if none."""
        return self.active[-1] if self.active else 0

    @property
    def redo_target(self) -> int:
        """The event that was undone last, 0 if none."""
        return self.undone[-1] if self.undone else 0


def history(lines: Iterable[Row]) -> History:
    """The history that `lines` of (number, verdict, target) tell, in their order."""
    active: list[int] = []
    undone: list[int] = []
    for number, verdict, target in lines:
        if verdict == Verdict.UNDONE:
            active.remove(target)
            undone.append(target)
        elif verdict == Verdict.REDONE:
            undone.remove(target)
            active.append(target)
        else:
            undone.clear()
            active.append(number)
    return History(tuple(active), tuple(undone))


def undoing(event: Event, by: str, time: str = "", note: str = "") -> Event:
    """The event that takes `event` back."""
    taken_back = replace(event, verdict=Verdict.UNDONE, runs=revert_runs(event.runs))
    return replace(taken_back, number=0, target=event.number, by=by, time=time, note=note)


def redoing(event: Event, by: str, time: str = "", note: str = "") -> Event:
    """The event that does `event` again after it was undone."""
    return replace(event, verdict=Verdict.REDONE, number=0, target=event.number, by=by, time=time, note=note)


def check_target(event: Event, lines: Iterable[Row]) -> None:
    """See that an undo or redo acts on the event whose turn it is after `lines`.

    Raises
    ------
    NothingToDo : nothing to undo or to redo, or another event comes first.
    BadSetting : a target on a verdict that has none.
    """
    if event.verdict not in (Verdict.UNDONE, Verdict.REDONE):
        if event.target:
            raise BadSetting(f"only undo and redo have a target, {event.verdict} has event {event.target}.")
        return
    past = history(lines)
    undo = event.verdict == Verdict.UNDONE
    turn, word = (past.undo_target, "undo") if undo else (past.redo_target, "redo")
    if not turn:
        raise NothingToDo(f"there is nothing to {word}.")
    if event.target != turn:
        raise NothingToDo(f"{word} goes step by step: event {turn} comes before event {event.target}.")


def check_voxels(event: Event, case: Case) -> None:
    """Raise ShapeMismatch where the voxels of `event` reach beyond its case."""
    size = math.prod(case.geometry.shape)
    end = int(event.runs.starts[-1] + event.runs.lengths[-1]) if event.runs.starts.size else 0
    if end > size:
        raise ShapeMismatch(
            f"an event's voxels must lie in its case: {case.id!r} has {size}, the event reaches to {end}."
        )


# ---------------------------------------------------------------- rows


def insert_event(connection: sqlite3.Connection, event: Event) -> Event:
    """Append `event`; the same with its number, and the time if it had none."""
    event = replace(event, time=event.time or now())
    number = connection.execute(
        f"INSERT INTO events ({COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(event.time, event.by, event.verdict, event.case, event.track),
            *(event.run or None, int(event.region) or None, int(event.target) or None, event.note),
            to_bytes(event.runs),
        ),
    ).lastrowid
    return replace(event, number=int(number or 0))


def select_events(database: Database, case: str | None, track: str | None, upto: int | None) -> list[Event]:
    """The events of a case, a track, or all, up to number `upto`, in their order."""
    where, values = _where(case, track, upto)
    return [_event(row) for row in database.rows(f"SELECT {COLUMNS} FROM events {where} ORDER BY number", *values)]


def select_lines(
    database: Database, case: str | None = None, track: str | None = None, upto: int | None = None
) -> list[Row]:
    """(number, verdict, target) of events, without their voxels: quick."""
    where, values = _where(case, track, upto)
    return database.rows(f"SELECT number, verdict, target FROM events {where} ORDER BY number", *values)


def select_event(database: Database, number: int) -> Event | None:
    """One event, or None."""
    rows = database.rows(f"SELECT {COLUMNS} FROM events WHERE number = ?", number)
    return _event(rows[0]) if rows else None


def _where(case: str | None, track: str | None, upto: int | None) -> tuple[str, list[object]]:
    wanted = (("case_id = ?", case), ("track = ?", track), ("number <= ?", upto))
    given = [(term, value) for term, value in wanted if value is not None]
    return "WHERE " + " AND ".join(["TRUE", *(term for term, _ in given)]), [value for _, value in given]


def _event(row: Row) -> Event:
    number, time, by, verdict, case, track, run, region, target, note, runs = row
    return Event(
        number=number,
        time=time,
        by=by,
        verdict=Verdict(verdict),
        case=case,
        track=track,
        runs=from_bytes(runs),
        run=run or "",
        region=region or 0,
        target=target or 0,
        note=note,
    )


# ---------------------------------------------------------------- what events make of labels


def replay(labels: np.ndarray, database: Database, case: str, track: str, upto: int | None) -> None:
    """Write all events of a case and track into `labels` (*spatial) uint8, in place."""
    where, values = _where(case, track, upto)
    for (runs,) in database.rows(f"SELECT runs FROM events {where} ORDER BY number", *values):
        apply_runs(labels, from_bytes(runs))


def mark_verified(mask: np.ndarray, database: Database, case: str, track: str, upto: int | None) -> bool:
    """Set `mask` (*spatial) bool at the voxels that people decided on; True if there are any."""
    active = set(history(select_lines(database, case, track, upto)).active)
    where, values = _where(case, track, upto)
    rows = database.rows(f"SELECT number, verdict, runs FROM events {where}", *values)
    decided = [(verdict, runs) for number, verdict, runs in rows if number in active and verdict in DECIDED]
    if any(verdict == Verdict.VERIFIED for verdict, _ in decided):
        mask.fill(True)
        return True
    for _, runs in decided:
        apply_runs(mask.view(np.uint8), _marking(from_bytes(runs)))
    return bool(decided)


def _marking(runs: VoxelRuns) -> VoxelRuns:
    zeros = np.zeros(runs.starts.size, np.uint8)
    return VoxelRuns(runs.starts, runs.lengths, zeros, zeros + np.uint8(1))
