"""Suspicious voxels become regions: pieces of one class pair, each small enough for one decision."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import ceil, prod

import numpy as np

from napari_noisylabel.arrays.labels import BLOCK
from napari_noisylabel.arrays.strips import (
    Strips,
    boxes,
    by_first,
    count_contacts,
    cut,
    joined,
    rows_around,
    rows_before,
    strips_of,
    touching,
)
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
    _check_grid(labels, proposal, suspicious)
    changed = changed_voxels(labels, proposal)
    indices = changed[suspicious.reshape(-1)[changed]]
    return regions_among(
        indices, labels, proposal, spacing, split_mm=split_mm, min_voxels=min_voxels, min_volume=min_volume
    )


def changed_voxels(labels: np.ndarray, proposal: np.ndarray) -> np.ndarray:
    """Flat indices in C order of the voxels where two label maps (*spatial) differ, rising, (M,) int64.

    Raises ShapeMismatch.
    """
    _check_grid(labels, proposal)
    here, there = labels.reshape(-1), proposal.reshape(-1)
    blocks = ((here[a : a + BLOCK] != there[a : a + BLOCK], a) for a in range(0, here.size, BLOCK))
    return np.concatenate([np.zeros(0, np.int64), *(np.flatnonzero(differ) + a for differ, a in blocks)])


def regions_among(
    indices: np.ndarray,
    labels: np.ndarray,
    proposal: np.ndarray,
    spacing: Sequence[float],
    *,
    split_mm: float = SPLIT_MM,
    min_voxels: int = MIN_VOXELS,
    min_volume: float = MIN_VOLUME,
) -> Components:
    """`find_regions` for who knows the suspicious voxels: what is asked of a large case then costs what they cost.

    `indices` (M,) are some of `changed_voxels(labels, proposal)`, rising. The rest is as there.
    """
    _check_spacing(labels.shape, spacing, split_mm)
    codes = _pair_codes(labels.reshape(-1)[indices], proposal.reshape(-1)[indices])
    strips, codes = strips_of(indices, codes, labels.shape)
    pairs = _of_one_code(touching(strips, strips, rows_before(labels.ndim)), codes)
    component = joined(pairs, len(strips))

    smallest = max(min_voxels, ceil(min_volume / prod(spacing) - 1e-9))
    large = (_sizes(strips, component) >= smallest)[component]
    strips, pairs = strips.take(np.flatnonzero(large)), _among(pairs, large)
    codes, component = codes[large], by_first(component[large])

    strips, origin, piece = _split(strips, pairs, component, np.asarray(spacing, np.float64), split_mm)
    piece = by_first(piece)
    contacts = _crumb_contacts(strips, piece, component[origin], smallest)
    piece = by_first(_merge_crumbs(_sizes(strips, piece).tolist(), smallest, contacts)[piece])
    return _collect(strips, piece, codes[origin])


# ---------------------------------------------------------------- connect, cut, merge
# From here on only the S strips of suspicious voxels are looked at, in C order, with the number of the component or
# piece that each belongs to, (S,) int64.


def _pair_codes(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """256 x class now + class proposed, (M,) uint16; never 0, since the two differ."""
    for classes in (before, after):
        if classes.size and not 0 <= classes.min() <= classes.max() <= 255:
            raise BadLabels(
                f"labels and proposal hold class indices from 0 to 255, found {classes.min()} to "
                f"{classes.max()}. Turn the values of the source into class indices first."
            )
    return before.astype(np.uint16) << 8 | after.astype(np.uint16)


def _of_one_code(pairs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The pairs (2, E) whose two strips change from the same class to the same."""
    return np.compress(np.equal(*codes.take(pairs)), pairs, axis=1)


