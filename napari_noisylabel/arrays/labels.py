"""Label maps as runs of voxels: what an event stores and how the labels are replayed.

A decision touches few voxels of a large array, so everything here costs what its voxels cost,
not what the array costs: encoding looks at a bounding box, applying writes runs.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from napari_noisylabel.errors import BadLabels, InputError, NewerSchema, ShapeMismatch, UnreadableFile

BLOCK = 1 << 20
"""Voxels that are looked at in one go: keeps temporaries in the processor's cache."""

LEVEL = 1  # of zlib: 10 times faster than its default for 30 % more bytes; someone waits for the write
MAGIC = b"NLVR"
VERSION = 1
HEADER = struct.Struct("<4sBBBxQ")  # magic, version, bytes per gap, bytes per length, runs
MAX_RATIO = 1032  # deflate cannot pack tighter (zlib's technical notes), so a larger claim is a lie
MAX_VOXELS = 2.0**62


@dataclass(frozen=True, eq=False)
class VoxelRuns:
    """Voxels of an array in C order, as runs with one class before and one after.

    `starts`, `lengths` (N,) int64, sorted and disjoint; `before`, `after` (N,) uint8.
    """

    starts: np.ndarray
    lengths: np.ndarray
    before: np.ndarray
    after: np.ndarray


# ---------------------------------------------------------------- from arrays to runs


def empty_runs() -> VoxelRuns:
    """No voxels at all."""
    return _runs([], [], [], [])


def encode_runs(mask: np.ndarray, before: np.ndarray | int, after: np.ndarray | int) -> VoxelRuns:
    """The voxels where `mask` is True, with their class before and after.

    Parameters
    ----------
    mask : (*spatial) bool
    before, after : (*spatial) uint8 class indices, or one class for all voxels.

    Returns
    -------
    The fewest runs that say it. An empty mask gives no runs.

    Raises
    ------
    ShapeMismatch : the arrays differ in shape.
    BadLabels : classes that are not uint8.
    """
    before, after = _classes(before, mask.shape, "before"), _classes(after, mask.shape, "after")
    box = bounding_box(mask)
    start = tuple(axis.start for axis in box)
    return encode_box(start, mask.shape, mask[box], before[box], after[box])


def encode_box(
    start: Sequence[int],
    shape: Sequence[int],
    mask: np.ndarray,
    before: np.ndarray | int,
    after: np.ndarray | int,
) -> VoxelRuns:
    """Like `encode_runs`, for a box whose first voxel is `start` in an array of `shape`.

    `mask`, `before` and `after` have the shape of the box and may be views of larger arrays.
    The runs count voxels of the whole array.

    Raises
    ------
    ShapeMismatch : the arrays differ in shape, or the box does not lie inside the array.
    BadLabels : classes that are not uint8.
    """
    before, after = _classes(before, mask.shape, "before"), _classes(after, mask.shape, "after")
    mask = np.asarray(mask, dtype=bool)
    _check_box(start, shape, mask.shape)
    slabs = [
        _encode_slab((start[0] + z.start, *start[1:]), shape, mask[z], before[z], after[z]) for z in _slabs(mask.shape)
    ]
    return _merge(_concatenate(slabs))


def encode_indices(indices: np.ndarray, before: np.ndarray | int, after: np.ndarray | int) -> VoxelRuns:
    """The voxels at flat `indices` (N,) of an array, ascending in C order, without repetition.

    `before` and `after` are (N,) uint8, or one class for all.

    Raises
    ------
    ShapeMismatch : not one class per index.
    InputError : indices that do not ascend.
    BadLabels : classes that are not uint8.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if indices.size and (indices[0] < 0 or (np.diff(indices) <= 0).any()):
        raise InputError(
            "voxel indices must ascend from 0 on, without repetition; these do not. Sort them (np.unique)."
        )
    before, after = _classes(before, indices.shape, "before"), _classes(after, indices.shape, "after")
    return _merge(_runs(indices, np.ones_like(indices), before, after))


def all_voxels(labels: np.ndarray) -> VoxelRuns:
    """Every voxel of `labels` (*spatial) uint8, as it is: before and after are equal."""
    flat = np.ascontiguousarray(_classes(labels, labels.shape, "labels")).reshape(-1)
    if not flat.size:
        return empty_runs()
    blocks = (flat[a : a + BLOCK + 1] for a in range(0, flat.size, BLOCK))
    changes = [np.flatnonzero(b[1:] != b[:-1]) + (i * BLOCK + 1) for i, b in enumerate(blocks)]
    starts = np.concatenate([[0], *changes])
    return _runs(starts, np.diff(starts, append=flat.size), flat[starts], flat[starts])


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box of `mask` (*spatial) bool with all its True voxels; of size 0 if none."""
    box = [slice(0, n) for n in mask.shape]
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        found = np.flatnonzero(mask[tuple(box)].any(axis=others))
        box[axis] = slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)
    return tuple(box)


