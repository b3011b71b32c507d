"""What the person says about cases in files of their own: split, groups, tags."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from napari_noisylabel.errors import BadSetting, UnreadableFile
from napari_noisylabel.io.files import reading
from napari_noisylabel.io.volumes import case_id
from napari_noisylabel.records import FINDINGS

PARTS = {"train": "", "training": "", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of parts in a split file, and what `Case.held_out` calls them."""

MOST_BYTES = 64 << 20


def read_split(path: Path | str) -> dict[str, str]:
    """`held_out` per case id: "" for training, else "val" or "test".

    The file is JSON: `{"train": {"cases": [...]}, "val": ..., "test": ...}`, or with plain lists.
    Other keys are notes.

    Raises
    ------
    UnreadableFile : not there, no JSON.
    BadSetting : no part in it, or a case in two parts.
    """
    path = Path(path)
    try:
        document = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UnreadableFile(f"a split must be JSON, and {path} is not: {error}. Correct it.") from error
    parts = document if isinstance(document, dict) else {}
    split: dict[str, str] = {}
    for key, held_out in PARTS.items():
        for name in _cases_of(parts.get(key, []), path):
            if split.setdefault(name, held_out) != held_out:
                raise BadSetting(f"a case must be in one part only, but {name!r} is in two of {path}.")
    if not split:
        raise BadSetting(f'a split must list cases under "train", "val" or "test", and {path} does not. Correct it.')
    return split


def read_groups(source: Path | str, ids: Iterable[str]) -> dict[str, str]:
    """Group (person) per case id, from a CSV file or a regular expression.

    A CSV has the case in its first column and the group in its second; a header is skipped. The
    first bracket of an expression, or all that it finds, is the group: `(patient\\d+)_frame`.

    Raises
    ------
    BadSetting : no valid expression, or a case without group.
    UnreadableFile : the CSV is not there or cannot be read.
    """
    ids = list(ids)
    if str(source).lower().endswith(".csv") or Path(source).is_file():
        rows = {case_id(row[0]): row[1] for row in _rows(Path(source)) if len(row) > 1}
        groups = {name: rows[name] for name in ids if rows.get(name)}
    else:
        pattern = _pattern(str(source))
        matches = {name: pattern.search(name) for name in ids}
        found = {name: m.group(1 if pattern.groups else 0) for name, m in matches.items() if m}
        groups = {name: group for name, group in found.items() if group}
    _require_all(ids, groups, f"a group by {source}")
    return groups


def read_tags(path: Path | str) -> dict[str, dict[str, str]]:
    """Image-level tags per case id, from a CSV: first row the names of the tags, first column the case.

    An empty cell says nothing, but in the column "findings": there it says that nothing was found. Findings
    of a case that has several rows are joined.
    """
    rows = _rows(Path(path))
    if len(rows) < 2 or len(rows[0]) < 2:
        raise BadSetting(
            f"tags must be a table with a header, a column of cases and one column per tag; {path} is not."
        )
    names = [FINDINGS if name.lower() == FINDINGS else name for name in rows[0][1:]]
    tags: dict[str, dict[str, str]] = {}
    for row in rows[1:]:
        cells = dict(zip(names, [*row[1:], *[""] * len(names)], strict=False))
        own = tags.setdefault(case_id(row[0]), {})
        before = own.get(FINDINGS)
        own.update({k: v for k, v in cells.items() if v or k == FINDINGS})
        if before:
            own[FINDINGS] = "; ".join(filter(None, (before, cells[FINDINGS])))
    return tags


def _cases_of(part: Any, path: Path) -> list[str]:
    cases = part.get("cases", []) if isinstance(part, Mapping) else part
    if not isinstance(cases, list) or not all(isinstance(name, str) for name in cases):
        raise BadSetting(f"a part of a split must be a list of case names, and one in {path} is not.")
    return [case_id(name) for name in cases]


def _rows(path: Path) -> list[list[str]]:
    text = _text(path)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    with reading(path, "CSV", csv.Error):
        rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]


def _text(path: Path) -> str:
    with reading(path, "text", UnicodeDecodeError):
        if path.stat().st_size > MOST_BYTES:
            raise UnreadableFile(f"{path} is larger than {MOST_BYTES >> 20} MB and surely no list of cases.")
        return path.read_text(encoding="utf-8-sig")


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise BadSetting(
            f"groups must be a CSV file or a regular expression, and {text!r} is neither: {error}."
        ) from error


def _require_all(ids: list[str], known: Mapping[str, str], what: str) -> None:
    missing = [name for name in ids if name not in known]
    if missing:
        raise BadSetting(
            f"every case must get {what}, but {len(missing)} do not, {missing[0]!r} first. "
            "Correct the table or the expression."
        )
