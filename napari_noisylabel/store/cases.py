"""Cases and their source files, as rows."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import BadSetting, NotAProject, UnknownName
from napari_noisylabel.records import Case, SourceFile
from napari_noisylabel.store.database import Database
from napari_noisylabel.store.files import plain_name


def insert_cases(connection: sqlite3.Connection, cases: Sequence[Case], folder: Path) -> None:
    """Store `cases` in their order.

    Raises
    ------
    BadSetting : an id twice, or one that is no plain name.
    """
    seen: set[str] = set()
    for case in cases:
        plain_name(case.id, "a case id")
        if case.id in seen:
            raise BadSetting(f"case ids must differ, and {case.id!r} comes twice. Rename one of the files.")
        seen.add(case.id)
        connection.execute("INSERT OR IGNORE INTO groups VALUES (?)", (case.group,))
        connection.execute(
            "INSERT INTO cases (id, group_id, held_out, geometry, tags) VALUES (?, ?, ?, ?, ?)",
            (case.id, case.group, case.held_out, _geometry_text(case.geometry), json.dumps(dict(case.tags))),
        )
        connection.executemany(
            "INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(case.id, kind, name, *_file_row(file, folder)) for kind, name, file in _files(case)],
        )


def load_cases(database: Database, folder: Path) -> tuple[Case, ...]:
    """All cases, in the order in which they were given."""
    files: dict[tuple[str, str], dict[str, SourceFile]] = defaultdict(dict)
    for case_id, kind, name, path, size, mtime_ns, sha256 in database.rows(
        "SELECT case_id, kind, name, path, size, mtime_ns, sha256 FROM sources"
    ):
        files[case_id, kind][name] = SourceFile(_path(path, folder), size, mtime_ns, sha256)
    rows = database.rows("SELECT id, group_id, geometry, tags, held_out FROM cases ORDER BY position")
    return tuple(
        Case(
            id=plain_name(case_id, "a case id"),
            group=group,
            geometry=_geometry(geometry),
            images=tuple(file for _, file in sorted(files[case_id, "image"].items(), key=lambda f: int(f[0]))),
            labels=files[case_id, "label"],
            raters=files[case_id, "rater"],
            tags=json.loads(tags),
            held_out=held_out,
        )
        for case_id, group, geometry, tags, held_out in rows
    )


def replace_source(
    connection: sqlite3.Connection, case_id: str, file: SourceFile, replaces: Path, folder: Path
) -> None:
    """Put `file` in the place of the file of `case_id` whose path is `replaces`.

    Raises
    ------
    UnknownName : the case has no such file.
    """
    changed = connection.execute(
        "UPDATE sources SET path = ?, size = ?, mtime_ns = ?, sha256 = ? WHERE case_id = ? AND path = ?",
        (*_file_row(file, folder), case_id, _path_text(replaces, folder)),
    ).rowcount
    if not changed:
        raise UnknownName(f"case {case_id!r} has no file {replaces}. Name one of its images or labels.")


def _files(case: Case) -> Iterable[tuple[str, str, SourceFile]]:
    yield from (("image", str(channel), file) for channel, file in enumerate(case.images))
    yield from (("label", track, file) for track, file in case.labels.items())
    yield from (("rater", name, file) for name, file in case.raters.items())


def _file_row(file: SourceFile, folder: Path) -> tuple[str, int, int, str]:
    return _path_text(file.path, folder), file.size, file.mtime_ns, file.sha256


def _path_text(path: Path, folder: Path) -> str:
    """Relative for a file inside the project, so that the folder can be moved with it."""
    path = path.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _path(text: str, folder: Path) -> Path:
    path = Path(text)
    if path.is_absolute():
        return path
    if ".." in path.parts:
        raise NotAProject(
            f"a path inside a project must stay inside it, {folder} names {text!r}. Do not use this project."
        )
    return folder / path


def _geometry_text(geometry: Geometry) -> str:
    return json.dumps({"shape": geometry.shape, "affine": geometry.affine, "unit": geometry.unit})


def _geometry(text: str) -> Geometry:
    value = json.loads(text)
    affine = tuple(tuple(float(x) for x in row) for row in value["affine"])
    return Geometry(tuple(int(n) for n in value["shape"]), affine, value["unit"])
