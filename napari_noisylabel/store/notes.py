"""Settings of a project, and drafts: brush strokes that are no decision yet."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from napari_noisylabel.arrays.labels import VoxelRuns, from_bytes, to_bytes
from napari_noisylabel.store.database import Database
from napari_noisylabel.store.files import as_json


def select_setting(database: Database, key: str, default: Any) -> Any:
    """What was set under `key`, or `default`."""
    rows = database.rows("SELECT value FROM settings WHERE key = ?", key)
    return json.loads(rows[0][0]) if rows else default


def write_setting(connection: sqlite3.Connection, key: str, value: Any) -> None:
    """Keep a JSON value under `key`."""
    connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, as_json(value)))


def select_draft(database: Database, case: str, track: str) -> VoxelRuns | None:
    """The brush strokes that were kept, or None."""
    rows = database.rows("SELECT runs FROM drafts WHERE case_id = ? AND track = ?", case, track)
    return from_bytes(rows[0][0]) if rows else None


def write_draft(connection: sqlite3.Connection, case: str, track: str, runs: VoxelRuns) -> None:
    """Keep brush strokes in the place of those kept before."""
    connection.execute("INSERT OR REPLACE INTO drafts VALUES (?, ?, ?)", (case, track, to_bytes(runs)))


def drop_draft(connection: sqlite3.Connection, case: str, track: str) -> None:
    """Forget the brush strokes that were kept."""
    connection.execute("DELETE FROM drafts WHERE case_id = ? AND track = ?", (case, track))
