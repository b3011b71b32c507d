"""The tables of a project, and how older ones become today's."""

from __future__ import annotations

import sqlite3

from napari_noisylabel.errors import NewerSchema, NotAProject, ReadOnlyProject

APPLICATION_ID = 0x4E4C424C  # "NLBL": tells our databases from those of other programs

MIGRATIONS: tuple[str, ...] = (
    # 0 -> 1
    """
    CREATE TABLE groups (id TEXT PRIMARY KEY);
    CREATE TABLE cases (
        position INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        group_id TEXT NOT NULL REFERENCES groups(id),
        held_out TEXT NOT NULL,
        geometry TEXT NOT NULL,
        tags TEXT NOT NULL
    );
    CREATE TABLE sources (
        case_id TEXT NOT NULL REFERENCES cases(id),
        kind TEXT NOT NULL CHECK (kind IN ('image', 'label', 'rater')),
        name TEXT NOT NULL,
        path TEXT NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        PRIMARY KEY (case_id, kind, name)
    );
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        method TEXT NOT NULL,
        settings TEXT NOT NULL,
        engine TEXT NOT NULL,
        seed INTEGER NOT NULL,
        folds INTEGER NOT NULL,
        epochs INTEGER NOT NULL,
        label_version INTEGER NOT NULL,
        state TEXT NOT NULL,
        created TEXT NOT NULL,
        finished TEXT NOT NULL,
        message TEXT NOT NULL
    );
    CREATE TABLE filters (
        run_id TEXT NOT NULL REFERENCES runs(id),
        version INTEGER NOT NULL,
        level TEXT NOT NULL,
        threshold REAL NOT NULL,
        fits TEXT NOT NULL,
        note TEXT NOT NULL,
        PRIMARY KEY (run_id, version)
    );
    CREATE TABLE regions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL REFERENCES runs(id),
        case_id TEXT NOT NULL REFERENCES cases(id),
        track TEXT NOT NULL,
        from_class INTEGER NOT NULL,
        to_class INTEGER NOT NULL,
        start TEXT NOT NULL,
        stop TEXT NOT NULL,
        first INTEGER NOT NULL,  -- flat index of the first voxel, and of the last
        last INTEGER NOT NULL,
        voxels INTEGER NOT NULL,
        volume_mm3 REAL NOT NULL,
        likelihood REAL,  -- NULL for NaN, here and below
        score REAL,
        gain REAL,
        share_above REAL,
        state TEXT NOT NULL,
        runs BLOB NOT NULL
    );
    CREATE INDEX regions_of_run ON regions (run_id, state);
    CREATE INDEX regions_of_case ON regions (case_id, track, state);
    CREATE TABLE events (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        time TEXT NOT NULL,
        by TEXT NOT NULL,
        verdict TEXT NOT NULL,
        case_id TEXT NOT NULL REFERENCES cases(id),
        track TEXT NOT NULL,
        run_id TEXT REFERENCES runs(id),
        region INTEGER REFERENCES regions(id),
        target INTEGER REFERENCES events(number),
        note TEXT NOT NULL,
        runs BLOB NOT NULL
    );
    CREATE INDEX events_of_case ON events (case_id, track);
    CREATE INDEX events_of_region ON events (region);
    CREATE TRIGGER events_stay BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'an event is never changed'); END;
    CREATE TRIGGER events_remain BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'an event is never deleted'); END;
    -- regions as they were before an event took voxels from them, for its undo
    CREATE TABLE taken (
        event INTEGER NOT NULL REFERENCES events(number),
        region INTEGER NOT NULL REFERENCES regions(id) ON DELETE CASCADE,
        state TEXT NOT NULL,
        start TEXT NOT NULL,
        stop TEXT NOT NULL,
        first INTEGER NOT NULL,  -- flat index of the first voxel, and of the last
        last INTEGER NOT NULL,
        voxels INTEGER NOT NULL,
        volume_mm3 REAL NOT NULL,
        gain REAL,
        runs BLOB NOT NULL,
        PRIMARY KEY (event, region)
    );
    CREATE INDEX taken_of_region ON taken (region);
    CREATE TABLE drafts (
        case_id TEXT NOT NULL REFERENCES cases(id),
        track TEXT NOT NULL,
        runs BLOB NOT NULL,
        PRIMARY KEY (case_id, track)
    );
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    """,
    # 1 -> 2: which runs of an ensemble propose the same
    """
    ALTER TABLE regions ADD COLUMN votes TEXT NOT NULL DEFAULT '[]';
    """,
    # 2 -> 3: regions that go back to image-level tags alone
    """
    ALTER TABLE regions ADD COLUMN weak INTEGER NOT NULL DEFAULT 0 CHECK (weak IN (0, 1));
    """,
)
"""`MIGRATIONS[v]` takes a database from schema `v` to `v + 1`. Those that shipped never change."""


def newest() -> int:
    """The schema that this program writes."""
    return len(MIGRATIONS)


def refuse_newer(version: int, where: object) -> None:
    """Raise NewerSchema where `version` is later than what this program knows."""
    if version > newest():
        raise NewerSchema(
            f"this program knows projects up to schema {newest()}, {where} has schema {version}. "
            "Install the version of napari-noisylabel that wrote it, or a later one."
        )


def check_version(connection: sqlite3.Connection, where: object, read_only: bool) -> None:
    """See that a database is ours and of a schema that can be used.

    Raises
    ------
    NewerSchema : a later version of the program wrote it.
    ReadOnlyProject : an older one wrote it, and reading alone cannot bring it up to date.
    NotAProject : another program wrote it.
    """
    version = version_of(connection)
    (ours,) = connection.execute("PRAGMA application_id").fetchone()
    if ours != APPLICATION_ID or version < 1:
        raise NotAProject(f"{where} must hold a project database, and its project.sqlite is another file.")
    refuse_newer(version, where)
    if read_only and version < newest():
        raise ReadOnlyProject(
            f"{where} has schema {version} and must be brought to schema {newest()} first. Open it once for writing."
        )


def migrate(connection: sqlite3.Connection) -> int:
    """Bring a database to the newest schema, each step whole or not at all; the schema it had."""
    first = version_of(connection)
    for version in range(first, newest()):
        script = f"BEGIN IMMEDIATE; {MIGRATIONS[version]}; PRAGMA user_version={version + 1}; COMMIT"
        try:
            connection.executescript(script)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return first


def version_of(connection: sqlite3.Connection) -> int:
    """The schema of a database; 0 where it is empty."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
