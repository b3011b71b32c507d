"""TIFF with one image: grey, palette or colour, any type; labels keep type, tags and compression.

Compressions that tifffile leaves to its optional codecs are read through Pillow, and written as
deflate, which every reader knows.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import BadImage, BadLabels, ExportRefused
from napari_noisylabel.io import flat
from napari_noisylabel.io.files import damaged, reading, write_whole
from napari_noisylabel.io.format import Format, Header, Volume
from napari_noisylabel.io.values import check_fits, whole_numbers

DAMAGE = (tifffile.TiffFileError, struct.error, IndexError, KeyError, RuntimeError)
MIN_IS_WHITE, RGB, PALETTE = 0, 2, 3
MOST_BYTES = 1 << 30  # of pixels; blank group 4 pages pack without bound, so size alone proves nothing
# Tags that tifffile writes itself, by number: how pixels lie in the file, the resolution, other directories.
OWN = frozenset(
    [254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 282, 283, 284, 296, 317, 320, 322, 323, 324]
    + [325, 330, 338, 339, 400, 32997, 32998, 34665, 34853, 40965]
)


def read_header(path: Path) -> Header:
    """Shape, type and channels of a TIFF; reads no pixels."""
    with reading(path, "TIFF", *DAMAGE), tifffile.TiffFile(path) as tiff:
        page = _only_page(tiff, path, BadImage)
        n_channels = 3 if page.photometric == PALETTE else min(page.samplesperpixel, 3)
        return Header(flat.pixel_grid((page.imagelength, page.imagewidth)), _dtype(page).name, n_channels)


def read_image(path: Path) -> Volume:
    """The pixels as (C, Y, X): grey as stored, palettes as RGB, alpha left out."""
    with reading(path, "TIFF", *DAMAGE), tifffile.TiffFile(path) as tiff:
        page = _only_page(tiff, path, BadImage)
        if page.photometric == PALETTE:
            return flat.read_picture(path, "TIFF")
        array = _pixels(page, path)
        if array.dtype.kind == "c":
            raise BadImage(f"an image must hold real numbers, but {path} holds {array.dtype.name}.")
        keep = 1 if page.samplesperpixel == 2 else 3
        return flat.channels_first(array[..., :keep] if array.ndim == 3 else array)


def read_labels(path: Path) -> Volume:
    """The stored values as (Y, X): grey levels, palette indices, or one number per colour."""
    with reading(path, "TIFF", *DAMAGE), tifffile.TiffFile(path) as tiff:
        page = _only_page(tiff, path, BadLabels)
        array = _pixels(page, path)
        dtype = _dtype(page).name
    array = flat.colour_values(array, path) if array.ndim == 3 else whole_numbers(array, str(path))
    return Volume(array, flat.pixel_grid(array.shape), dtype)


def write_labels(source: Path, values: np.ndarray, out: Path) -> None:
    """Write `values`, (Y, X), with the type, tags, byte order and compression of `source`."""
    with reading(source, "TIFF", *DAMAGE), tifffile.TiffFile(source) as tiff:
        page = _only_page(tiff, source, BadLabels)
        flat.require_shape(values, (page.imagelength, page.imagewidth), source)
        if page.bitspersample not in (1, 8, 16, 32, 64):
            raise ExportRefused(f"{source} has {page.bitspersample} bits per pixel, which cannot be written.")
        if page.samplesperpixel > 1:
            array = flat.colours(values, page.samplesperpixel)
        else:
            array = check_fits(values, _dtype(page), str(source))
        array = array.astype(bool) if page.bitspersample == 1 else array
        tags = [(t.code, t.dtype, t.count, t.value, True) for t in page.tags if t.code not in OWN]
        write_whole(
            out,
            _encoded(
                array,
                byteorder=tiff.byteorder,
                bigtiff=tiff.is_bigtiff,
                photometric=page.photometric,
                colormap=page.colormap if page.photometric == PALETTE else None,
                compression=None if page.compression == 1 else "zlib",
                extrasamples=page.extrasamples or None,
                resolution=(page.tags.valueof(282), page.tags.valueof(283)) if 282 in page.tags else None,
                resolutionunit=page.tags.valueof(296),
                extratags=tags,
            ),
        )


def write_like(grid: Path, array: np.ndarray, out: Path) -> None:
    """Write `array`, (Y, X), as a grey TIFF of its own type on the grid of the image `grid`."""
    write_new(array, flat.pixel_grid(array.shape), out)


def write_new(array: np.ndarray, geometry: Geometry, out: Path) -> None:
    """Write `array`, (Y, X) or colour (Y, X, 3), to a new TIFF."""
    flat.require_shape(array[..., 0] if array.ndim == 3 else array, geometry.shape, out)
    array = array.astype(np.uint8) if array.dtype == bool else array
    write_whole(out, _encoded(array, photometric=RGB if array.ndim == 3 else 1, compression="zlib"))


def _only_page(tiff: tifffile.TiffFile, path: Path, error: type[Exception]) -> tifffile.TiffPage:
    page = tiff.pages.first
    if len(tiff.pages) > 1 or page.imagedepth > 1:
        raise error(
            f"a TIFF must hold one 2-D image, but {path} holds {max(len(tiff.pages), page.imagedepth)}. "
            "Save a stack as NIfTI, or each image as a file of its own."
        )
    if page.nbytes > max(MOST_BYTES, 2000 * path.stat().st_size):
        raise damaged(path, "TIFF", f"its header speaks of {page.nbytes} bytes of pixels")
    return page


def _dtype(page: tifffile.TiffPage) -> np.dtype:
    return np.dtype(np.uint8) if page.bitspersample == 1 else np.dtype(page.dtype)


def _pixels(page: tifffile.TiffPage, path: Path) -> np.ndarray:
    """(Y, X) or (Y, X, C) as stored; nothing is inverted."""
    try:
        array = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        array = _through_pillow(page, path)
    if array.ndim == 3 and page.planarconfig == 2:
        array = np.moveaxis(array, 0, -1)
    array = array.astype(np.uint8) if array.dtype == bool else array
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _through_pillow(page: tifffile.TiffPage, path: Path) -> np.ndarray:
    with Image.open(path, formats=("TIFF",)) as picture:
        array = flat.samples(picture)
    if page.photometric == MIN_IS_WHITE:  # Pillow inverts it, and labels need the stored values
        array = (1 if page.bitspersample == 1 else 255) - array
    return np.moveaxis(array, -1, 0) if array.ndim == 3 and page.planarconfig == 2 else array


def _encoded(array: np.ndarray, **options: object) -> list[memoryview]:
    room = io.BytesIO()
    tifffile.imwrite(room, array, software=False, metadata=None, **options)  # type: ignore[arg-type]
    return [room.getbuffer()]


FORMAT = Format("TIFF", (".tif", ".tiff"), read_header, read_image, read_labels, write_labels, write_like, write_new)
