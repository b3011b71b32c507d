"""Sparse voxels as strips along the last axis: what touches what, what is joined, what a cut leaves.

What is said here of strips need not be said of voxels, of which a compact region has ten times as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, eq=False)
class Strips:
    """Voxels next to each other along the last axis, in C order; none overlap.

    `corner` (ndim, S) int64 is the first voxel of each, `length` (S,) int64 how many there are.
    `shape` is that of the array they lie in.
    """

    corner: np.ndarray
    length: np.ndarray
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.length)

    def take(self, numbers: np.ndarray) -> Strips:
        """Some of them; in C order, too, if `numbers` rise."""
        return Strips(self.corner.take(numbers, axis=1), self.length.take(numbers), self.shape)

    def span(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each begins and ends along `axis`, half open: (S,), (S,)."""
        begin = self.corner[axis]
        return begin, begin + (self.length if axis in (-1, len(self.shape) - 1) else 1)

    def indices(self) -> np.ndarray:
        """Flat indices of all voxels, strip after strip, (M,) int64."""
        begin = np.ravel_multi_index(tuple(self.corner), self.shape)
        return np.repeat(begin - _before(self.length), self.length) + np.arange(self.length.sum())


def strips_of(indices: np.ndarray, codes: np.ndarray, shape: tuple[int, ...]) -> tuple[Strips, np.ndarray]:
    """The longest strips of equal codes, and the code of each.

    indices (M,) : flat and rising, of voxels in an array of this shape; codes (M,), one per voxel.
    """
    head = np.ones(indices.size, bool)
    head[1:] = (indices[1:] != indices[:-1] + 1) | (codes[1:] != codes[:-1])
    head |= indices % max(1, shape[-1]) == 0
    first = np.flatnonzero(head)
    corner = np.stack(np.unravel_index(indices[first], shape))
    return Strips(corner, np.diff(first, append=indices.size), shape), codes[first]


def touching(some: Strips, strips: Strips, rows: np.ndarray) -> np.ndarray:
    """Which of `strips` touch which of `some`, at corners too: numbers of both, (2, E) int64.

    rows (N, ndim - 1) : how far from the own row to look, for instance `rows_before(ndim)`.
    """
    (begin, end), (low, high) = _in_padded_rows(some), _in_padded_rows(strips)
    pairs = [np.zeros((2, 0), np.int64)]
    for step in rows @ _strides(some.shape)[:-1]:
        first = np.searchsorted(high, begin + step)  # the first that does not end too early ...
        count = np.searchsorted(low, end + step, side="right") - first  # ... and those that begin in time
        mine = np.repeat(np.arange(len(some)), count)
        pairs.append(np.stack([mine, np.arange(mine.size) + np.repeat(first - _before(count), count)]))
    return np.concatenate(pairs, axis=1)


def rows_around(ndim: int) -> np.ndarray:
    """The row itself and all beside it, as steps along all axes but the last: (3 ** (ndim - 1), ndim - 1)."""
    return np.array(list(product((-1, 0, 1), repeat=ndim - 1)), np.int64)


