"""What the 2-D image formats share: a grid without millimetres, and colours as label values."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import BadLabels, ExportRefused
from napari_noisylabel.io.files import reading
from napari_noisylabel.io.format import Volume

COLOUR = 1 << 24  # a coloured label pixel has the value COLOUR | 0xRRGGBB, a grey one its grey level

# (z, y, x, 1) to millimetres where nobody knows them: one pixel is one unit, x to the right
PIXELS = ((0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def pixel_grid(shape: tuple[int, ...]) -> Geometry:
    """The grid of an image whose size in millimetres nobody knows; (Y, X) = `shape`."""
    return Geometry(tuple(int(n) for n in shape), PIXELS, "px")


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """The file as Pillow sees it, if it is of `kind` ("PNG", "JPEG", "TIFF"); damage in one sentence."""
    with (
        reading(path, kind, SyntaxError, struct.error, IndexError, KeyError, Image.DecompressionBombError),
        Image.open(path, formats=(kind,)) as picture,
    ):
        yield picture


def read_picture(path: Path, kind: str) -> Volume:
    """An image as (C, Y, X): grey as it is stored, palettes and other colour spaces as RGB, no alpha."""
    with opened(path, kind) as picture:
        plain = {"P": "RGB", "PA": "RGB", "LA": "L", "La": "L"}.get(picture.mode)
        if plain is None and picture.mode not in ("1", "L", "I", "F", "RGB") and ";" not in picture.mode:
            plain = "RGB"
        array = samples(picture.convert(plain) if plain else picture)
    return channels_first(array)


def samples(picture: Image.Image) -> np.ndarray:
    """Pillow's pixels as an array; 1-bit pixels are 0 and 1 (Pillow keeps them as 0 and 255)."""
    array = np.asarray(picture)
    return (array != 0).astype(np.uint8) if picture.mode == "1" else array


def channels_first(array: np.ndarray) -> Volume:
    """A volume (C, Y, X) from (Y, X) or (Y, X, C)."""
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    return Volume(np.ascontiguousarray(planes), pixel_grid(planes.shape[1:]), planes.dtype.name)


def colour_values(array: np.ndarray, path: Path) -> np.ndarray:
    """One integer per pixel of an 8-bit colour image (Y, X, 2 to 4 channels); alpha must be opaque."""
    if array.dtype != np.uint8:
        raise BadLabels(f"colour labels must have 8 bits per channel, but {path} has {array.dtype.name}.")
    n_channels = array.shape[-1]
    if n_channels in (2, 4) and (array[..., -1] != 255).any():
        raise BadLabels(f"labels must be opaque, but {path} is partly transparent. Save it without alpha.")
    if n_channels == 2:
        return array[..., 0]
    red, green, blue = (array[..., i].astype(np.int32) for i in range(3))
    grey = (red == green) & (green == blue)
    return np.where(grey, red, COLOUR | red << 16 | green << 8 | blue)


def colours(values: np.ndarray, n_channels: int) -> np.ndarray:
    """(Y, X, C) uint8 from the integers of `colour_values`, opaque."""
    grey = values < 256
    known = grey if n_channels == 2 else grey | (values >> 24 == 1)
    if values.min(initial=0) < 0 or not known.all():
        raise ExportRefused("a label value is no colour of the source's kind. Export to another format.")
    planes = [np.where(grey, values, values >> shift & 255) for shift in (16, 8, 0)]
    if n_channels == 2:
        planes = [values]
    if n_channels in (2, 4):
        planes.append(np.full_like(values, 255))
    return np.stack(planes, axis=-1).astype(np.uint8)


def require_shape(array: np.ndarray, shape: tuple[int, ...], source: Path) -> None:
    """Refuse an array that does not lie on the grid of its source."""
    if array.shape != tuple(shape):
        raise ExportRefused(
            f"an export must have the grid of its source, but the array is {array.shape} "
            f"and {source} is {tuple(shape)}."
        )
