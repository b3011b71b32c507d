"""A simulated reviewer who knows the truth: what a queue is worth, region by region."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays.labels import voxel_indices
from napari_noisylabel.arrays.metrics import confusion_matrix
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.errors import BadSetting, NothingToDo
from napari_noisylabel.records import IGNORE, Region, RegionState, Run, Track
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.study.evaluate import Figures, mean_or_none, means_per_class
from napari_noisylabel.study.samplers import order_regions
from napari_noisylabel.study.truth import choose_run, choose_tracks, find_truth

SHARES = (0.5, 0.8, 0.95)
"""Of what the whole queue gives: where orders are compared."""


def simulate(
    store: ProjectStore, truth: Path | str, *, order: str = "gain", budget: int = 0, run: str | None = None,
    track: str | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Work down the queue: accept a region if its proposal lowers the number of wrong voxels, else reject it.

    Works on copies in memory; no event is written.

    Parameters
    ----------
    truth, run, track : as in `evaluate`.
    order : gain, likelihood, size, case, random (by `seed`) or a sampler, see `order_regions`.
    budget : regions after which the reviewer stops; 0: none, to the end of the queue.

    Returns
    -------
    `{"run", "order", "seen", "accepted", "rejected", "start", "end", "curve"}`: `start` and `end` are
    `{"dice": {CLASS: x}, "dice_mean": x}`; `curve[i]` is the mean Dice after i regions.

    Raises
    ------
    NothingToDo : no complete run, or no open region of a case with truth.
    BadSetting : a negative budget. What `evaluate` raises.
    """
    if budget < 0:
        raise BadSetting(f"a budget is a number of regions, got {budget}. Give 0 for the whole queue.")
    tracks = choose_tracks(store, track)
    chosen = choose_run(store, run)
    if chosen is None:
        raise NothingToDo("no run is complete yet, so there is no queue. Train first: noisylabel train.")
    table = DecidedLabels(store, Path(truth), tracks)
    found = store.regions(run=chosen.id, states=[RegionState.OPEN])
    queue = order_regions(store, chosen, [r for r in found if table.knows(r)], order, seed)[: budget or None]
    _require_some(queue, chosen)
    start = table.dice()
    curve, accepted = _go_down(table, queue)
    return {
        "run": chosen.id,
        "order": order,
        "seen": len(queue),
        "accepted": accepted,
        "rejected": len(queue) - accepted,
        "start": {"dice": start, "dice_mean": mean_or_none(start.values())},
        "end": {"dice": table.dice(), "dice_mean": table.dice_mean()},
        "curve": curve,
    }