# ---------------------------------------------------------------- from runs to arrays


def apply_runs(labels: np.ndarray, runs: VoxelRuns) -> None:
    """Write the class after into `labels` (*spatial), in place.

    Runs whose class stays are not written: they say that a person looked, not that
    something changed. So marking a whole case as right costs nothing here.

    Raises
    ------
    ShapeMismatch : the runs reach beyond the array.
    """
    _check_extent(runs, labels.shape)
    flat, runs = _flat(labels), changed_runs(runs)
    for indices, owner in _blocks(runs):
        flat[indices] = runs.after[owner]


def runs_mask(runs: VoxelRuns, shape: Sequence[int]) -> np.ndarray:
    """True at the voxels of `runs`, in an array of `shape`.

    Raises
    ------
    ShapeMismatch : the runs reach beyond the array.
    """
    _check_extent(runs, shape)
    mask = np.zeros(tuple(shape), dtype=bool)
    if runs.starts.size:
        ends = runs.starts + runs.lengths
        gaps = np.append(runs.starts[1:], ends[-1]) - ends
        pattern = np.tile([True, False], ends.size)
        span = np.repeat(pattern, np.stack([runs.lengths, gaps], axis=1).ravel())
        mask.reshape(-1)[runs.starts[0] : ends[-1]] = span
    return mask


def voxel_indices(runs: VoxelRuns) -> np.ndarray:
    """(count,) int64: the flat C-order index of every voxel, ascending."""
    return np.concatenate([np.empty(0, np.int64), *(indices for indices, _ in _blocks(runs))])


def count(runs: VoxelRuns) -> int:
    """How many voxels."""
    return int(runs.lengths.sum())


