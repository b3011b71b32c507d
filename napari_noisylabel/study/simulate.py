"""A simulated reviewer who knows the truth: what a queue is worth, region by region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays.labels import voxel_indices
from napari_noisylabel.arrays.metrics import confusion_matrix
from napari_noisylabel.decisions import sort_regions
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.errors import BadSetting, NothingToDo
from napari_noisylabel.records import IGNORE, Region, RegionState, Track
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.study.evaluate import Figures, mean_or_none, means_per_class
from napari_noisylabel.study.truth import choose_run, choose_tracks, find_truth


def simulate(
    store: ProjectStore, truth: Path | str, *, order: str = "gain", budget: int = 0, run: str | None = None,
    track: str | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Work down the queue: accept a region if its proposal lowers the number of wrong voxels, else reject it.

    Works on copies in memory; no event is written.

    Parameters
    ----------
    truth, run, track : as in `evaluate`.
    order : gain, likelihood, size, case or random (by `seed`).
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
    table = _Table(store, Path(truth), tracks)
    found = store.regions(run=chosen.id, states=[RegionState.OPEN])
    queue = sort_regions([r for r in found if table.knows(r)], order, seed)[: budget or None]
    if not queue:
        raise NothingToDo(
            f"run {chosen.id} has no open region of a case with truth: there is nothing to review. "
            "Filter again with a lower threshold."
        )
    start, curve = table.dice(), [table.dice_mean()]
    accepted = 0
    for region in queue:
        accepted += table.decide(region)
        curve.append(table.dice_mean())
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


class _Table:
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

    def knows(self, region: Region) -> bool:
        return (region.track, region.case) in self._matrix

    def decide(self, region: Region) -> bool:
        """True if the region was accepted: more of its voxels become right than wrong."""
        key = (region.track, region.case)
        where = voxel_indices(self._store.region_runs(region.id))
        labels, matrix = self._labels[key].reshape(-1), self._matrix[key]
        true = self._truth[key].reshape(-1)[where]
        where, true = where[true != IGNORE], true[true != IGNORE]
        before = labels[where]
        if np.count_nonzero(true == region.to_class) <= np.count_nonzero(true == before):
            return False
        labels[where] = region.to_class
        known = before < len(matrix)
        np.subtract.at(matrix, (before[known], true[known]), 1)
        np.add.at(matrix, (np.full(true.shape, region.to_class), true), 1)
        return True

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
