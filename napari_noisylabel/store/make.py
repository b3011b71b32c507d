"""Make a project folder, so that it is one only when it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from napari_noisylabel.errors import ProjectExists
from napari_noisylabel.records import Case, Track
from napari_noisylabel.store.cases import insert_cases
from napari_noisylabel.store.database import create_database, database_errors
from napari_noisylabel.store.files import disk_errors, sync_folder
from napari_noisylabel.store.manifest import DATABASE_FILE, MANIFEST_FILE, Manifest, write_manifest
from napari_noisylabel.store.schema import APPLICATION_ID, migrate

ASIDE = f"{DATABASE_FILE}.new"


def make_project(folder: Path, name: str, tracks: Sequence[Track], cases: Sequence[Case]) -> None:
    """Make a project in `folder`, which must be absent or empty.

    The database is made aside and renamed last: until then the folder is no project, and making
    it can be tried again.

    Raises
    ------
    ProjectExists : the folder holds a project or other files.
    BadSetting : case ids or track names that are not plain or come twice.
    DiskFull, ReadOnlyProject : the folder cannot be written.
    """
    _refuse_used(folder)
    existed = folder.exists()
    with disk_errors(folder):
        try:
            (folder / "runs").mkdir(parents=True, exist_ok=True)
            _clear(folder)
            write_manifest(folder, Manifest(name, tuple(tracks)))
            _fill(folder / ASIDE, folder, cases)
            (folder / ASIDE).rename(folder / DATABASE_FILE)
        except BaseException:
            with suppress(OSError):
                _clear(folder)
                (folder / "runs").rmdir()
                if not existed:
                    folder.rmdir()
            raise
        sync_folder(folder)


def _fill(path: Path, folder: Path, cases: Sequence[Case]) -> None:
    with database_errors(path):
        connection = create_database(path)
        try:
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            migrate(connection)
            connection.execute("BEGIN IMMEDIATE")
            insert_cases(connection, cases, folder)
            connection.execute("COMMIT")
        finally:
            connection.close()


def _clear(folder: Path) -> None:
    for name in (MANIFEST_FILE, ASIDE, f"{ASIDE}-journal"):
        (folder / name).unlink(missing_ok=True)


def _refuse_used(folder: Path) -> None:
    """What an interrupted `make_project` left is no obstacle; it never had a database."""
    leftover = {MANIFEST_FILE, "runs", ASIDE, f"{ASIDE}-journal"}
    with disk_errors(folder), suppress(FileNotFoundError):
        found = sorted(path.name for path in folder.iterdir())
        if (folder / DATABASE_FILE).exists():
            raise ProjectExists(f"{folder} holds a project already. Open it, or choose another folder.")
        if set(found) - leftover or any(folder.glob("runs/*")):
            raise ProjectExists(
                f"a project needs an empty folder, and {folder} holds {found[0]!r}. Choose another one."
            )
