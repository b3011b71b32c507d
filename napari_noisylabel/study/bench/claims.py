"""Who works at which cell: files that let several benches share one folder of results.

A claim is `NAME.1` and says which process made it. Where that process is gone, the next number is made; the
highest number counts. Two programs that find a stale claim at once make the same next file, and one of them
can: so nothing that lives is ever removed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from napari_noisylabel.store.files import disk_errors
from napari_noisylabel.store.lock import Holder, WriterLock, is_gone

PATIENCE_S = 60.0
"""A claim that cannot be read may be half written; after this long it is the trace of a crash."""


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """True for the one process that may work at `name` now; its claim ends with the block.

    Raises
    ------
    DiskFull, ReadOnlyProject : the folder cannot be written.
    """
    own = _claim(folder, name)
    try:
        yield own is not None
    finally:
        if own is not None:
            for path in _claims(folder, name):  # the stale ones below first, the one that counts last
                path.unlink(missing_ok=True)


def _claim(folder: Path, name: str) -> Path | None:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found = _claims(folder, name)
    if found and not _is_stale(found[-1]):
        return None
    path = folder / f"{name}.{_number(found[-1]) + 1 if found else 1}"
    try:
        with disk_errors(path), open(path, "x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(WriterLock(folder).holder)))
    except FileExistsError:
        return None
    return path


def _claims(folder: Path, name: str) -> list[Path]:
    own = [p for p in folder.glob("*.*") if p.name.rpartition(".")[0] == name and p.suffix[1:].isdigit()]
    return sorted(own, key=_number)


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _is_stale(path: Path) -> bool:
    try:
        return is_gone(Holder(**json.loads(path.read_text("utf-8"))))
    except FileNotFoundError:  # its owner is done
        return True
    except (OSError, ValueError, TypeError):
        return _age_s(path) > PATIENCE_S


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return PATIENCE_S + 1
