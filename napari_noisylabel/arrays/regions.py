"""Suspicious voxels become regions: pieces of one class pair, each small enough for one decision."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import product
from math import ceil, prod

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_noisylabel.errors import BadLabels, BadSetting, ShapeMismatch

SPLIT_MM = 20.0  # a region longer than this is more than one decision
MIN_VOXELS = 3
MIN_VOLUME = 2.0  # mm3, in 2-D mm2


@dataclass(frozen=True, eq=False)
class Components:
    """Regions of one label map, in the order of their first voxels.

    `from_class`, `to_class` are (N,) uint8; `start`, `stop` (N, ndim) int64, the bounding boxes,
    half open. The voxels are flat indices in C order, region after region: those of region `i`
    are `indices[offsets[i]:offsets[i + 1]]`, rising (`offsets` (N + 1,), `indices` (M,), int64).
    """

    from_class: np.ndarray
    to_class: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    offsets: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.from_class)

    @property
    def sizes(self) -> np.ndarray:
        """Voxels per region, (N,) int64."""
        return np.diff(self.offsets)

    def voxels(self, region: int) -> np.ndarray:
        """Flat indices of one region, rising; a view."""
        return self.indices[self.offsets[region] : self.offsets[region + 1]]

    def means(self, values: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
        """Mean of `values` (*spatial), or of what `table` holds for them, over each region, (N,) float64."""
        if not len(self):
            return np.zeros(0)
        inside = np.asarray(values).reshape(-1)[self.indices]
        if table is not None:
            inside = table[inside]
        return np.add.reduceat(inside, self.offsets[:-1], dtype=np.float64) / self.sizes


def find_regions(
    labels: np.ndarray,
    proposal: np.ndarray,
    suspicious: np.ndarray,
    spacing: Sequence[float],
    *,
    split_mm: float = SPLIT_MM,
    min_voxels: int = MIN_VOXELS,
    min_volume: float = MIN_VOLUME,
) -> Components:
    """Connected voxels that change from one class to another, cut where they are long.

    Parameters
    ----------
    labels, proposal : (*spatial) class indices 0..255, 2-D or 3-D.
    suspicious : (*spatial) bool; only here, and where the two differ, is anything proposed.
        Take verified and ignored voxels out of it.
    spacing : mm per voxel, one value per axis, in array order.
    split_mm : a longer component is cut across its longest axis, again and again.
    min_voxels, min_volume : smaller components are dropped; volume in mm3, in 2-D mm2.

    Returns
    -------
    `Components`, each with one (from, to) pair, 26-connected (8 in 2-D), none below the minimum
    size. A piece below it is given to the neighbour of the same component that it touches
    most; only there, and where one voxel is, may a region be longer than `split_mm`. The same
    input gives the same regions.

    Raises
    ------
    ShapeMismatch : the arrays differ in shape, or `spacing` does not fit.
    BadLabels : a class index outside 0..255.
    BadSetting : `split_mm` or the spacing is not above 0.
    """
    labels, proposal, suspicious = np.asarray(labels), np.asarray(proposal), np.asarray(suspicious, bool)
    _check(labels, proposal, suspicious, spacing, split_mm)
    indices = np.flatnonzero(suspicious & (labels != proposal))
    pairs = _pair_codes(labels.reshape(-1)[indices], proposal.reshape(-1)[indices])
    coords = np.stack(np.unravel_index(indices, labels.shape))
    component = _connected(coords, pairs)

    smallest = max(min_voxels, ceil(min_volume / prod(spacing) - 1e-9))
    large = (np.bincount(component) >= smallest)[component]
    indices, pairs, coords, component = indices[large], pairs[large], coords[:, large], component[large]

    piece = _split(coords, component, np.asarray(spacing, np.float64), split_mm)
    piece = _by_first_voxel(piece)
    contacts = _crumb_contacts(piece, smallest, component, indices, coords, labels.shape)
    piece = _by_first_voxel(_merge_crumbs(piece, smallest, contacts))
    return _collect(piece, indices, coords, pairs)


# ---------------------------------------------------------------- connect, cut, merge
# From here on only the M suspicious voxels are looked at, in C order: `indices` (M,), `coords`
# (ndim, M), and the number of the component or piece that each belongs to, (M,) int64.


def _pair_codes(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """256 x class now + class proposed, (M,) uint16; never 0, since the two differ."""
    for classes in (before, after):
        if classes.size and not 0 <= classes.min() <= classes.max() <= 255:
            raise BadLabels(
                f"labels and proposal hold class indices from 0 to 255, found {classes.min()} to "
                f"{classes.max()}. Turn the values of the source into class indices first."
            )
    return before.astype(np.uint16) << 8 | after.astype(np.uint16)


def _connected(coords: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Component 0, 1, ... of each voxel; only voxels with equal codes (> 0) hold together.

    Runs along the last axis are joined instead of voxels: there are fewer, and no array is as large as the box
    around all of them. Of a CT that takes a third of the time that labelling the box takes.
    """
    if not codes.size:
        return np.zeros(0, np.int64)
    widths = coords.max(axis=1) + 3  # so that what is beside an edge is no voxel of the next row
    place = np.ravel_multi_index(tuple(coords + 1), tuple(widths))
    head = np.ones(place.size, bool)
    head[1:] = (place[1:] != place[:-1] + 1) | (codes[1:] != codes[:-1])
    first = np.flatnonzero(head)
    start, stop = place[first], place[np.append(first[1:], place.size) - 1] + 1
    pairs = [np.zeros((2, 0), np.int64)]
    for row in _rows_before(widths):
        low, high = np.searchsorted(stop, start - row), np.searchsorted(start, stop - row, side="right")
        run = np.repeat(np.arange(first.size), high - low)
        other = np.arange(run.size) + np.repeat(low - np.cumsum(high - low) + (high - low), high - low)
        pairs.append(np.stack([run, other])[:, codes[first[run]] == codes[first[other]]])
    a, b = np.concatenate(pairs, axis=1)
    _, component = connected_components(coo_array((np.ones(a.size, bool), (a, b)), (first.size,) * 2), directed=False)
    return _by_first_voxel(component.astype(np.int64))[np.cumsum(head) - 1]


