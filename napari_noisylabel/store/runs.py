"""Runs and their filters, as rows and folders."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from napari_noisylabel.errors import BadSetting
from napari_noisylabel.records import Filter, FilterLevel, MixtureFit, Run, RunState
from napari_noisylabel.store.database import Database, Row
from napari_noisylabel.store.files import as_json, disk_errors

COLUMNS = "id, method, settings, engine, seed, folds, epochs, label_version, state, created, finished, message"


def insert_run(connection: sqlite3.Connection, run: Run, runs_folder: Path) -> Run:
    """Store a run under the next number and make its folder; the run with its id."""
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'runs'").fetchone()
    number = int(last) + 1
    while _is_used(runs_folder / f"run-{number:03d}"):  # left over from a copy of the database
        number += 1
    run = replace(run, id=f"run-{number:03d}")
    connection.execute(
        f"INSERT INTO runs (number, {COLUMNS}) VALUES ({', '.join('?' * 13)})",
        (
            *(number, run.id, run.method, as_json(run.settings), as_json(run.engine)),
            *(int(run.seed), int(run.folds), int(run.epochs), int(run.label_version)),
            *(run.state, run.created, run.finished, run.message),
        ),
    )
    with disk_errors(runs_folder / run.id):
        (runs_folder / run.id).mkdir(parents=True, exist_ok=True)
    return run


def update_run(connection: sqlite3.Connection, run_id: str, changes: Mapping[str, Any]) -> None:
    """Change fields of a run: `state`, `message`, `finished`, `epochs`, `settings`, `engine`."""
    stored = {
        key: as_json(value) if key in ("settings", "engine") else RunState(value) if key == "state" else value
        for key, value in changes.items()
    }
    allowed = {"state", "message", "finished", "epochs", "settings", "engine"}
    if not stored or set(stored) - allowed:
        raise BadSetting(f"of a run, {', '.join(sorted(allowed))} can change; got {', '.join(stored) or 'nothing'}.")
    assignments = ", ".join(f"{key} = ?" for key in stored)
    connection.execute(f"UPDATE runs SET {assignments} WHERE id = ?", (*stored.values(), run_id))


def select_runs(database: Database, where: str = "TRUE", *values: object) -> tuple[Run, ...]:
    """Runs, oldest first."""
    rows = database.rows(f"SELECT {COLUMNS} FROM runs WHERE {where} ORDER BY number", *values)
    return tuple(_run(row) for row in rows)


def insert_filter(connection: sqlite3.Connection, filter_: Filter) -> Filter:
    """Store a filter; version 0 becomes the next of its run, another one takes its place."""
    if not filter_.version:
        (last,) = connection.execute(
            "SELECT coalesce(max(version), 0) FROM filters WHERE run_id = ?", (filter_.run,)
        ).fetchone()
        filter_ = replace(filter_, version=last + 1)
    fits = {track: [asdict(fit) for fit in fits] for track, fits in filter_.fits.items()}
    connection.execute(
        "INSERT OR REPLACE INTO filters VALUES (?, ?, ?, ?, ?, ?)",
        (filter_.run, filter_.version, filter_.level, float(filter_.threshold), as_json(fits), filter_.note),
    )
    return filter_


def select_latest_filter(database: Database, run: str) -> Filter | None:
    """The filter of a run with the highest version, or None."""
    rows = database.rows(
        "SELECT version, level, threshold, fits, note FROM filters WHERE run_id = ? ORDER BY version DESC LIMIT 1",
        run,
    )
    if not rows:
        return None
    version, level, threshold, fits, note = rows[0]
    read = {track: tuple(MixtureFit.from_json(fit) for fit in listed) for track, listed in json.loads(fits).items()}
    return Filter(run, version, FilterLevel(level), threshold, read, note)


def _run(row: Row) -> Run:
    run_id, method, settings, engine, *rest = row
    seed, folds, epochs, label_version, state, created, finished, message = rest
    return Run(
        run_id, method, json.loads(settings), json.loads(engine), seed, folds, epochs, label_version,
        RunState(state), created, finished, message,
    )  # fmt: skip


def _is_used(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
