"""The maps and statistics that a run leaves of each case. No torch: the window reads them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays.competence import learnt
from napari_noisylabel.errors import UnreadableFile
from napari_noisylabel.store.files import read_json, write_json
from napari_noisylabel.store.maps import open_map, read_map, write_map

STATISTICS = "statistics.json"
VOTES = "votes"
"""Map of an ensemble's case and track, (runs, *spatial): 1 where a run proposes what the ensemble does."""

MEASURED = ("unseen", "seen", "between", "overlap")


@dataclass(frozen=True)
class TrackStatistics:
    """What the filter needs of one case and track, so that it need not read maps.

    `histogram` (K, BINS) voxels per class and score, verified ones left out. Mean distances of
    boundaries, in voxels, (K,), NaN where nothing shows the class: `unseen` of the label from the
    network that has not seen the case, `seen` from those that were trained on it, `between` of
    the two from each other. `overlap` (K,): Dice of the label with those that were trained on it, NaN in runs that
    did not measure it. `systematic` (K, K): P(drawn with an error that the labels share) per class
    there and class that it should be, where the method knows of one.
    """

    histogram: np.ndarray
    unseen: np.ndarray
    seen: np.ndarray
    between: np.ndarray
    overlap: np.ndarray
    systematic: np.ndarray | None = None


def known_classes(cases: Sequence[TrackStatistics], n_classes: int) -> np.ndarray:
    """(K,) bool: the classes that the networks have learnt, by all training cases of one track."""
    measured = (np.array([getattr(own, n) for own in cases], float) for n in ("seen", "overlap", "unseen"))
    return learnt(*(values.reshape(-1, n_classes) for values in measured))


class CaseScores:
    """The maps of one case in a run's folder. Statistics come last: with them a case is complete."""

    def __init__(self, run_folder: Path, case: str) -> None:
        self.folder = run_folder / "maps" / case

    @property
    def complete(self) -> bool:
        return (self.folder / STATISTICS).exists()

    def write(self, name: str, array: np.ndarray) -> None:
        write_map(self.folder, name, array)

    def open(self, name: str) -> Any:
        """A map to be read slice by slice, or None."""
        return open_map(self.folder, name)

    def read(self, name: str) -> np.ndarray | None:
        """A map as a whole, or None."""
        return read_map(self.folder, name)

    def require(self, name: str) -> np.ndarray:
        """A map as a whole. Raises UnreadableFile."""
        found = self.read(name)
        if found is None:
            raise UnreadableFile(f"map {name!r} is missing in {self.folder}. Train again: this run is not complete.")
        return found

    def write_statistics(self, statistics: Mapping[str, TrackStatistics]) -> None:
        write_json(self.folder / STATISTICS, {t: _as_tree(own) for t, own in statistics.items()}, nan_as_null=True)

    def statistics(self) -> dict[str, TrackStatistics]:
        """Per track. Raises UnreadableFile."""
        return {track: _from_tree(own) for track, own in read_json(self.folder / STATISTICS).items()}


def _as_tree(own: TrackStatistics) -> dict[str, Any]:
    known = {} if own.systematic is None else {"systematic": own.systematic.tolist()}
    measured = {name: getattr(own, name).tolist() for name in MEASURED}
    return {"histogram": _sparse(own.histogram), **measured, **known}


def _from_tree(tree: Mapping[str, Any]) -> TrackStatistics:
    unknown = [np.nan] * len(tree["seen"])
    measured = {name: np.array(tree.get(name, unknown), float) for name in MEASURED}
    systematic = np.array(tree["systematic"], float) if "systematic" in tree else None
    return TrackStatistics(_dense(tree["histogram"]), **measured, systematic=systematic)


def _sparse(histogram: np.ndarray) -> dict[str, Any]:
    where = np.flatnonzero(histogram)
    return {"shape": list(histogram.shape), "bins": where.tolist(), "counts": histogram.ravel()[where].tolist()}


def _dense(sparse: Mapping[str, Any]) -> np.ndarray:
    out = np.zeros(int(np.prod(sparse["shape"])), np.int64)
    out[np.array(sparse["bins"], np.int64)] = sparse["counts"]
    return out.reshape(sparse["shape"])