def _rows_before(widths: np.ndarray) -> list[int]:
    """How far behind a voxel the rows lie that touch its row and come before it, in flat indices."""
    strides = np.cumprod([1, *widths[:0:-1]])[::-1]
    steps = [np.dot((*step, 0), strides) for step in product((-1, 0, 1), repeat=len(widths) - 1)]
    return [-int(step) for step in steps if step < 0]


def _split(coords: np.ndarray, component: np.ndarray, spacing: np.ndarray, split_mm: float) -> np.ndarray:
    """Piece of each voxel: connected, and along no axis longer than `split_mm` (or one voxel).

    In each round every long piece is cut into equal slabs across its longest axis, and what the
    cuts leave unconnected parts. So there are at most as many rounds as axes.
    """
    step = np.maximum(1, np.floor(split_mm / spacing + 1e-9)).astype(np.int64)
    piece, active = component.copy(), np.arange(component.size)
    while True:
        start, stop = _boxes(coords[:, active], piece[active])
        slabs = -((start - stop) // step)
        is_long = (slabs > 1).any(axis=1)
        active = active[is_long[piece[active]]]
        if not active.size:
            return piece
        axis = np.where(slabs > 1, (stop - start) * spacing, 0.0).argmax(axis=1)
        row = np.arange(len(axis))
        start, length, slabs = start[row, axis], (stop - start)[row, axis], slabs[row, axis] * is_long

        now = piece[active]
        slab = (coords[axis[now], active] - start[now]) * slabs[now] // length[now]
        codes = (np.cumsum(slabs) - slabs)[now] + slab + 1
        codes = codes.astype(np.min_scalar_type(int(slabs.sum())))
        piece[active] = piece.max() + 1 + _connected(coords[:, active], codes)


def _crumb_contacts(
    piece: np.ndarray,
    smallest: int,
    component: np.ndarray,
    indices: np.ndarray,
    coords: np.ndarray,
    shape: tuple[int, ...],
) -> dict[int, Counter[int]]:
    """For each piece below `smallest`: how often its voxels touch each other piece of its component."""
    n = int(piece.max(initial=-1)) + 1
    crumbs = np.flatnonzero((np.bincount(piece, minlength=n) < smallest)[piece])
    pairs = [np.zeros(0, np.int64)]
    for step in product((-1, 0, 1), repeat=len(shape)):
        beside = coords[:, crumbs] + np.array(step)[:, None]
        inside = ((beside >= 0) & (beside < np.array(shape)[:, None])).all(axis=0)
        flat = np.ravel_multi_index(tuple(beside[:, inside]), shape)
        mine, other = crumbs[inside], np.searchsorted(indices, flat)
        other[other == len(indices)] = 0
        touch = indices[other] == flat
        mine, other = mine[touch], other[touch]
        touch = (component[mine] == component[other]) & (piece[mine] != piece[other])
        pairs.append(piece[mine[touch]] * n + piece[other[touch]])
    contacts: dict[int, Counter[int]] = defaultdict(Counter)
    for pair, count in zip(*np.unique(np.concatenate(pairs), return_counts=True), strict=True):
        contacts[int(pair) // n][int(pair) % n] = int(count)
    return contacts


def _merge_crumbs(piece: np.ndarray, smallest: int, contacts: dict[int, Counter[int]]) -> np.ndarray:
    """Piece of each voxel after every crumb went to the neighbour it touches most.

    The smallest crumb goes first, and of neighbours touched as much it takes the smallest, so
    that a thread of crumbs falls into several pieces and not into one; then the first.
    """
    sizes = np.bincount(piece).tolist()
    heir = np.arange(len(sizes))
    queue = [(sizes[crumb], crumb) for crumb in contacts]
    heapify(queue)
    while queue:
        size, crumb = heappop(queue)
        if crumb not in contacts or sizes[crumb] != size:
            continue  # merged meanwhile, or grown
        touched = contacts.pop(crumb)
        into = max(touched, key=lambda other: (touched[other], -sizes[other], -other))
        heir[crumb] = into
        sizes[into] += size
        for other, count in touched.items():
            if other in contacts:
                contacts[other][into] += contacts[other].pop(crumb)
            if into in contacts:
                contacts[into][other] += count
        if into in contacts:  # a crumb as well
            del contacts[into][into]
            if sizes[into] < smallest:
                heappush(queue, (sizes[into], into))
    while (heir[heir] != heir).any():
        heir = heir[heir]
    return heir[piece]


# ---------------------------------------------------------------- number, measure, lay out


def _by_first_voxel(piece: np.ndarray) -> np.ndarray:
    """The same pieces, numbered 0, 1, ... in the order of their first voxels."""
    first = np.full(int(piece.max(initial=-1)) + 1, piece.size)
    np.minimum.at(first, piece, np.arange(piece.size))
    number = np.empty_like(first)
    number[np.argsort(first)] = np.arange(len(first))
    return number[piece]


def _boxes(coords: np.ndarray, piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounding boxes (N, ndim), half open; a number without voxels gets start = stop = 0."""
    n = int(piece.max(initial=-1)) + 1
    start = np.full((n, len(coords)), np.iinfo(np.int64).max)
    stop = np.zeros((n, len(coords)), np.int64)
    for axis, along in enumerate(coords):
        np.minimum.at(start[:, axis], piece, along)
        np.maximum.at(stop[:, axis], piece, along + 1)
    return np.minimum(start, stop), stop


def _collect(piece: np.ndarray, indices: np.ndarray, coords: np.ndarray, pairs: np.ndarray) -> Components:
    order = np.argsort(piece, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(piece))]).astype(np.int64)
    pair = pairs[order][offsets[:-1]]
    start, stop = _boxes(coords, piece)
    return Components(
        from_class=(pair >> 8).astype(np.uint8),
        to_class=(pair & 255).astype(np.uint8),
        start=start,
        stop=stop,
        offsets=offsets,
        indices=indices[order],
    )


def _check(
    labels: np.ndarray,
    proposal: np.ndarray,
    suspicious: np.ndarray,
    spacing: Sequence[float],
    split_mm: float,
) -> None:
    if not labels.shape == proposal.shape == suspicious.shape:
        raise ShapeMismatch(
            f"labels, proposal and suspicious voxels lie on one grid: got {labels.shape}, {proposal.shape} "
            f"and {suspicious.shape}. Score the case again from the labels it has now."
        )
    if len(spacing) != labels.ndim:
        raise ShapeMismatch(
            f"spacing needs one value per axis: got {tuple(spacing)} for an array of shape {labels.shape}. "
            "Hand it over in array order."
        )
    if not (split_mm > 0 and all(mm > 0 for mm in spacing)):
        raise BadSetting(
            f"split_mm and spacing must be above 0: got {split_mm} and {tuple(spacing)}. "
            "Correct the setting, or the voxel size of the file."
        )
