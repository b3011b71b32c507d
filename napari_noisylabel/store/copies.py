"""A copy of a project to try things on: its decisions, its regions and some of its runs, never its images."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from napari_noisylabel.store.database import database_errors
from napari_noisylabel.store.files import disk_errors
from napari_noisylabel.store.manifest import DATABASE_FILE, MANIFEST_FILE
from napari_noisylabel.store.project import ProjectStore

RUNS = "runs"


def copy_project(store: ProjectStore, folder: Path, runs: Iterable[str] = ()) -> Path:
    """Copy an open project into `folder`, which is not there yet, with the files of these runs.

    Images and labels stay where they are, and are read from there. Returns the folder.

    Raises
    ------
    DiskFull, ReadOnlyProject : it cannot be written.
    """
    with disk_errors(folder):
        (folder / RUNS).mkdir(parents=True)
        shutil.copy2(store.folder / MANIFEST_FILE, folder / MANIFEST_FILE)
        for run in runs:
            shutil.copytree(store.run_folder(run), folder / RUNS / run)
    source = f"{(store.folder / DATABASE_FILE).as_uri()}?mode=ro"
    with (
        database_errors(folder / DATABASE_FILE),
        closing(sqlite3.connect(source, uri=True)) as theirs,
        closing(sqlite3.connect(folder / DATABASE_FILE)) as own,
    ):
        theirs.backup(own)
        inside = [text for (text,) in own.execute("SELECT path FROM sources") if not Path(text).is_absolute()]
        moved = [(str(store.folder / text), text) for text in inside]
        own.executemany("UPDATE sources SET path = ? WHERE path = ?", moved)
        own.commit()
    return folder