def _among(pairs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Pairs (2, E) of the strips that are kept, with their new numbers; strips of a pair go or stay together."""
    return (np.cumsum(kept) - 1).take(np.compress(kept.take(pairs[0]), pairs, axis=1))


def _split(
    strips: Strips, pairs: np.ndarray, component: np.ndarray, spacing: np.ndarray, split_mm: float
) -> tuple[Strips, np.ndarray, np.ndarray]:
    """Pieces that are connected, and along no axis longer than `split_mm` (or one voxel).

    In each round every long piece is cut into equal slabs across its longest axis, and what the
    cuts leave unconnected parts. So there are at most as many rounds as axes.

    Returns the strips as they are then, of which strip each is a part, (T,), and the piece of each, (T,).
    """
    step = np.maximum(1, np.floor(split_mm / spacing + 1e-9)).astype(np.int64)
    origin, piece = np.arange(len(strips)), component
    while len(strips):
        start, stop = boxes(strips, piece)
        slabs = -((start - stop) // step)
        if (slabs <= 1).all():
            break
        axis = np.where(slabs > 1, (stop - start) * spacing, 0.0).argmax(axis=1)
        row = np.arange(len(axis))
        grid = axis, start[row, axis], (stop - start)[row, axis], slabs[row, axis]
        strips, pairs, part_of = cut(strips, pairs, *(of.take(piece) for of in grid))
        origin, piece = origin[part_of], joined(pairs, len(strips))
    return strips, origin, piece


def _crumb_contacts(strips: Strips, piece: np.ndarray, component: np.ndarray, smallest: int) -> dict[int, Counter[int]]:
    """For each piece below `smallest`: how often its voxels touch each other piece of its component."""
    sizes = _sizes(strips, piece)
    crumbs = np.flatnonzero((sizes < smallest)[piece])
    mine, other = touching(strips.take(crumbs), strips, rows_around(len(strips.shape)))
    mine = crumbs[mine]
    beside = (component[mine] == component[other]) & (piece[mine] != piece[other])
    mine, other = mine[beside], other[beside]

    pair, which = np.unique(piece[mine] * len(sizes) + piece[other], return_inverse=True)
    counts = np.bincount(which, count_contacts(strips.take(mine), strips.take(other)))
    contacts: dict[int, Counter[int]] = defaultdict(Counter)
    for both, count in zip(pair.tolist(), counts.tolist(), strict=True):
        crumb, beside_it = divmod(both, len(sizes))
        contacts[crumb][beside_it] = int(count)
    return contacts


def _merge_crumbs(sizes: list[int], smallest: int, contacts: dict[int, Counter[int]]) -> np.ndarray:
    """The piece that each piece, (N,), is part of after every crumb went to the neighbour it touches most.

    The smallest crumb goes first, and of neighbours touched as much it takes the smallest, so
    that a thread of crumbs falls into several pieces and not into one; then the first.
    """
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
    return heir


# ---------------------------------------------------------------- number, measure, lay out


def _sizes(strips: Strips, number: np.ndarray) -> np.ndarray:
    """Voxels of each component or piece, (N,) int64."""
    return np.bincount(number, strips.length).astype(np.int64)


def _collect(strips: Strips, piece: np.ndarray, codes: np.ndarray) -> Components:
    order = np.argsort(piece, kind="stable")
    sizes = _sizes(strips, piece)
    start, stop = boxes(strips, piece)
    code = np.zeros(len(sizes), np.uint16)
    code[piece] = codes
    return Components(
        from_class=(code >> 8).astype(np.uint8),
        to_class=(code & 255).astype(np.uint8),
        start=start,
        stop=stop,
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        indices=strips.take(order).indices(),
    )


def _check_grid(*maps: np.ndarray) -> None:
    if len({m.shape for m in maps}) > 1:
        raise ShapeMismatch(
            f"labels, proposal and suspicious voxels lie on one grid: got {' and '.join(str(m.shape) for m in maps)}. "
            "Score the case again from the labels it has now."
        )


def _check_spacing(shape: tuple[int, ...], spacing: Sequence[float], split_mm: float) -> None:
    if len(spacing) != len(shape):
        raise ShapeMismatch(
            f"spacing needs one value per axis: got {tuple(spacing)} for an array of shape {shape}. "
            "Hand it over in array order."
        )
    if not (split_mm > 0 and all(mm > 0 for mm in spacing)):
        raise BadSetting(
            f"split_mm and spacing must be above 0: got {split_mm} and {tuple(spacing)}. "
            "Correct the setting, or the voxel size of the file."
        )
