"""PNG: grey, palette and colour, 1 to 16 bits.

Labels are written with the chunks of their source (palette, resolution, text) as they are and
only the pixels anew, at the source's bit depth; Pillow would turn 2 and 4 bits into 8.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import BadLabels, ExportRefused
from napari_noisylabel.io import flat
from napari_noisylabel.io.files import damaged, reading, write_whole
from napari_noisylabel.io.format import Format, Header, Volume
from napari_noisylabel.io.values import check_fits

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel, by the colour type of the header
PALETTE = 3


def read_header(path: Path) -> Header:
    """Shape, bit depth and channels of a PNG; reads no pixels."""
    with reading(path, "PNG", struct.error), path.open("rb") as file:
        start = file.read(33)
    if len(start) < 33 or start[:8] != SIGNATURE or start[12:16] != b"IHDR":
        raise damaged(path, "PNG", "its header is missing")
    width, height, depth, colour = struct.unpack(">IIBB", start[16:26])
    dtype = "uint16" if depth == 16 else "uint8"
    return Header(flat.pixel_grid((height, width)), dtype, 1 if colour in (0, 4) else 3)


def read_image(path: Path) -> Volume:
    """The pixels as (C, Y, X); 16-bit colour comes as 8 bits."""
    _read_chunks(path)
    return flat.read_picture(path, "PNG")


def read_labels(path: Path) -> Volume:
    """The stored values as (Y, X): grey levels, palette indices, or one number per colour."""
    depth, colour = struct.unpack(">BB", dict(_read_chunks(path))[b"IHDR"][8:10])
    if depth == 16 and colour != 0:
        raise BadLabels(f"colour labels must have 8 bits per channel, but {path} has 16. Save class numbers.")
    with flat.opened(path, "PNG") as picture:
        array = flat.samples(picture)
    if array.ndim == 3:
        array = flat.colour_values(array, path)
    elif colour == 0 and depth in (2, 4):
        array = array // (255 // (2**depth - 1))  # Pillow stretches them to 0-255
    return Volume(array, flat.pixel_grid(array.shape), "uint16" if depth == 16 else "uint8")


def write_labels(source: Path, values: np.ndarray, out: Path) -> None:
    """Write `values`, (Y, X), with the chunks, bit depth, palette and colour type of `source`."""
    chunks = _read_chunks(source)
    header = dict(chunks)[b"IHDR"]
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    flat.require_shape(values, (height, width), source)
    if colour in (2, 4, 6):
        samples = flat.colours(values, CHANNELS[colour])
    else:
        n_values = len(dict(chunks)[b"PLTE"]) // 3 if colour == PALETTE else 2**depth
        if values.min(initial=0) < 0 or values.max(initial=0) >= n_values:
            raise ExportRefused(
                f"{source} can hold the values 0 to {n_values - 1}, but the labels reach {values.max()}. "
                "Export to a format that holds them."
            )
        samples = values
    write_whole(out, _assemble(chunks, _pack(samples, depth)))


def write_like(grid: Path, array: np.ndarray, out: Path) -> None:
    """Write `array`, (Y, X), as a grey PNG of its own depth on the grid of the image `grid`."""
    write_new(array, flat.pixel_grid(array.shape), out)


def write_new(array: np.ndarray, geometry: Geometry, out: Path) -> None:
    """Write `array`, (Y, X) or colour (Y, X, 3), to a new PNG: 8 bits, or 16 where 8 do not hold it."""
    flat.require_shape(array[..., 0] if array.ndim == 3 else array, geometry.shape, out)
    wide = array.max(initial=0) > 255
    samples = check_fits(array, np.dtype(np.uint16 if wide else np.uint8), str(out))
    depth = 16 if wide else 8
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, 2 if array.ndim == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
    write_whole(out, _assemble(chunks, _pack(samples, depth)))


def _read_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    """Names and contents of all chunks, check sums verified: Pillow lets some damage pass."""
    read_header(path)
    with reading(path, "PNG", struct.error):
        data = path.read_bytes()
        chunks: list[tuple[bytes, bytes]] = []
        at = len(SIGNATURE)
        while not chunks or chunks[-1][0] != b"IEND":
            (length,) = struct.unpack_from(">I", data, at)
            (check_sum,) = struct.unpack_from(">I", data, at + 8 + length)
            body = data[at + 4 : at + 8 + length]
            if zlib.crc32(body) != check_sum:
                raise damaged(path, "PNG", f"the check sum of a part is wrong (byte {at})")
            chunks.append((body[:4], body[4:]))
            at += 12 + length
    return chunks


def _assemble(chunks: list[tuple[bytes, bytes]], pixels: bytes) -> Iterator[bytes]:
    yield SIGNATURE
    packed: bytes | None = zlib.compress(pixels, 6)
    for name, payload in chunks:
        if name == b"IDAT":
            if packed is None:
                continue
            payload, packed = packed, None
        if name == b"IHDR":
            payload = payload[:12] + b"\0"  # never interlaced
        yield struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def _pack(samples: np.ndarray, depth: int) -> bytes:
    rows = samples.reshape(samples.shape[0], -1)
    if depth == 16:
        packed = np.ascontiguousarray(rows, dtype=">u2").view(np.uint8)
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(rows.shape[0], -1), axis=1)
    packed = packed.reshape(rows.shape[0], -1)
    return np.pad(packed, ((0, 0), (1, 0))).tobytes()  # each row starts with its filter: none


FORMAT = Format("PNG", (".png",), read_header, read_image, read_labels, write_labels, write_like, write_new)
