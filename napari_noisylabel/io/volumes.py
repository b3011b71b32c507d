"""Any file of a known format: its header, image, labels; and writing labels and maps back.

The format is chosen by the file's extension. Paths may be given as text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import ExportRefused, UnreadableFile
from napari_noisylabel.io import images, nifti
from napari_noisylabel.io.format import Format, Header, Volume

FORMATS: tuple[Format, ...] = (nifti.FORMAT, *images.FORMATS)
BY_EXTENSION: dict[str, Format] = {e: f for f in FORMATS for e in f.extensions}
KNOWN_EXTENSIONS: tuple[str, ...] = tuple(sorted(BY_EXTENSION, key=len, reverse=True))

__all__ = [
    "KNOWN_EXTENSIONS",
    "Header",
    "Volume",
    "case_id",
    "extension",
    "is_known",
    "read_header",
    "read_image",
    "read_labels",
    "write_labels",
    "write_like",
    "write_map",
    "write_volume",
]


def extension(path: Path | str) -> str:
    """The known extension of a path in lower case (".nii.gz" is one), or "" if it has none."""
    name = Path(path).name.lower()
    return next((e for e in KNOWN_EXTENSIONS if name.endswith(e) and name != e), "")


def is_known(path: Path | str) -> bool:
    """True where the extension is one that can be read."""
    return bool(extension(path))


def case_id(path: Path | str) -> str:
    """The file's name minus its known extension."""
    name = Path(path).name
    return name[: len(name) - len(extension(path))]


def read_header(path: Path | str) -> Header:
    """Geometry, type on disk and number of channels, without reading voxels."""
    return _format(path).read_header(Path(path))


def read_image(path: Path | str) -> Volume:
    """An image as (C, *spatial) in the file's order and type (float32 where the header scales it).

    Raises
    ------
    UnreadableFile : missing, truncated, corrupt, of an unknown format, not permitted.
    BadImage : not 2-D or 3-D, or no real numbers.
    """
    return _format(path).read_image(Path(path))


def read_labels(path: Path | str) -> Volume:
    """A label map as (*spatial) integers, with the values that are in the file.

    A coloured pixel of an RGB image counts as 0x1RRGGBB, a grey one as its grey level.

    Raises
    ------
    UnreadableFile : missing, truncated, corrupt, of an unknown format, not permitted.
    BadLabels : values that are not whole numbers, more than one value per voxel, a lossy format.
    """
    return _format(path).read_labels(Path(path))


def write_labels(source_path: Path | str, values: np.ndarray, out_path: Path | str) -> None:
    """Write `values`, (*spatial) integer, as `source_path` is stored: header, grid, type, value coding.

    `out_path` must be of the same format family. Written aside and renamed.

    Raises
    ------
    ExportRefused : other grid, values that the source's type cannot hold, folder not writable.
    DiskFull : no room left.
    """
    source, out = _two_files(source_path, out_path)
    if _format(source) is not _format(out):
        raise ExportRefused(
            f"{out} must have the format of its source {source}. Use its extension, or write the labels anew."
        )
    _format(source).write_labels(source, values, out)


def write_like(grid_path: Path | str, array: np.ndarray, out_path: Path | str) -> None:
    """Write `array`, (*spatial), in its own type on the grid of `grid_path`, in the format of `out_path`."""
    grid, out = _two_files(grid_path, out_path)
    if _format(grid) is _format(out):
        return _format(out).write_like(grid, array, out)
    return write_volume(array, read_header(grid).geometry, out)


def write_map(source_path: Path | str, array: np.ndarray, out_path: Path | str) -> None:
    """Write a map with values in [0, 1] on the grid of `source_path`.

    `array` is (*spatial), float or bool in [0, 1] or uint8 with 255 for 1. NIfTI and TIFF hold
    float32 in [0, 1]; PNG holds 8 bits, 255 for 1. A JPEG's name is turned down: use ".png".
    """
    share = array.astype(np.float32)
    if array.dtype == np.uint8:
        share /= np.float32(255)
    if not (share.min(initial=0) >= 0 and share.max(initial=0) <= 1):
        raise ExportRefused(f"a map must lie in [0, 1], and this one does not: {out_path}. Scale it first.")
    if extension(out_path) == ".png":
        share = np.rint(share * 255).astype(np.uint8)
    write_like(source_path, share, out_path)


def write_volume(array: np.ndarray, geometry: Geometry, out_path: Path | str) -> None:
    """Write `array`, (*spatial), to a new file that lies as `geometry` says."""
    _format(out_path).write_new(np.asarray(array), geometry, Path(out_path))


def _format(path: Path | str) -> Format:
    try:
        return BY_EXTENSION[extension(path)]
    except KeyError:
        raise UnreadableFile(
            f"{path} has no known extension. Known are {', '.join(sorted(KNOWN_EXTENSIONS))}."
        ) from None


def _two_files(source: Path | str, out: Path | str) -> tuple[Path, Path]:
    source, out = Path(source), Path(out)
    if source.resolve() == out.resolve():
        raise ExportRefused(f"given files are never written: {out}. Choose another folder.")
    return source, out
