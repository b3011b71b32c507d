"""JPEG: images only. It changes values, so it can hold no labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import BadLabels, ExportRefused
from napari_noisylabel.io import flat
from napari_noisylabel.io.format import Format, Header, Volume


def read_header(path: Path) -> Header:
    """Shape and channels of a JPEG; reads no pixels."""
    with flat.opened(path, "JPEG") as picture:
        width, height = picture.size
        return Header(flat.pixel_grid((height, width)), "uint8", 1 if picture.mode == "L" else 3)


def read_image(path: Path) -> Volume:
    """The pixels as (C, Y, X) uint8, in the file's order: a camera's turn mark is not applied."""
    return flat.read_picture(path, "JPEG")


def read_labels(path: Path) -> Volume:
    """Refused: JPEG smears the values of labels at every border."""
    raise BadLabels(f"labels must be stored without loss, but {path} is a JPEG. Save them as PNG or NIfTI.")


def write_labels(source: Path, values: np.ndarray, out: Path) -> None:
    """Refused, as `read_labels`."""
    raise ExportRefused(f"labels cannot be stored in JPEG without loss: {out}. Export them as PNG.")


def write_like(grid: Path, array: np.ndarray, out: Path) -> None:
    """Refused, as `read_labels`."""
    raise ExportRefused(f"maps cannot be stored in JPEG without loss: {out}. Export them as PNG.")


def write_new(array: np.ndarray, geometry: Geometry, out: Path) -> None:
    """Refused, as `read_labels`."""
    raise ExportRefused(f"arrays cannot be stored in JPEG without loss: {out}. Export them as PNG.")


FORMAT = Format("JPEG", (".jpg", ".jpeg"), read_header, read_image, read_labels, write_labels, write_like, write_new)
