"""The project's SQLite file: how it is opened, read and written, and its errors in words."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock, get_ident

import psutil

from napari_noisylabel.errors import (
    DiskFull,
    NoisyLabelError,
    NotAProject,
    ProjectLocked,
    ReadOnlyProject,
    UnreadableFile,
)
from napari_noisylabel.store.files import disk_errors, no_room

BUSY_S = 10.0
"""How long one connection waits for another's short transaction."""

NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "afp",
    "9p",
    "fuse.sshfs",
    "fuse.gvfs",
    "davfs",
    "webdav",
    "vboxsf",
    "remote",
)
"""File systems where WAL is granted but unsafe: its index is memory shared by one host only."""

CANNOT_JUST_READ = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_FULL")

OUTERMOST = ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
NESTED = ("SAVEPOINT inner", "RELEASE inner", "ROLLBACK TO inner")

Row = tuple
Check = Callable[[], None]


class Database:
    """One file, one connection that writes and one that reads, usable from any thread.

    The reading connection sees what is committed, and does not wait for a long write.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._copy: tempfile.TemporaryDirectory | None = None
        self._write_lock, self._read_lock = RLock(), RLock()
        self._writing_thread = 0
        self.check: Check = lambda: None
        with database_errors(path):
            if read_only:
                self._writer = None
                self._reader = self._open_reader()
            else:
                self._writer = _open_writer(path)
                self._reader = self._writer

    def start_writing(self) -> str:
        """Choose the journal and open the reading connection; the journal ("wal" or "delete").

        Call it once the writer's lock is held.
        """
        with database_errors(self.path):
            journal = choose_journal(self.raw, self.path)
            self._reader = _connect(self.path)
            self._reader.execute("PRAGMA query_only=ON")
            return journal

    @property
    def read_only(self) -> bool:
        return self._writer is None

    def rows(self, sql: str, *values: object) -> list[Row]:
        """All rows of a query; within `writing`, those of the transaction."""
        if self._writing_thread == get_ident():
            return self.raw.execute(sql, values).fetchall()
        with self._read_lock, database_errors(self.path):
            return self._reader.execute(sql, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all that is executed within happens, or nothing.

        When it ends without an error, the change is on the disk. Within another one, it is a
        part of that.

        Raises
        ------
        ReadOnlyProject : opened for reading. ProjectLocked : another program took over.
        DiskFull : no room left; nothing has changed.
        """
        with self._write_lock, database_errors(self.path):
            connection = self.raw
            inner = self._writing_thread == get_ident()
            begin, commit, undo = NESTED if inner else OUTERMOST
            connection.execute(begin)
            self._writing_thread = get_ident()
            try:
                self.check()
                yield connection
                connection.execute(commit)
            except BaseException:
                if connection.in_transaction:
                    connection.execute(undo)
                raise
            finally:
                self._writing_thread = get_ident() if inner else 0

    @property
    def raw(self) -> sqlite3.Connection:
        """The writing connection."""
        if self._writer is None:
            raise ReadOnlyProject(f"{self.path.parent} was opened for reading. Open it for writing to change it.")
        return self._writer

    @property
    def connection(self) -> sqlite3.Connection:
        """A connection that can read."""
        return self._reader

    def close(self) -> None:
        """Close both connections; a second call does nothing."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            if self._writer is not None:
                self._writer.close()
            if self._copy is not None:
                self._copy.cleanup()
                self._copy = None

    def _open_reader(self) -> sqlite3.Connection:
        """A connection that writes nothing; of a copy where SQLite cannot read without writing.

        That is so where a writer was killed and its journal must be played back, or a WAL
        needs its index, in a folder that may not be written or on a disk that is full.
        """
        if not self.path.exists():
            raise NotAProject(f"{self.path} is missing. Open the folder that `noisylabel new` made.")
        connection = _connect(self.path, "?mode=ro")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection
        except sqlite3.OperationalError as error:
            connection.close()
            if not error.sqlite_errorname.startswith(CANNOT_JUST_READ):
                raise
        with disk_errors(Path(tempfile.gettempdir())):
            self._copy = tempfile.TemporaryDirectory(prefix="noisylabel-")
            for name in (self.path.name, f"{self.path.name}-wal", f"{self.path.name}-journal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(self.path.with_name(name), Path(self._copy.name) / name)
        connection = _connect(Path(self._copy.name) / self.path.name)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection


def create_database(path: Path) -> sqlite3.Connection:
    """A new, empty database file for a schema to be put in; the caller closes it."""
    connection = _connect(path, "?mode=rwc")
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def choose_journal(connection: sqlite3.Connection, path: Path) -> str:
    """WAL where the file system grants it and keeps its promise, else a rollback journal."""
    for wanted in ("DELETE",) if is_network(path) else ("WAL", "DELETE"):
        with suppress(sqlite3.OperationalError):  # refused, or a reader is in the way
            (mode,) = connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()
            if mode.upper() == wanted:
                return str(mode)
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def is_network(path: Path) -> bool:
    """True where `path` surely lies on another machine's disk."""
    here, best = str(path.resolve()), ("", "")
    with suppress(OSError, psutil.Error):
        for part in psutil.disk_partitions(all=True):
            inside = here == part.mountpoint or here.startswith(part.mountpoint.rstrip(os.sep) + os.sep)
            if inside and len(part.mountpoint) >= len(best[0]):
                best = (part.mountpoint, "remote" if "remote" in part.opts else part.fstype.lower())
    return best[1].startswith(NETWORK)


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Say SQLite's errors in words that a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise
        spoken = _in_words(error, path)
        if spoken is None:
            raise
        raise spoken from error


def _in_words(error: sqlite3.Error, path: Path) -> NoisyLabelError | None:
    code = getattr(error, "sqlite_errorname", "")
    if code == "SQLITE_FULL" or code in (
        "SQLITE_IOERR_WRITE",
        "SQLITE_IOERR_SHMSIZE",
        "SQLITE_IOERR_TRUNCATE",
    ):
        return DiskFull(no_room(path))
    if code.startswith("SQLITE_READONLY"):
        return ReadOnlyProject(f"{path} cannot be written. Open the project read-only, or ask for permission to write.")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return ProjectLocked(
            f"{path} is in use by another program for more than {BUSY_S:.0f} s. Try again, or close it there."
        )
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return NotAProject(f"{path} is damaged: {error}. Restore the project folder from a copy.")
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return UnreadableFile(f"{path} cannot be read or written: {error}. Check the folder and its permissions.")
    return None


def _open_writer(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise NotAProject(f"{path} is missing. Open the folder that `noisylabel new` made.")
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise ReadOnlyProject(
            f"{path.parent} may not be written by you. Open the project read-only, or ask for permission."
        )
    connection = _connect(path, "?mode=rw")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        # A project in WAL mode that was moved to a share: without a shared index, WAL can be
        # read by one connection alone (https://sqlite.org/wal.html#noshm), which then leaves it.
        if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR_SHM", "SQLITE_PROTOCOL")):
            connection.close()
            raise
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA locking_mode=NORMAL")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _connect(path: Path, query: str = "?mode=rw") -> sqlite3.Connection:
    connection = sqlite3.connect(
        path.absolute().as_uri() + query,
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,  # transactions begin where `writing` says so
        check_same_thread=False,
    )
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection
