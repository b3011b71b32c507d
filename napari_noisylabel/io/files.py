"""Bytes from and to the disk: reading with errors in words, writing all or nothing, hashes."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_noisylabel.errors import (
    DiskFull,
    ExportRefused,
    NoisyLabelError,
    SourceChanged,
    UnreadableFile,
)
from napari_noisylabel.records import SourceFile

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def reading(path: Path, kind: str, *also: type[Exception]) -> Iterator[None]:
    """Turn what goes wrong while `path` is read into one sentence. `also`: errors that mean damage."""
    try:
        yield
    except NoisyLabelError:
        raise
    except PermissionError as error:
        raise UnreadableFile(
            f"{path} may not be read: permission denied. Ask its owner for the right to read it."
        ) from error
    except FileNotFoundError as error:
        raise UnreadableFile(f"{path} is not there. Put it back, or correct the path.") from error
    except Exception as error:
        if not isinstance(error, (OSError, EOFError, ValueError, *also)):
            raise
        raise damaged(path, kind, str(error) or type(error).__name__) from error


def damaged(path: Path, kind: str, why: str) -> UnreadableFile:
    """The error for a file that is truncated, corrupt or of another kind."""
    why = " ".join(why.split())[:200]
    return UnreadableFile(f"{path} is not a whole {kind} file: {why}. Copy it again from its origin.")


def list_folder(folder: Path) -> list[Path]:
    """The files right in `folder`, hidden ones left out, sorted by name."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    except FileNotFoundError as error:
        raise UnreadableFile(f"the folder {folder} is not there. Correct the path.") from error
    except NotADirectoryError as error:
        raise UnreadableFile(f"{folder} is a file, and a folder is needed. Give its folder.") from error
    except OSError as error:
        raise UnreadableFile(
            f"the folder {folder} cannot be read: {error.strerror}. Ask its owner for the right to read it."
        ) from error


def write_whole(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write `pieces` to `path` all or nothing: aside first, then renamed. Folders are made.

    Raises
    ------
    DiskFull : no room left; nothing is left behind.
    ExportRefused : the folder may not be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
    except NoisyLabelError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(
                f"no room left on the device while writing {path}; nothing was left half written. "
                "Free some space, or choose another folder."
            ) from error
        raise ExportRefused(
            f"{path} cannot be written: {error.strerror or error}. Choose a folder on which you may write."
        ) from error


# ---------------------------------------------------------------- a file as it was


def source_file(path: Path) -> SourceFile:
    """Size, time and SHA-256 of a file, as the project remembers it."""
    path = path.absolute()
    with reading(path, "readable"):
        stat = path.stat()
        return SourceFile(path, stat.st_size, stat.st_mtime_ns, file_hash(path))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with reading(path, "readable"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def looks_changed(source: SourceFile) -> bool:
    """True where size or time differ from what was remembered, or the file is gone. Cheap: no hash."""
    try:
        stat = source.path.stat()
    except OSError:
        return True
    return (stat.st_size, stat.st_mtime_ns) != (source.size, source.mtime_ns)


def hash_matches(source: SourceFile) -> bool:
    """True where the file's bytes are those that the project was made from."""
    with reading(source.path, "readable"):
        same_size = source.path.stat().st_size == source.size
    return same_size and file_hash(source.path) == source.sha256


def require_unchanged(source: SourceFile) -> Path:
    """The path of a given file, once its bytes are known to be those that the project was made from."""
    if not hash_matches(source):
        raise SourceChanged(
            f"{source.path} is not the file that the project was made from: its content changed since. "
            "Put the old file back, or make a new project."
        )
    return source.path
