"""The maps and statistics that a run leaves of each case. No torch: the window reads them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.store.files import read_json, write_json
from napari_noisylabel.store.maps import open_map, read_map, write_map

STATISTICS = "statistics.json"


@dataclass(frozen=True)
class TrackStatistics:
    """What the filter needs of one case and track, so that it need not read maps.

    `histogram` (K, BINS) voxels per class and score, verified ones left out; `displacement` (K,)
    mean distance of the label's boundary from the proposal's, in voxels, NaN where there is none.
    """

    histogram: np.ndarray
    displacement: np.ndarray


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

    def write_statistics(self, statistics: Mapping[str, TrackStatistics]) -> None:
        tree = {
            track: {"histogram": _sparse(own.histogram), "displacement": own.displacement.tolist()}
            for track, own in statistics.items()
        }
        write_json(self.folder / STATISTICS, tree, nan_as_null=True)

    def statistics(self) -> dict[str, TrackStatistics]:
        """Per track. Raises UnreadableFile."""
        tree = read_json(self.folder / STATISTICS)
        return {t: TrackStatistics(_dense(s["histogram"]), np.array(s["displacement"], float)) for t, s in tree.items()}


def _sparse(histogram: np.ndarray) -> dict[str, Any]:
    where = np.flatnonzero(histogram)
    return {"shape": list(histogram.shape), "bins": where.tolist(), "counts": histogram.ravel()[where].tolist()}


def _dense(sparse: Mapping[str, Any]) -> np.ndarray:
    out = np.zeros(int(np.prod(sparse["shape"])), np.int64)
    out[np.array(sparse["bins"], np.int64)] = sparse["counts"]
    return out.reshape(sparse["shape"])
