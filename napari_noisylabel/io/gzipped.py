"""Plain bytes of a file that may be gzipped, straight into an array, with bounds.

A third faster than `gzip` (and so than nibabel) on a CT: the result's size is known beforehand, so
the bytes go to their place at once. With the optional package `isal`, twice as fast again.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_noisylabel.io.files import damaged

try:
    from isal import isal_zlib as inflater  # same interface as zlib
except ImportError:
    inflater = zlib

MAGIC = b"\x1f\x8b"
MAX_RATIO = 1040  # deflate cannot do better than 1032 : 1, https://zlib.net/zlib_tech.html
BLOCK = 1 << 18
LEVEL = 1  # as nibabel: labels pack well at any level, and level 6 takes three times as long


def open_plain(path: Path) -> IO[bytes]:
    """A stream of the file's plain bytes."""
    return gzip.open(path, "rb") if is_gzipped(path) else path.open("rb")  # type: ignore[return-value]


def is_gzipped(path: Path) -> bool:
    """True where the content is gzip, whatever the name says."""
    with path.open("rb") as file:
        return file.read(2) == MAGIC


def check_size(path: Path, n_bytes: int) -> None:
    """Refuse a file that is too small to hold the bytes its header speaks of, before memory is taken."""
    size = path.stat().st_size
    most = size * MAX_RATIO if is_gzipped(path) else size
    if n_bytes > most:
        raise damaged(path, "NIfTI", f"it should hold {n_bytes} bytes and can hold at most {most}")


def read_plain(path: Path, offset: int, n_bytes: int) -> np.ndarray:
    """`n_bytes` plain bytes from `offset` on, as (n_bytes,) uint8; gzip's check sum is verified."""
    if not is_gzipped(path):
        data = np.fromfile(path, dtype=np.uint8, count=n_bytes, offset=offset)
        return _whole(path, data, data.size)
    data = np.empty(offset + n_bytes, dtype=np.uint8)
    with path.open("rb") as file:
        filled = _inflate_into(data.data, file)
    return _whole(path, data, filled)[offset:]


def compress(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The gzip stream of `pieces`. No name and no time in it: same voxels, same bytes."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _inflate_into(room: memoryview, file: IO[bytes]) -> int:
    """Fill `room` from a gzip stream of one or more members; what comes after `room` is full is dropped."""
    filled = 0
    stream: Any = None
    while block := file.read(BLOCK):
        while block:
            if stream is None:
                if filled == len(room) or block.strip(b"\0") == b"":
                    return filled  # further members, or padding, hold nothing that the header speaks of
                stream = inflater.decompressobj(31)
            piece = stream.decompress(block)[: len(room) - filled]
            room[filled : filled + len(piece)] = piece
            filled += len(piece)
            if not stream.eof:
                break
            block, stream = stream.unused_data, None
    if stream is not None:
        raise EOFError("it ends before its end mark")
    return filled


def _whole(path: Path, data: np.ndarray, filled: int) -> np.ndarray:
    if filled < data.size or data.size == 0:
        raise damaged(path, "NIfTI", f"it ends after {filled} bytes of {data.size}")
    return data
