"""Label values: whole numbers in the file, class indices in the program, and back."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from napari_noisylabel.errors import BadLabels, ExportRefused
from napari_noisylabel.records import IGNORE, Track

CHUNK = 1 << 20  # voxels; np.bincount makes an int64 copy of what it counts, so it gets pieces
SMALL = 1 << 16  # widest range of values for which a look-up table is made


def whole_numbers(array: np.ndarray, where: str) -> np.ndarray:
    """`array` as integers, unchanged where it is integer already. `where` names it in errors."""
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind != "f":
        raise BadLabels(f"labels must be whole numbers, but {where} holds {array.dtype}.")
    flat = array.reshape(-1)
    whole = np.empty(array.shape, dtype=np.int32)
    out = whole.reshape(-1)
    for i in range(0, flat.size, CHUNK):
        piece = flat[i : i + CHUNK]
        with np.errstate(invalid="ignore"):
            out[i : i + CHUNK] = piece
        wrong = out[i : i + CHUNK] != piece
        if wrong.any():
            raise BadLabels(
                f"labels must be whole numbers, but {where} holds {piece[wrong][0]:.6g}. "
                "Save it without interpolation, or check that this is the label and not the image."
            )
    return whole


def values_in(labels: np.ndarray) -> tuple[int, ...]:
    """The distinct values of an integer array, sorted, 0 included where it occurs."""
    flat = labels.reshape(-1)
    if labels.dtype.kind == "b":
        flat = flat.view(np.uint8)
    if flat.dtype.itemsize > 2:
        if flat.size == 0 or not -SMALL < int(flat.min()) <= int(flat.max()) < SMALL:
            return tuple(int(v) for v in np.unique(flat))
        low = int(flat.min())
        n = int(flat.max()) - low + 1
    else:
        info = np.iinfo(flat.dtype)
        low, n = int(info.min), int(info.max) - int(info.min) + 1
    counts = np.zeros(n, dtype=np.int64)
    for i in range(0, flat.size, CHUNK):
        piece = flat[i : i + CHUNK]
        counts += np.bincount(piece if low == 0 else piece.astype(np.int64) - low, minlength=n)
    return tuple(int(v) + low for v in np.flatnonzero(counts))


def class_indices(values: np.ndarray, track: Track, where: str = "the labels") -> np.ndarray:
    """Class indices of a track from the values of its source files.

    Parameters
    ----------
    values : (*spatial) integer, as read from the file.
    track : `track.values[i]` becomes `i`, `track.ignore` becomes IGNORE.
    where : names the array in the error.

    Returns
    -------
    (*spatial) uint8, a new array.

    Raises
    ------
    BadLabels : a value that the track does not have.
    """
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    if _are_indices(values, track):
        return values.astype(np.uint8)
    present = values_in(values)
    _check_known(present, track, where)
    index_of = {value: i for i, value in enumerate(track.values)}
    if track.ignore is not None:
        index_of[track.ignore] = IGNORE
    if not present:
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = present[0], present[-1]
    if high - low < SMALL:
        table = np.zeros(high - low + 1, dtype=np.uint8)
        for value in present:
            table[value - low] = index_of[value]
        return table[values] if low == 0 else table[values.astype(np.int64) - low]
    table = np.array([index_of[value] for value in present], dtype=np.uint8)
    return table[np.searchsorted(np.array(present), values)]


def source_values(labels: np.ndarray, track: Track, dtype: np.dtype | str | None = None) -> np.ndarray:
    """Values of a track's source files from class indices: the inverse of `class_indices`.

    `labels` is (*spatial) uint8; the result has its shape and `dtype`, by default the smallest
    integer type that holds all values of the track.
    """
    known = set(range(track.n_classes)) | ({IGNORE} if track.ignore is not None else set())
    strange = sorted(set(values_in(labels)) - known)
    if strange:
        raise ExportRefused(
            f"labels of track {track.name!r} hold class indices {strange}, and it has {track.n_classes} "
            "classes and no value for voxels without annotation. Correct those voxels first."
        )
    values = list(track.values) + ([] if track.ignore is None else [track.ignore])
    kind = np.dtype(dtype) if dtype is not None else np.result_type(*(np.min_scalar_type(v) for v in values))
    table = np.zeros(256, dtype=kind)
    table[: track.n_classes] = check_fits(np.array(track.values), kind, f"track {track.name!r}")
    if track.ignore is not None:
        table[IGNORE] = check_fits(np.array([track.ignore]), kind, f"track {track.name!r}")[0]
    return table[labels]


def check_fits(values: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """`values` in `dtype`, or ExportRefused where that type cannot hold them exactly."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu" and values.dtype.kind in "biu":
        info = np.iinfo(dtype)
        fits = values.size == 0 or (int(values.min()) >= info.min and int(values.max()) <= info.max)
        cast = values.astype(dtype, copy=False)
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            cast = values.astype(dtype, copy=False)
            fits = bool(np.array_equal(cast, values))
    if not fits:
        raise ExportRefused(
            f"the values of {where} do not fit the type of the source, {dtype.name}: "
            f"they run from {values.min()} to {values.max()}. Export to a format that holds them."
        )
    return cast


def _are_indices(values: np.ndarray, track: Track) -> bool:
    """True where the file numbers the classes as the program does: as most do, and no table is needed."""
    if not values.size or track.values != tuple(range(track.n_classes)):
        return False
    return 0 <= int(values.min()) and int(values.max()) < track.n_classes


def _check_known(present: Collection[int], track: Track, where: str) -> None:
    strange = sorted(set(present) - set(track.values) - {track.ignore})
    if strange:
        raise BadLabels(
            f"values must be those of track {track.name!r}, {list(track.values)}, but {where} holds "
            f"{strange[:5]}{' and more' if len(strange) > 5 else ''}. "
            "Correct the file, or make a project that knows these values."
        )
