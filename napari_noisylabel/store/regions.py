"""Regions as rows."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from napari_noisylabel.arrays.labels import VoxelRuns, encode_indices, from_bytes, to_bytes, voxel_indices
from napari_noisylabel.errors import ShapeMismatch
from napari_noisylabel.records import Region, RegionState
from napari_noisylabel.store.database import Database, Row

COLUMNS = (
    "id, run_id, case_id, track, from_class, to_class, start, stop, "
    "voxels, volume_mm3, likelihood, score, gain, share_above, state, votes, weak"
)
STORED = f"{COLUMNS}, first, last, runs"
UNDECIDED = (RegionState.OPEN, RegionState.UNSURE)
"""States in which a region's voxels wait for a decision."""


def select_regions(
    database: Database, run: str | None, states: Iterable[RegionState] | None, case: str | None
) -> tuple[Region, ...]:
    """Regions of a run, in given states, of a case, or all, by id."""
    wanted = None if states is None else [str(state) for state in states]
    terms, values = ["TRUE"], []
    for column, value in (("run_id", run), ("case_id", case)):
        if value is not None:
            terms.append(f"{column} = ?")
            values.append(value)
    if wanted is not None:
        terms.append(f"state IN ({', '.join('?' * len(wanted))})")
        values.extend(wanted)
    rows = database.rows(f"SELECT {COLUMNS} FROM regions WHERE {' AND '.join(terms)} ORDER BY id", *values)
    return tuple(_region(row) for row in rows)


def select_again(database: Database, run: str, known: Mapping[int, Region]) -> tuple[Region, ...]:
    """Regions of a run, but for those that are gone, by id; read are those whose state or size is not as in `known`."""
    rows = database.rows(
        "SELECT id, state, voxels FROM regions WHERE run_id = ? AND state != ? ORDER BY id", run, RegionState.GONE
    )
    here = {region_id: known.get(region_id) for region_id, _, _ in rows}
    stale = [i for i, state, n in rows if (own := here[i]) is None or (own.state, own.voxels) != (state, n)]
    wanted = f"SELECT {COLUMNS} FROM regions WHERE id IN (SELECT value FROM json_each(?))"
    here.update((region.id, region) for region in map(_region, database.rows(wanted, as_text(stale))))
    return tuple(region for region in here.values() if region is not None)


def select_region(database: Database, region_id: int) -> Region | None:
    """One region, or None."""
    rows = database.rows(f"SELECT {COLUMNS} FROM regions WHERE id = ?", region_id)
    return _region(rows[0]) if rows else None


def select_voxels(database: Database, region_id: int) -> VoxelRuns | None:
    """The voxels of a region, with its classes before and after; None if there is no such region."""
    rows = database.rows("SELECT runs FROM regions WHERE id = ?", region_id)
    return from_bytes(rows[0][0]) if rows else None


def pack_voxels(region: Region, voxels: np.ndarray | VoxelRuns) -> bytes:
    """The voxels of `region`, from flat indices or runs, in the form that is stored.

    Raises
    ------
    ShapeMismatch : their number is not `region.voxels`.
    """
    indices = voxel_indices(voxels) if isinstance(voxels, VoxelRuns) else np.asarray(voxels)
    if indices.size != region.voxels or not region.voxels:
        raise ShapeMismatch(
            f"a region must come with its voxels: {indices.size} given, {region.voxels} named, case {region.case!r}."
        )
    return to_bytes(encode_indices(indices, region.from_class, region.to_class))


