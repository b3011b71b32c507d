"""What a decision takes from the regions, and what its undo gives back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np

from napari_noisylabel.arrays.labels import VoxelRuns, encode_indices, from_bytes, to_bytes, voxel_indices
from napari_noisylabel.records import Case, Event, RegionState, Verdict
from napari_noisylabel.store.regions import UNDECIDED, as_text, inside, set_state, span

STATE_AFTER = {
    Verdict.ACCEPTED: RegionState.ACCEPTED,
    Verdict.REJECTED: RegionState.REJECTED,
    Verdict.EDITED: RegionState.EDITED,
    Verdict.UNSURE: RegionState.UNSURE,
}
CHANGING = "state, start, stop, first, last, voxels, volume_mm3, gain, runs"
"""What a decision can change of a region."""


def follow_event(
    connection: sqlite3.Connection,
    event: Event,
    done: Event | None,
    state: tuple[int, RegionState] | None,
    case: Case,
) -> None:
    """Bring the regions to where `event` leaves them, in its own transaction.

    A decision sets the state of its region and takes its voxels from all others: they shrink,
    or are gone. Undo gives back what the decision took. `done` is the event that an undo or
    redo acts on; `state`, if given, has the last word.
    """
    if event.verdict == Verdict.UNDONE and done is not None:
        _give_back(connection, done)
    else:
        _take(connection, done or event, case)
    if state is not None:
        set_state(connection, *state)


def _take(connection: sqlite3.Connection, event: Event, case: Case) -> None:
    after = STATE_AFTER.get(event.verdict)
    if event.region and after is not None:
        _remember(connection, event.number, event.region)
        set_state(connection, event.region, after)
    if event.verdict == Verdict.UNSURE:
        return
    whole = event.verdict == Verdict.VERIFIED
    for region_id, data in _touched(connection, event, whole):
        indices = voxel_indices(from_bytes(data))
        left = indices[:0] if whole else indices[~inside(indices, event.runs)]
        if left.size == indices.size:
            continue
        _remember(connection, event.number, region_id)
        if left.size:
            _shrink(connection, region_id, left, indices.size, case.geometry.shape)
        else:
            set_state(connection, region_id, RegionState.GONE)


def _touched(connection: sqlite3.Connection, event: Event, whole: bool) -> list[tuple[int, bytes]]:
    """Undecided regions that may share voxels with the event, with their voxels."""
    if not whole and not event.runs.starts.size:
        return []
    first, last = (0, 2**62) if whole else span(event.runs)
    return connection.execute(
        "SELECT id, runs FROM regions WHERE case_id = ? AND track = ? AND state IN (?, ?) "
        "AND first <= ? AND last >= ? AND id != ?",
        (event.case, event.track, *UNDECIDED, last, first, event.region),
    ).fetchall()


def _shrink(
    connection: sqlite3.Connection, region_id: int, left: np.ndarray, before: int, shape: Sequence[int]
) -> None:
    index = np.stack(np.unravel_index(left, tuple(shape)))
    from_class, to_class = connection.execute(
        "SELECT from_class, to_class FROM regions WHERE id = ?", (region_id,)
    ).fetchone()
    runs, share = encode_indices(left, from_class, to_class), left.size / before
    box = (as_text(index.min(axis=1)), as_text(index.max(axis=1) + 1))
    connection.execute(
        "UPDATE regions SET start = ?, stop = ?, first = ?, last = ?, voxels = ?, "
        "volume_mm3 = volume_mm3 * ?, gain = gain * ?, runs = ? WHERE id = ?",
        (*box, *span(runs), left.size, share, share, to_bytes(runs), region_id),
    )


def _remember(connection: sqlite3.Connection, event: int, region_id: int) -> None:
    connection.execute(
        f"INSERT OR IGNORE INTO taken SELECT ?, id, {CHANGING} FROM regions WHERE id = ?", (event, region_id)
    )


def _give_back(connection: sqlite3.Connection, event: Event) -> None:
    """The regions as they were before `event`, but for those whose place a later filter gave away."""
    taken = connection.execute(f"SELECT region, {CHANGING} FROM taken WHERE event = ?", (event.number,)).fetchall()
    others = connection.execute(
        "SELECT id, first, last FROM regions WHERE case_id = ? AND track = ? AND state IN (?, ?) "
        "AND id NOT IN (SELECT region FROM taken WHERE event = ?)",
        (event.case, event.track, *UNDECIDED, event.number),
    ).fetchall()
    assignments = CHANGING.replace(",", " = ?,") + " = ?"
    for region_id, *before in taken:
        runs = from_bytes(before[-1])
        first, last = span(runs)
        near = [other for other, start, end in others if start <= last and end >= first]
        if not _is_taken_over(connection, region_id, runs, near):
            connection.execute(f"UPDATE regions SET {assignments} WHERE id = ?", (*before, region_id))
    connection.execute("DELETE FROM taken WHERE event = ?", (event.number,))


def _is_taken_over(connection: sqlite3.Connection, region_id: int, runs: VoxelRuns, others: Sequence[int]) -> bool:
    """True where one of the regions `others`, of the same run, has some of `runs`."""
    indices = voxel_indices(runs)
    for other in others:
        found = connection.execute(
            "SELECT b.runs FROM regions a JOIN regions b USING (run_id) WHERE a.id = ? AND b.id = ?",
            (region_id, other),
        ).fetchone()
        if found and inside(indices, from_bytes(found[0])).any():
            return True
    return False
