"""Events from verdicts, and the order of the queue. Pure reading: nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays import labels as voxel_runs
from napari_noisylabel.arrays.labels import VoxelRuns
from napari_noisylabel.engine.source import given_of
from napari_noisylabel.errors import NothingToDo, UnknownName
from napari_noisylabel.io.cases import load_file
from napari_noisylabel.records import Case, Event, Region, Verdict
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.events import now, redoing, undoing

ORDERS: Mapping[str, Callable[[Region], Any]] = {
    "gain": lambda r: (-r.gain, r.id),
    "likelihood": lambda r: (-r.likelihood, -r.voxels, r.id),
    "size": lambda r: (-r.voxels, r.id),
    "case": lambda r: (r.case, r.track, -r.gain, r.id),
}

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""First voxel of a box and one past its last, in array indices."""


def sort_regions(regions: Sequence[Region], order: str, seed: int = 0) -> tuple[Region, ...]:
    """Regions by "gain", "likelihood", "size", "case" or "random". Raises UnknownName."""
    if order == "random":
        by_id = sorted(regions, key=lambda r: r.id)
        return tuple(by_id[i] for i in np.random.default_rng(seed).permutation(len(by_id)))
    if order not in ORDERS:
        raise UnknownName(f"there is no order {order!r}. The orders are: {', '.join([*ORDERS, 'random'])}.")
    return tuple(sorted(regions, key=ORDERS[order]))


def decide(store: ProjectStore, region: Region, verdict: Verdict, by: str, note: str = "") -> Event:
    """The event of a verdict on one region: ACCEPTED, REJECTED or UNSURE."""
    runs = store.region_runs(region.id)
    if verdict is Verdict.REJECTED:
        runs = VoxelRuns(runs.starts, runs.lengths, runs.before, runs.before)
    elif verdict is Verdict.UNSURE:
        runs = voxel_runs.empty_runs()
    return Event(0, now(), by, verdict, region.case, region.track, runs, region.run, region.id, 0, note)


def edit(
    store: ProjectStore, place: tuple[str, str], before: np.ndarray, after: np.ndarray, by: str,
    *, box: Box | None = None, region: Region | None = None, note: str = "",
) -> Event:  # fmt: skip
    """The event of painted labels of a (case, track), and of the region they decide, if one is given.

    `before` and `after` are (*spatial); only `box` is compared (None: everything). Raises NothingToDo.
    """
    if region is not None and box is not None:
        box = union(box, (region.start, region.stop))
    decided = None if region is None else store.region_runs(region.id)
    runs = changes(before, np.asarray(after), box, decided)
    if not voxel_runs.count(runs):
        raise NothingToDo("an edit changes at least one voxel, and nothing was painted. Paint, then apply.")
    run, number = ("", 0) if region is None else (region.run, region.id)
    return Event(0, now(), by, Verdict.EDITED, *place, runs, run, number, 0, note)


def verify(
    store: ProjectStore, case: Case, track: str, by: str, labels: Path | str | None = None, note: str = ""
) -> Event:
    """The event that all of a case is right in one track, with the labels of a file if one is given.

    Raises UnknownName where the case has no labels of the track.
    """
    if not case.is_labelled(track):
        raise UnknownName(f"case {case.id!r} has no labels of track {track!r}, so there is nothing to verify.")
    runs = voxel_runs.empty_runs()  # the verdict itself verifies all voxels; runs are what it changes
    if labels is not None:
        chosen = store.track(track)
        before = store.corrected(case.id, track, given_of((chosen,), case)[chosen])
        runs = changes(before, load_file(labels, case, chosen))
    return Event(0, now(), by, Verdict.VERIFIED, case.id, track, runs, note=note)


def turn_back(store: ProjectStore, verdict: Verdict, by: str, note: str = "") -> Event:
    """The event that undoes or redoes what is next in turn. Raises NothingToDo."""
    undo = verdict is Verdict.UNDONE
    target = store.undo_target() if undo else store.redo_target()
    if target is None:
        word = "undo" if undo else "redo"
        raise NothingToDo(f"there is no decision to {word}. Nothing has changed.")
    return (undoing if undo else redoing)(target, by, note=note)


def changes(
    before: np.ndarray, after: np.ndarray, box: Box | None = None, region: VoxelRuns | None = None
) -> VoxelRuns:
    """What differs between two label maps within a box (None: anywhere), and the voxels of a region in it."""
    low, high = box or ((0,) * before.ndim, before.shape)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    mask = before[inside] != after[inside]
    if region is not None:
        at = np.unravel_index(voxel_runs.voxel_indices(region), before.shape)
        mask[tuple(a - first for a, first in zip(at, low, strict=True))] = True
    return voxel_runs.encode_box(low, before.shape, mask, before[inside], after[inside])


def union(a: Box | None, b: Box) -> Box:
    """The smallest box around both."""
    if a is None:
        return tuple(int(v) for v in b[0]), tuple(int(v) for v in b[1])
    low = tuple(min(int(x), int(y)) for x, y in zip(a[0], b[0], strict=True))
    return low, tuple(max(int(x), int(y)) for x, y in zip(a[1], b[1], strict=True))