def runs_box(runs: VoxelRuns, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The smallest box, in an array of `shape`, with all voxels of `runs`: its first voxel and one past its last.

    Empty at the origin where there are no voxels.

    Raises
    ------
    ShapeMismatch : the runs reach beyond the array.
    """
    _check_extent(runs, shape)
    if not runs.starts.size:
        return (0,) * len(shape), (0,) * len(shape)
    corners = np.stack(np.unravel_index([runs.starts, runs.starts + runs.lengths - 1], tuple(shape)))
    low, high = corners.min(axis=(1, 2)), corners.max(axis=(1, 2)) + 1
    for axis in range(1, len(shape)):  # a run that goes on in the next row has all of that axis
        if (corners[:axis, 0] != corners[:axis, 1]).any():
            low[axis], high[axis] = 0, shape[axis]
    return tuple(low.tolist()), tuple(high.tolist())


def count_stale(labels: np.ndarray, runs: VoxelRuns) -> int:
    """Voxels whose class in `labels` (*spatial) is not the class before of `runs`.

    0 means that `apply_runs` continues from where the runs were made.

    Raises
    ------
    ShapeMismatch : the runs reach beyond the array.
    """
    _check_extent(runs, labels.shape)
    flat = _flat(labels)
    return sum(int((flat[indices] != runs.before[owner]).sum()) for indices, owner in _blocks(runs))


# ---------------------------------------------------------------- from runs to runs


def revert_runs(runs: VoxelRuns) -> VoxelRuns:
    """The same voxels with before and after exchanged: applying both changes nothing."""
    return VoxelRuns(runs.starts, runs.lengths, runs.after, runs.before)


def changed_runs(runs: VoxelRuns) -> VoxelRuns:
    """Those runs whose class changes."""
    changed = runs.before != runs.after
    return VoxelRuns(*(column[changed] for column in _columns(runs)))


def intersect(runs: VoxelRuns, mask: np.ndarray) -> VoxelRuns:
    """The voxels of `runs` where `mask` (*spatial) bool is True.

    Raises
    ------
    ShapeMismatch : the runs reach beyond the mask.
    """
    return _keep(runs, mask, True)


def subtract(runs: VoxelRuns, mask: np.ndarray) -> VoxelRuns:
    """The voxels of `runs` where `mask` (*spatial) bool is False.

    Raises
    ------
    ShapeMismatch : the runs reach beyond the mask.
    """
    return _keep(runs, mask, False)


# ---------------------------------------------------------------- to disk and back


def to_bytes(runs: VoxelRuns) -> bytes:
    """`runs` in a compact form of its own: a header, then a zlib stream of four columns.

    The columns are the gap before each run, its length, its class before and after. Numbers
    take as few bytes as the largest needs; the low bytes of a column come first, then the high
    ones, which zlib packs best.
    """
    ends = runs.starts + runs.lengths
    gaps, lengths = _shrink(runs.starts - np.r_[0, ends][:-1]), _shrink(runs.lengths)
    header = HEADER.pack(MAGIC, VERSION, gaps.itemsize, lengths.itemsize, ends.size)
    columns = (gaps, lengths, runs.before, runs.after)
    return header + zlib.compress(b"".join(_to_planes(column) for column in columns), LEVEL)


def from_bytes(data: bytes) -> VoxelRuns:
    """The runs that `to_bytes` wrote. Nothing in `data` is executed, and no size in it is trusted.

    Raises
    ------
    UnreadableFile : `data` is something else, truncated or damaged.
    NewerSchema : a later version of the program wrote it.
    """
    n, widths = _read_header(data)
    body = _inflate(data[HEADER.size :], n * sum(widths))
    gaps, lengths, before, after = _from_planes(body, n, widths)
    if (lengths == 0).any() or gaps.sum(dtype=float) + lengths.sum(dtype=float) > MAX_VOXELS:
        raise UnreadableFile(_damaged("runs of no length or beyond any array"))
    gaps, lengths = gaps.astype(np.int64), lengths.astype(np.int64)
    return _runs(np.cumsum(gaps + lengths) - lengths, lengths, before, after)


# ---------------------------------------------------------------- helpers


def _runs(starts: ArrayLike, lengths: ArrayLike, before: ArrayLike, after: ArrayLike) -> VoxelRuns:
    return VoxelRuns(
        np.asarray(starts, np.int64),
        np.asarray(lengths, np.int64),
        np.asarray(before, np.uint8),
        np.asarray(after, np.uint8),
    )


def _columns(runs: VoxelRuns) -> tuple[np.ndarray, ...]:
    return runs.starts, runs.lengths, runs.before, runs.after


def _concatenate(parts: Sequence[VoxelRuns]) -> VoxelRuns:
    columns = zip(*(_columns(part) for part in (empty_runs(), *parts)), strict=True)
    return VoxelRuns(*(np.concatenate(column) for column in columns))


def _merge(runs: VoxelRuns) -> VoxelRuns:
    """Join runs that adjoin and have the same classes."""
    heads = np.ones(runs.starts.size, dtype=bool)
    heads[1:] = runs.starts[1:] != (runs.starts + runs.lengths)[:-1]
    heads[1:] |= runs.before[1:] != runs.before[:-1]
    heads[1:] |= runs.after[1:] != runs.after[:-1]
    first = np.flatnonzero(heads)
    if not first.size:
        return runs
    lengths = np.add.reduceat(runs.lengths, first)
    return VoxelRuns(runs.starts[first], lengths, runs.before[first], runs.after[first])


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Cut the first axis so that a slab has about `BLOCK` voxels."""
    step = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return (slice(z, min(z + step, shape[0])) for z in range(0, shape[0], step))


def _encode_slab(
    start: Sequence[int], shape: Sequence[int], mask: np.ndarray, before: np.ndarray, after: np.ndarray
) -> VoxelRuns:
    """Runs row by row: one that goes on in the next row is cut in two."""
    first = mask.copy()
    first[..., 1:] &= ~mask[..., :-1] | _differ(before) | _differ(after)
    last = mask.copy()
    last[..., :-1] &= ~mask[..., 1:] | first[..., 1:]
    heads = np.flatnonzero(first)
    at = np.unravel_index(heads, mask.shape)
    starts = np.ravel_multi_index([i + a for i, a in zip(at, start, strict=True)], tuple(shape))
    return _runs(starts, np.flatnonzero(last) - heads + 1, before[at], after[at])


def _differ(values: np.ndarray) -> np.ndarray:
    return values[..., 1:] != values[..., :-1]


def _blocks(runs: VoxelRuns) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The voxels of `runs`, `BLOCK` at a time: their flat indices, and the run each belongs to."""
    ends = np.cumsum(runs.lengths)
    begins = ends - runs.lengths
    offsets = runs.starts - begins
    total = count(runs)
    for a in range(0, total, BLOCK):
        b = min(a + BLOCK, total)
        i, j = np.searchsorted(ends, [a, b - 1], side="right") + [0, 1]
        inside = np.minimum(ends[i:j], b) - np.maximum(begins[i:j], a)
        owner = np.repeat(np.arange(i, j), inside)
        yield np.arange(a, b) + offsets[owner], owner


def _keep(runs: VoxelRuns, mask: np.ndarray, wanted: bool) -> VoxelRuns:
    _check_extent(runs, mask.shape)
    flat = _flat(mask)
    kept = []
    for indices, owner in _blocks(runs):
        stays = flat[indices] == wanted
        owner = owner[stays]
        kept.append(_runs(indices[stays], np.ones_like(owner), runs.before[owner], runs.after[owner]))
    return _merge(_concatenate(kept))


def _flat(array: np.ndarray) -> np.ndarray | np.flatiter:
    """`array` by flat C-order index, for reading and writing, whatever its memory layout."""
    return array.reshape(-1) if array.flags.c_contiguous else array.flat


def _shrink(numbers: np.ndarray) -> np.ndarray:
    """In the smallest unsigned type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _to_planes(column: np.ndarray) -> bytes:
    """All lowest bytes, then all second ones, and so on."""
    little = column.astype(column.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(column.size, column.itemsize).T.tobytes()


def _from_planes(body: bytes, n: int, widths: Sequence[int]) -> Iterator[np.ndarray]:
    """The columns of `n` numbers each, of `widths` bytes."""
    ends = np.cumsum(widths) * n
    for end, width in zip(ends, widths, strict=True):
        planes = np.frombuffer(body[end - n * width : end], np.uint8).reshape(width, n)
        yield np.ascontiguousarray(planes.T).view(f"<u{width}").reshape(n)


def _read_header(data: bytes) -> tuple[int, tuple[int, ...]]:
    """The number of runs, and the bytes that a number takes in each of the four columns."""
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise UnreadableFile(_damaged("no header"))
    _, version, gap_width, length_width, n = HEADER.unpack_from(data)
    if version > VERSION:
        raise NewerSchema(
            f"stored voxels are of version {version}, this program knows up to {VERSION}. "
            "Open the project with the version of the program that wrote it."
        )
    widths = (gap_width, length_width, 1, 1)
    if not {gap_width, length_width} <= {1, 2, 4, 8} or n * sum(widths) > MAX_RATIO * len(data):
        raise UnreadableFile(_damaged("sizes that cannot be"))
    return n, widths


def _inflate(stream: bytes, size: int) -> bytes:
    """Unpack `stream`, which must give exactly `size` bytes; never makes more than one too many."""
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(stream, size + 1)
    except zlib.error as error:
        raise UnreadableFile(_damaged(str(error))) from error
    if len(body) != size or not unpacker.eof:
        raise UnreadableFile(_damaged(f"{len(body)} bytes instead of {size}"))
    return body


def _damaged(what: str) -> str:
    return f"stored voxels must be runs as the program writes them; these are damaged ({what}). Use a backup."


def _classes(values: np.ndarray | int, shape: tuple[int, ...], name: str) -> np.ndarray:
    """`values` as an array of `shape`, refused where they are no class indices that fit."""
    is_class = isinstance(values, (int, np.integer)) and 0 <= values <= 255
    values = np.asarray(values, dtype=np.uint8 if is_class else None)
    if values.dtype != np.uint8:
        raise BadLabels(
            f"class indices must be whole numbers from 0 to 255 (uint8), got {values.dtype} in {name}. "
            "Turn the source's values into class indices first."
        )
    if values.shape not in ((), shape):
        raise ShapeMismatch(
            f"mask and {name} differ in shape: mask {shape}, {name} {values.shape}. Hand over arrays of the same box."
        )
    return np.broadcast_to(values, shape)


def _check_box(start: Sequence[int], shape: Sequence[int], size: Sequence[int]) -> None:
    fits = len(start) == len(shape) == len(size) and all(
        0 <= a and a + n <= whole for a, n, whole in zip(start, size, shape, strict=True)
    )
    if not fits:
        raise ShapeMismatch(
            f"a box must lie inside its array: it starts at {tuple(start)} with shape {tuple(size)}, "
            f"the array is {tuple(shape)}. Cut the box to the array."
        )


def _check_extent(runs: VoxelRuns, shape: Sequence[int]) -> None:
    end = int(runs.starts[-1] + runs.lengths[-1]) if runs.starts.size else 0
    if end > math.prod(shape):
        raise ShapeMismatch(
            f"runs and array differ in size: the last voxel is number {end}, the array {tuple(shape)} "
            f"has {math.prod(shape)}. Use the array of the case and track that the runs belong to."
        )
