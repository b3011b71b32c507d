"""What a decision takes from the regions, and what its undo gives back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np

from napari_noisylabel.arrays.labels import encode_indices, from_bytes, runs_box, to_bytes, voxel_indices
from napari_noisylabel.records import Case, Event, RegionState, Verdict
from napari_noisylabel.store.regions import UNDECIDED, as_box, as_text, inside, set_state, span

STATE_AFTER = {
    Verdict.ACCEPTED: RegionState.ACCEPTED,
    Verdict.REJECTED: RegionState.REJECTED,
    Verdict.EDITED: RegionState.EDITED,
    Verdict.UNSURE: RegionState.UNSURE,
}
CHANGING = "state, start, stop, first, last, voxels, volume_mm3, gain, runs"
"""What a decision can change of a region."""

WAITING = "case_id = ? AND track = ? AND state IN (?, ?)"
"""Regions of a case and track that nobody has decided on."""


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
    if event.verdict == Verdict.VERIFIED:
        _end_all(connection, event)
    elif event.verdict != Verdict.UNSURE and event.runs.starts.size:
        _take_voxels(connection, event, case.geometry.shape)


def _end_all(connection: sqlite3.Connection, event: Event) -> None:
    """Nothing of the case waits any more; in two statements, for it may have had thousands of regions."""
    place = (event.case, event.track, *UNDECIDED)
    connection.execute(
        f"INSERT OR IGNORE INTO taken SELECT ?, id, {CHANGING} FROM regions WHERE {WAITING}", (event.number, *place)
    )
    connection.execute(f"UPDATE regions SET state = ? WHERE {WAITING}", (RegionState.GONE, *place))


def _take_voxels(connection: sqlite3.Connection, event: Event, shape: Sequence[int]) -> None:
    for region_id, data in _touched(connection, event, shape):
        indices = voxel_indices(from_bytes(data))
        left = indices[~inside(indices, event.runs)]
        if left.size == indices.size:
            continue
        _remember(connection, event.number, region_id)
        if left.size:
            _shrink(connection, region_id, left, indices.size, shape)
        else:
            set_state(connection, region_id, RegionState.GONE)


def _touched(connection: sqlite3.Connection, event: Event, shape: Sequence[int]) -> list[tuple[int, bytes]]:
    """Undecided regions whose boxes share voxels with the event's, with their voxels."""
    first, last = span(event.runs)
    low, high = runs_box(event.runs, shape)
    near = connection.execute(
        f"SELECT id, start, stop, runs FROM regions WHERE {WAITING} AND first <= ? AND last >= ? AND id != ?",
        (event.case, event.track, *UNDECIDED, last, first, event.region),
    )
    return [
        (region_id, runs)
        for region_id, start, stop, runs in near
        if all(a < d and c < b for a, b, c, d in zip(as_box(start), as_box(stop), low, high, strict=True))
    ]


def _shrink(
    connection: sqlite3.Connection, region_id: int, left: np.ndarray, before: int, shape: Sequence[int]
) -> None:
    from_class, to_class = connection.execute(
        "SELECT from_class, to_class FROM regions WHERE id = ?", (region_id,)
    ).fetchone()
    runs, share = encode_indices(left, from_class, to_class), left.size / before
    box = (as_text(side) for side in runs_box(runs, shape))
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
    others = connection.execute(
        f"SELECT id, first, last FROM regions WHERE {WAITING} AND id NOT IN (SELECT region FROM taken WHERE event = ?)",
        (event.case, event.track, *UNDECIDED, event.number),
    ).fetchall()
    taken = "SELECT region, first, last FROM taken WHERE event = ?"
    for region_id, first, last in connection.execute(taken, (event.number,)).fetchall() if others else ():
        near = [other for other, start, end in others if start <= last and end >= first]
        if near and _is_taken_over(connection, event.number, region_id, near):
            connection.execute("DELETE FROM taken WHERE event = ? AND region = ?", (event.number, region_id))
    changed = ["state"] if event.verdict == Verdict.VERIFIED else CHANGING.split(", ")  # see _end_all
    connection.execute(
        f"UPDATE regions SET {', '.join(f'{c} = taken.{c}' for c in changed)} FROM taken "
        "WHERE taken.region = regions.id AND taken.event = ?",
        (event.number,),
    )
    connection.execute("DELETE FROM taken WHERE event = ?", (event.number,))


def _is_taken_over(connection: sqlite3.Connection, event: int, region_id: int, others: Sequence[int]) -> bool:
    """True where one of the regions `others`, of the same run, has some of what `event` took from a region."""
    (taken,) = connection.execute(
        "SELECT runs FROM taken WHERE event = ? AND region = ?", (event, region_id)
    ).fetchone()
    indices = voxel_indices(from_bytes(taken))
    for other in others:
        found = connection.execute(
            "SELECT b.runs FROM regions a JOIN regions b USING (run_id) WHERE a.id = ? AND b.id = ?",
            (region_id, other),
        ).fetchone()
        if found and inside(indices, from_bytes(found[0])).any():
            return True
    return False
