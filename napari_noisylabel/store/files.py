"""Small files written whole or not at all, and the errors of a file system in plain words."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from napari_noisylabel.errors import BadSetting, DiskFull, ReadOnlyProject, UnreadableFile

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
JSON_LIMIT = 256 * 2**20
"""Bytes. A larger JSON file is none of ours, and is not read into memory."""


def write_json(path: Path, value: Any, nan_as_null: bool = False, compact: bool = False) -> None:
    """Write `value` as JSON to `path`, so that a crash leaves the old file or the new one.

    Paths, NumPy scalars and arrays, tuples and sets are written as what JSON has for them.
    NaN and infinity are kept in the way that Python reads back; `nan_as_null` makes them null,
    for files that other programs read. `compact` writes it on one line, many times faster.

    Raises
    ------
    DiskFull, ReadOnlyProject : the file cannot be written.
    """
    text = as_json(_finite(value) if nan_as_null else value, indent=None if compact else 1) + "\n"
    write_bytes(Path(path), text.encode("utf-8"))


def as_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON; what it takes is said at `write_json`."""
    return json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` aside, force it to the disk, rename: the whole file or none.

    Raises
    ------
    DiskFull, ReadOnlyProject : the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.partial")
    with disk_errors(path):
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises
    ------
    UnreadableFile : missing, not permitted, too large, or no JSON.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > JSON_LIMIT:
            raise UnreadableFile(f"a JSON file must be below 256 MiB, {path} has {size} bytes. Is it the right one?")
        return json.loads(path.read_bytes())
    except OSError as error:
        if isinstance(error, UnreadableFile):
            raise
        raise UnreadableFile(
            f"{path} cannot be read: {error.strerror}. Check that it exists and may be read."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path} must be JSON and is not: {error}. Restore it from a copy.") from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in plain words what keeps the program from writing `path`.

    Raises
    ------
    DiskFull : no room, or a quota is used up.
    ReadOnlyProject : the folder may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(no_room(path)) from error
        if error.errno in NOT_ALLOWED:
            raise ReadOnlyProject(
                f"{path} cannot be written: {error.strerror}. Ask for permission, or use another folder."
            ) from error
        raise


def no_room(path: Path) -> str:
    """The sentence for a device without room."""
    return f"no room left on the device to write {path}. Free some space, then do it again."


def sync_folder(folder: Path) -> None:
    """Force a folder's list of files to the disk, where the system can."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some network shares refuse to sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def plain_name(name: str, what: str) -> str:
    """`name`, if it can name a file in a folder without leading out of it.

    Raises
    ------
    BadSetting : empty, hidden, too long, or with a path in it.
    """
    bad = not name or name.startswith(".") or len(name.encode()) > 200 or any(c in name for c in "/\\\0\n\r")
    if bad:
        raise BadSetting(f"{what} must be a plain name without a path in it, got {name!r}. Rename it.")
    return name


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _finite(value: Any) -> Any:
    if value is None or isinstance(value, str | int):  # nearly all, and asking for a Mapping is slow
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return _finite(value.tolist()) if hasattr(value, "tolist") else value
