"""Maps of a case on disk: zarr arrays, one slice per chunk, one file of data per array.

A map gets a new name per version: `score.v3.zarr` is written aside, forced to the disk,
renamed, and only then marked as complete. Whoever reads takes the latest complete version, so a
crash leaves the one before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from napari_noisylabel.errors import ShapeMismatch, UnreadableFile
from napari_noisylabel.store.files import (
    as_json,
    disk_errors,
    plain_name,
    read_json,
    sync_folder,
    write_bytes,
)

COMPLETE = "complete"
T = TypeVar("T")
TYPES = frozenset(
    ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
)
CODECS = frozenset(("sharding_indexed", "bytes", "blosc", "zstd", "gzip", "crc32c", "transpose"))
"""Codecs that a map may name. Others exist that unpickle, and a project may come from anyone."""


def write_map(folder: Path, name: str, array: np.ndarray, attrs: Mapping[str, Any] | None = None) -> Path:
    """Write the next version of map `name` in `folder`; its path once it is complete.

    Parameters
    ----------
    array : (*spatial) or (K, *spatial) numbers; the last two axes are one chunk.
    attrs : JSON values to keep with it.

    Earlier versions are removed then. Whoever still reads one gets an error, not zeros.

    Raises
    ------
    ShapeMismatch : no voxels, or fewer than one axis. BadSetting : `name` is no plain name.
    DiskFull, ReadOnlyProject : it cannot be written; the version before stays.
    """
    plain_name(name, "a map's name")
    if not array.ndim or not array.size or array.dtype.name not in TYPES:
        raise ShapeMismatch(f"a map must hold numbers, got shape {array.shape} of {array.dtype}, map {name!r}.")
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.v{max((v for v, _ in _versions(folder, name)), default=0) + 1}.zarr"
        aside = folder / f".{path.name}.{os.getpid()}.partial"
        try:
            _write_array(aside, array, dict(attrs or {}))
            aside.rename(path)
            sync_folder(folder)
            write_bytes(path / COMPLETE, b"")
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)
            raise
    _remove_others(folder, name, path)
    return path


def open_map(folder: Path, name: str) -> zarr.Array | None:
    """The latest complete version of map `name`, to be read slice by slice; None if there is none.

    Raises
    ------
    UnreadableFile : it is damaged, or of a kind that this program does not write. Also later,
        from the array itself, once the version was removed.
    """
    return _latest(folder, name, lambda array: array)


def read_map(folder: Path, name: str, shape: Sequence[int] | None = None) -> np.ndarray | None:
    """All of the latest complete version of map `name`, an array of its own; None if there is none.

    Raises
    ------
    ShapeMismatch : its shape is not `shape`; checked before memory is taken.
    UnreadableFile : as `open_map`.
    """

    def read(array: zarr.Array) -> np.ndarray:
        if shape is not None and tuple(array.shape) != tuple(shape):
            raise ShapeMismatch(
                f"map {name!r} in {folder} has shape {tuple(array.shape)}, its case {tuple(shape)}. "
                "Run the training again."
            )
        return np.asarray(array[...])

    return _latest(folder, name, read)


def map_path(folder: Path, name: str) -> Path | None:
    """Where the latest complete version of map `name` lies, or None."""
    plain_name(name, "a map's name")
    complete = [(v, path) for v, path in _versions(Path(folder), name) if (path / COMPLETE).is_file()]
    return max(complete)[1] if complete else None


def _latest(folder: Path, name: str, use: Callable[[zarr.Array], T]) -> T | None:
    """What `use` makes of the latest version, taken again where a newer one came between."""
    while (path := map_path(folder, name)) is not None:
        try:
            _check_kind(path)
            return use(zarr.open_array(_StrictStore(path, read_only=True), mode="r", zarr_format=3))
        except ShapeMismatch:
            raise
        except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
            if not (path / COMPLETE).is_file():
                continue
            if isinstance(error, UnreadableFile):
                raise
            raise UnreadableFile(f"map {path} is damaged: {error}. Run the training again.") from error
    return None


class _StrictStore(LocalStore):
    """A folder in which missing data is an error; zarr would read zeros where a file is gone."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is None and key.startswith("c/"):
            raise UnreadableFile(f"map {self.root} was replaced by a newer version. Open it again.")
        return found


def _versions(folder: Path, name: str) -> list[tuple[int, Path]]:
    pattern = re.compile(re.escape(name) + r"\.v(\d{1,9})\.zarr")
    with suppress(FileNotFoundError):
        found = ((pattern.fullmatch(path.name), path) for path in folder.iterdir())
        return [(int(match[1]), path) for match, path in found if match]
    return []


def _write_array(path: Path, array: np.ndarray, attrs: dict[str, Any]) -> None:
    shutil.rmtree(path, ignore_errors=True)
    target = zarr.create_array(
        path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(1,) * (array.ndim - 2) + array.shape[-2:],
        shards=array.shape,  # all chunks in one file: cases are many
        compressors=BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"),
        attributes=json.loads(as_json(attrs)),
        config={"write_empty_chunks": True},  # so that a missing file is always an error
    )
    target[...] = array
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _remove_others(folder: Path, name: str, keep: Path) -> None:
    for _, path in _versions(folder, name):
        if path != keep:
            with suppress(OSError):  # Windows keeps what someone reads; the next version tries again
                (path / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f".{_escaped(name)}.v*.zarr.*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _escaped(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)


def _check_kind(path: Path) -> None:
    content = read_json(path / "zarr.json")
    try:
        kind = (content["zarr_format"], content["node_type"], content["data_type"] in TYPES)
        codecs = set(_codec_names(content["codecs"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableFile(f"map {path} is damaged: {error} is missing. Run the training again.") from error
    if kind != (3, "array", True) or codecs - CODECS:
        raise UnreadableFile(f"map {path} is of a kind that this program does not write. Do not use this project.")


def _codec_names(codecs: Sequence[Mapping[str, Any]]) -> list[str]:
    names = []
    for codec in codecs:
        names.append(codec["name"])
        for inner in ("codecs", "index_codecs"):
            names += _codec_names(codec.get("configuration", {}).get(inner, ()))
    return names