def rows_before(ndim: int) -> np.ndarray:
    """The first half of `rows_around`: so every pair of rows is looked at once."""
    return rows_around(ndim)[: 3 ** (ndim - 1) // 2]


def count_contacts(a: Strips, b: Strips) -> np.ndarray:
    """How many pairs of voxels touch, of `a[i]` and `b[i]` in neighbouring rows or in one row; (E,) int64."""
    (a_begin, a_end), (b_begin, b_end) = a.span(-1), b.span(-1)
    common = [np.minimum(a_end + d, b_end) - np.maximum(a_begin + d, b_begin) for d in (-1, 0, 1)]
    return np.maximum(common, 0).sum(axis=0)


def joined(pairs: np.ndarray, n: int) -> np.ndarray:
    """Component of each of `n` strips, (n,) int64, if the two of each pair (2, E) hold together."""
    if not n:
        return np.zeros(0, np.int64)
    graph = csr_array((np.ones(pairs.shape[1]), tuple(pairs)), (n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def cut(
    strips: Strips, pairs: np.ndarray, axis: np.ndarray, start: np.ndarray, length: np.ndarray, slabs: np.ndarray
) -> tuple[Strips, np.ndarray, np.ndarray]:
    """Cut every strip where it crosses from one slab into the next.

    Parameters
    ----------
    pairs : (2, E) strips that touch and are cut alike.
    axis, start, length, slabs : (S,) each, int64. The `length` voxels from `start` on along `axis` are `slabs`
        equal slabs; the strip lies within them.

    Returns
    -------
    strips : the parts, T of them.
    pairs : (2, F) parts that touch within one slab.
    origin : (T,) of which strip each is a part.
    """
    row = np.arange(len(strips))
    begin = strips.corner[axis, row] - start
    end = begin + np.where(axis == len(strips.shape) - 1, strips.length, 1)
    lowest, highest = begin * slabs // length, (end - 1) * slabs // length
    is_cut = highest > lowest
    whole, crossing = _whole_and_crossing(pairs, np.where(is_cut, -1, lowest))
    if not is_cut.any():
        return strips, whole, row

    parts = highest - lowest + 1
    first = _before(parts)
    origin = np.repeat(row, parts)
    slab = np.arange(origin.size) + (lowest - first).take(origin)
    divided = _parts(strips.take(origin), slab, *(of.take(origin) for of in (is_cut, start, length, slabs)))
    crossing = _in_the_same_slab(crossing, lowest, highest, first)
    crossing = np.compress(_touch(divided, *crossing), crossing, axis=1)
    return divided, np.concatenate([first.take(whole), crossing], axis=1), origin


def by_first(number: np.ndarray) -> np.ndarray:
    """The same groups, numbered 0, 1, ... in the order of their first members."""
    first = np.full(int(number.max(initial=-1)) + 1, number.size)
    first[number[::-1]] = np.arange(number.size)[::-1]  # of equals, the last written stays
    new = np.empty_like(first)
    new[np.argsort(first)] = np.arange(len(first))
    return new[number]


def boxes(strips: Strips, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounding boxes of groups of strips, half open, (N, ndim) int64 each; every number 0..N-1 has strips."""
    n, ndim = int(number.max(initial=-1)) + 1, len(strips.shape)
    start, stop = np.full((ndim, n), np.iinfo(np.int64).max), np.zeros((ndim, n), np.int64)
    for axis in range(ndim):
        begin, end = strips.span(axis)
        np.minimum.at(start[axis], number, begin)
        np.maximum.at(stop[axis], number, end)
    return np.ascontiguousarray(start.T), np.ascontiguousarray(stop.T)


# ---------------------------------------------------------------- helpers, in order of use


def _before(count: np.ndarray) -> np.ndarray:
    """How many come before each: the cumulative sum without its own."""
    return np.cumsum(count) - count


def _strides(shape: Sequence[int]) -> np.ndarray:
    """Flat steps along each axis in an array with a margin, so that what is beside an edge is in no other row."""
    return np.cumprod([1, *(n + 2 for n in shape[:0:-1])])[::-1]


def _in_padded_rows(strips: Strips) -> tuple[np.ndarray, np.ndarray]:
    """Flat index of the first voxel of each, and of the one after its last, in an array with that margin."""
    begin = _strides(strips.shape) @ (strips.corner + 1)
    return begin, begin + strips.length


def _whole_and_crossing(pairs: np.ndarray, slab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that lie whole in one slab, and those of which a cut divides one or both, marked by a slab of -1."""
    of_a, of_b = slab.take(pairs)
    crossing = np.minimum(of_a, of_b) < 0
    return np.compress((of_a == of_b) & ~crossing, pairs, axis=1), np.compress(crossing, pairs, axis=1)


def _in_the_same_slab(pairs: np.ndarray, lowest: np.ndarray, highest: np.ndarray, first: np.ndarray) -> np.ndarray:
    """For each pair of strips, its pairs of parts that share a slab; `first` is the number of a strip's first part."""
    a, b = pairs
    low = np.maximum(lowest[a], lowest[b])
    common = np.maximum(np.minimum(highest[a], highest[b]) - low + 1, 0)
    which = np.repeat(np.arange(low.size), common)
    slab = np.arange(which.size) + (low - _before(common)).take(which)
    return (first - lowest).take(pairs.take(which, axis=1)) + slab


def _touch(strips: Strips, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether the strips `a` and `b` of neighbouring rows touch, at a corner at least."""
    begin, end = strips.span(-1)
    return (begin.take(a) <= end.take(b)) & (begin.take(b) <= end.take(a))


def _parts(
    strips: Strips, slab: np.ndarray, is_cut: np.ndarray, start: np.ndarray, length: np.ndarray, slabs: np.ndarray
) -> Strips:
    """Of each strip that is cut the part in its slab along the last axis; the others as they are."""
    begin, end = strips.span(-1)
    begin = np.where(is_cut, np.maximum(begin, start - (-slab * length // slabs)), begin)
    end = np.where(is_cut, np.minimum(end, start - (-(slab + 1) * length // slabs)), end)
    return Strips(np.vstack([strips.corner[:-1], begin[None]]), end - begin, strips.shape)