def replace_undecided(connection: sqlite3.Connection, run: str, regions: Sequence[tuple[Region, bytes]]) -> list[int]:
    """Put `regions` in the place of those of `run` that nobody has decided on; their ids.

    One with the same classes and voxels as before keeps its id; one that covers most of a region
    marked as unsure is unsure, too. Of those before, the ones that events name are kept as
    gone, the rest is removed.
    """
    old = {
        (*key, runs): (region_id, RegionState(state))
        for region_id, state, *key, runs in connection.execute(
            "SELECT id, state, case_id, track, from_class, to_class, runs FROM regions "
            "WHERE run_id = ? AND state IN (?, ?)",
            (run, *UNDECIDED),
        )
    }
    kept = [old.pop((*_place(region), runs), (None, region.state)) for region, runs in regions]
    unsure: dict[tuple, list[bytes]] = defaultdict(list)
    for (*place, runs), (_, state) in old.items():
        if state == RegionState.UNSURE:
            unsure[tuple(place)].append(runs)
    ids = []
    for (region, runs), (region_id, state) in zip(regions, kept, strict=True):
        if region_id is None and any(covers_most(runs, before) for before in unsure.get(_place(region), ())):
            state = RegionState.UNSURE
        ids.append(_upsert(connection, _row(region, run, region_id, state), runs))
    gone = [(RegionState.GONE, region_id) for region_id, _ in old.values()]
    connection.executemany("UPDATE regions SET state = ? WHERE id = ?", gone)
    connection.execute(
        "DELETE FROM regions WHERE run_id = ? AND state = ? "
        "AND id NOT IN (SELECT region FROM events WHERE region IS NOT NULL) "
        "AND id NOT IN (SELECT region FROM taken)",
        (run, RegionState.GONE),
    )
    return ids


def set_state(connection: sqlite3.Connection, region_id: int, state: RegionState) -> bool:
    """Change the state of a region; False if there is none."""
    return connection.execute("UPDATE regions SET state = ? WHERE id = ?", (state, region_id)).rowcount > 0


def covers_most(runs: bytes, others: bytes) -> bool:
    """True where `runs` hold at least half of the voxels of `others`."""
    indices = voxel_indices(from_bytes(others))
    return 2 * int(inside(indices, from_bytes(runs)).sum()) >= indices.size


def inside(indices: np.ndarray, runs: VoxelRuns) -> np.ndarray:
    """True where a flat index of `indices` (N,) lies in one of `runs`."""
    if not runs.starts.size:
        return np.zeros(indices.size, bool)
    owner = np.searchsorted(runs.starts, indices, side="right") - 1
    return (owner >= 0) & (indices < (runs.starts + runs.lengths)[owner])


def span(runs: VoxelRuns) -> tuple[int, int]:
    """The flat index of the first voxel of `runs`, and of the last."""
    return int(runs.starts[0]), int(runs.starts[-1] + runs.lengths[-1] - 1)


def as_text(values: Iterable[int]) -> str:
    """Whole numbers as JSON: how boxes are stored."""
    return json.dumps([int(value) for value in values])


def as_box(text: str) -> tuple[int, ...]:
    """Whole numbers from `as_text`; four times faster than reading JSON, and there are thousands."""
    return tuple(map(int, text[1:-1].split(",")))


def _place(region: Region) -> tuple[str, str, int, int]:
    return region.case, region.track, int(region.from_class), int(region.to_class)


def _upsert(connection: sqlite3.Connection, row: tuple, runs: bytes) -> int:
    (region_id,) = connection.execute(
        f"INSERT INTO regions ({STORED}) VALUES ({', '.join('?' * 20)}) "
        "ON CONFLICT (id) DO UPDATE SET start = excluded.start, stop = excluded.stop, "
        "volume_mm3 = excluded.volume_mm3, likelihood = excluded.likelihood, score = excluded.score, "
        "gain = excluded.gain, share_above = excluded.share_above, votes = excluded.votes, weak = excluded.weak "
        "RETURNING id",
        (*row, *span(from_bytes(runs)), runs),
    ).fetchone()
    return int(region_id)


def _row(region: Region, run: str, region_id: int | None, state: RegionState) -> tuple:
    measures = (region.likelihood, region.score, region.gain, region.share_above)
    return (
        *(region_id, run, *_place(region), as_text(region.start), as_text(region.stop)),
        *(int(region.voxels), float(region.volume_mm3), *(float(value) for value in measures), state),
        *(json.dumps([round(float(share), 4) for share in region.votes]), region.weak),
    )


def _region(row: Row) -> Region:
    *head, start, stop, voxels, volume, likelihood, score, gain, share, state, votes, weak = row
    measures = (math.nan if value is None else value for value in (likelihood, score, gain, share))
    shares = tuple(json.loads(votes)) if len(votes) > 2 else ()
    marks = (RegionState(state), shares, bool(weak))
    return Region(*(*head, as_box(start), as_box(stop), voxels, volume, *measures, *marks))