def compare_orders(
    store: ProjectStore, truth: Path | str, orders: Sequence[str], *, shares: Sequence[float] = SHARES,
    run: str | None = None, track: str | None = None, seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> dict[str, Any]:  # fmt: skip
    """Which order of the queue is worth most: how many regions until most of what the queue can give is there.

    Parameters
    ----------
    orders : as in `simulate`; "random" is the mean curve over `seeds`.
    shares : of the gain in Dice that the whole queue gives, at which looks are counted.

    Returns
    -------
    `{"run", "regions", "start", "end", "targets": [...], "needed": {ORDER: [...]}, "curves": {ORDER: [...]}}`: Dice,
    and how many regions it takes, at each of `shares`; both are empty where the queue gives nothing.

    Raises
    ------
    As `simulate`.
    """
    tracks, chosen = choose_tracks(store, track), choose_run(store, run)
    if chosen is None:
        raise NothingToDo("no run is complete yet, so there is no queue. Train first: noisylabel train.")
    table = DecidedLabels(store, Path(truth), tracks)
    found = [r for r in store.regions(run=chosen.id, states=[RegionState.OPEN]) if table.knows(r)]
    _require_some(found, chosen)
    curves = {}
    for order in dict.fromkeys(orders):
        each = []
        for seed in seeds if order == "random" else seeds[:1]:
            queue = order_regions(store, chosen, found, order, seed)
            each.append(_go_down(table.copy(), queue)[0])
        curves[order] = [mean_or_none(values) for values in zip(*each, strict=True)]
    first = next(iter(curves.values()))
    start, end = first[0], first[-1]
    targets = [] if start is None or end is None or end <= start else [start + s * (end - start) for s in shares]
    needed = {order: [_reached(curve, t) for t in targets] for order, curve in curves.items()}
    return {
        "run": chosen.id, "regions": len(found), "start": start, "end": end, "targets": targets, "needed": needed,
        "curves": curves,
    }  # fmt: skip


def _require_some(queue: Sequence[Region], run: Run) -> None:
    if not queue:
        raise NothingToDo(
            f"run {run.id} has no open region of a case with truth: there is nothing to review. "
            "Filter again with a lower threshold."
        )


def _go_down(table: DecidedLabels, queue: Sequence[Region]) -> tuple[list[float | None], int]:
    """Mean Dice after 0, 1, 2, ... regions, and how many of them were accepted."""
    curve, accepted = [table.dice_mean()], 0
    for region in queue:
        accepted += table.decide(region)
        curve.append(table.dice_mean())
    return curve, accepted


def _reached(curve: Sequence[float | None], target: float) -> int | None:
    """The first place on a curve that is at `target` or above."""
    return next((i for i, value in enumerate(curve) if value is not None and value >= target - 1e-12), None)


class DecidedLabels:
    """Labels and truth of every case in memory, with a confusion matrix each that follows the decisions."""

    def __init__(self, store: ProjectStore, folder: Path, tracks: tuple[Track, ...]) -> None:
        self._store, self._tracks = store, tracks
        self._labels: dict[tuple[str, str], np.ndarray] = {}
        self._truth: dict[tuple[str, str], np.ndarray] = {}
        self._matrix: dict[tuple[str, str], np.ndarray] = {}
        files = find_truth(store, folder, tracks)
        for track in tracks:
            for case, true in files.training(track):
                key = (track.name, case.id)
                self._labels[key], self._truth[key] = labels_of(store, case)[track.name], true
                self._matrix[key] = confusion_matrix(self._labels[key], true, track.n_classes)

    def copy(self) -> DecidedLabels:
        """One that goes its own way from here."""
        other = copy.copy(self)
        other._labels = {key: labels.copy() for key, labels in self._labels.items()}
        other._matrix = {key: matrix.copy() for key, matrix in self._matrix.items()}
        return other

    def knows(self, region: Region) -> bool:
        return (region.track, region.case) in self._matrix

    def decide(self, region: Region) -> bool:
        """True if the region was accepted: more of its voxels become right than wrong."""
        if not self.would_accept(region):
            return False
        where, true = self.look(region)
        self.paint(region, where, np.full(true.shape, region.to_class, np.uint8))
        return True

    def would_accept(self, region: Region) -> bool:
        """True if accepting it makes more of its voxels right than wrong."""
        where, true = self.look(region)
        before = self._labels[region.track, region.case].reshape(-1)[where]
        return bool(np.count_nonzero(true == region.to_class) > np.count_nonzero(true == before))

    def look(self, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices (N,) of the region's voxels that have a truth, and their true classes (N,)."""
        where = voxel_indices(self._store.region_runs(region.id))
        true = self._truth[region.track, region.case].reshape(-1)[where]
        return where[true != IGNORE], true[true != IGNORE]

    def paint(self, region: Region, where: np.ndarray, classes: np.ndarray) -> None:
        """Give the voxels `where` (N,) of a region's case their new classes (N,)."""
        key = (region.track, region.case)
        labels, matrix = self._labels[key].reshape(-1), self._matrix[key]
        true, before = self._truth[key].reshape(-1)[where], labels[where]
        labels[where] = classes
        known = before < len(matrix)
        np.subtract.at(matrix, (before[known], true[known]), 1)
        np.add.at(matrix, (classes, true), 1)

    def wrong_share(self) -> float:
        """Of all voxels with a truth, those whose label is wrong."""
        total = sum(int(m.sum()) for m in self._matrix.values())
        return 1 - sum(int(np.trace(m)) for m in self._matrix.values()) / max(1, total)

    def dice(self) -> Figures:
        found: Figures = {}
        for track in self._tracks:
            rows = [_dice(matrix)[1:] for (name, _), matrix in self._matrix.items() if name == track.name]
            found |= means_per_class(self._tracks, track, rows)
        return found

    def dice_mean(self) -> float | None:
        return mean_or_none(self.dice().values())


def _dice(matrix: np.ndarray) -> np.ndarray:
    sizes = matrix.sum(0) + matrix.sum(1)
    return np.divide(2 * np.diag(matrix), sizes, out=np.full(len(matrix), np.nan), where=sizes > 0)
