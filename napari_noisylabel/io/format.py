"""What a format family offers, and what comes out of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.geometry import Geometry


@dataclass(frozen=True)
class Header:
    """What a file says of itself without its voxels. `dtype` is the type on disk, as NumPy spells it."""

    geometry: Geometry
    dtype: str
    n_channels: int = 1


@dataclass(frozen=True, eq=False)
class Volume:
    """The voxels of a file in the file's order, C-contiguous, never resampled.

    `array` is (C, *spatial) for an image and (*spatial) integer for labels; it may be read-only.
    `dtype` is the type on disk.
    """

    array: np.ndarray
    geometry: Geometry
    dtype: str


@dataclass(frozen=True)
class Format:
    """A format family: the extensions it answers to, and its readers and writers.

    A new family is one file with a `FORMAT` in it, and one line in `volumes.FORMATS`.
    `write_labels(source, values, out)` restores the source's header, type and value coding;
    `write_like(grid, array, out)` stores `array` in its own type on the grid of another file;
    `write_new(array, geometry, out)` starts from nothing.
    """

    name: str
    extensions: tuple[str, ...]
    read_header: Callable[[Path], Header]
    read_image: Callable[[Path], Volume]
    read_labels: Callable[[Path], Volume]
    write_labels: Callable[[Path, np.ndarray, Path], None]
    write_like: Callable[[Path, np.ndarray, Path], None]
    write_new: Callable[[np.ndarray, Geometry, Path], None]
