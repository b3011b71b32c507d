"""cleanlab's segmentation scores on the out-of-fold probabilities of a cross-entropy run, as a row of the table.

cleanlab flattens all images to pixels, so the voxels of all cases go in as one picture of a single line: that
changes none of its figures, and cases need not be of one shape. `method="softmin"`, `n_jobs=1` and one batch are
its fast settings (its own documentation: "softmin ... for efficiency", "try to use the largest batch_size").
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays.metrics import (
    area_under_roc,
    assd,
    count_scores,
    dice_per_class,
    hd95,
    per_class,
    precision_over_counts,
)
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.errors import MissingPart, UnreadableFile
from napari_noisylabel.records import IGNORE, Run, Track
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.files import disk_errors, read_json, write_json
from napari_noisylabel.study.evaluate import mean_or_none, means_per_class
from napari_noisylabel.study.truth import find_truth

INSTALL = "pip install 'napari-noisylabel[bench]'"
TRACK_FILE = "track.json"


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What a run left of one case: `probs` (K, *spatial) uint8, labels it started from, truth (*spatial) uint8."""

    case: str
    probs: np.ndarray
    labels: np.ndarray
    true: np.ndarray
    spacing: tuple[float, ...]

    @property
    def counts(self) -> np.ndarray:
        """Voxels with a label and a truth."""
        return (self.labels != IGNORE) & (self.true != IGNORE)


@dataclass(frozen=True, eq=False)
class Found:
    """cleanlab's answer per voxel (N,): quality in [0, 1], low = suspicious; issues; and the seconds of both."""

    quality: np.ndarray
    issues: np.ndarray
    score_s: float
    issues_s: float


def has_cleanlab() -> bool:
    """True where cleanlab is installed."""
    return importlib.util.find_spec("cleanlab") is not None


def keep_probabilities(store: ProjectStore, run: Run, truth: Path, folder: Path) -> None:
    """Write what `score_with_cleanlab` needs of each case with truth that is not held out."""
    track = store.tracks[0]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for case, true in find_truth(store, truth, (track,)).training(track):
        probs = CaseScores(store.run_folder(run.id), case.id).require(f"{track.name}.probs")
        labels = labels_of(store, case, run.label_version)[track.name]
        with disk_errors(folder):
            np.savez_compressed(
                folder / f"{case.id}.npz", probs=probs, labels=labels, true=true, spacing=case.geometry.spacing
            )
    write_json(folder / TRACK_FILE, {"name": track.name, "classes": track.classes, "values": track.values})


def score_with_cleanlab(folder: Path) -> dict[str, Any]:
    """Figures as `evaluate` gives them, of cleanlab instead of a run, and its seconds.

    Voxels rank by 1 - quality; *corrected* are the labels with every issue replaced by the most probable class.

    Raises
    ------
    MissingPart : cleanlab is not installed. UnreadableFile : the probabilities are not there.
    """
    track, cases = read_probabilities(folder)
    voxels = [c.counts for c in cases]
    labels = np.concatenate([c.labels[v] for c, v in zip(cases, voxels, strict=True)])
    probs = np.concatenate([c.probs[:, v] for c, v in zip(cases, voxels, strict=True)], axis=1)
    found = find_issues(labels, probs)
    wrong = labels != np.concatenate([c.true[v] for c, v in zip(cases, voxels, strict=True)])
    hits, misses = count_scores(1 - found.quality, wrong)
    ends = np.cumsum([np.count_nonzero(v) for v in voxels])[:-1]
    corrected = [_corrected(c, v, i) for c, v, i in zip(cases, voxels, np.split(found.issues, ends), strict=True)]
    return {
        "evaluate": {
            "labels": {
                "given": _overlap(track, cases, [c.labels for c in cases]),
                "proposal": None,
                "corrected": _overlap(track, cases, corrected),
            },
            "likelihood": {
                "average_precision": _or_none(precision_over_counts(hits, misses)),
                "auroc": _or_none(area_under_roc(hits, misses)),
                "error_rate": float(wrong.mean()),
            },
            "held_out": None,
        },
        "seconds": {"score": round(found.score_s, 3), "issues": round(found.issues_s, 3)},
        "issues": int(found.issues.sum()),
    }


def read_probabilities(folder: Path) -> tuple[Track, list[OutOfFold]]:
    """What `keep_probabilities` wrote. Raises UnreadableFile."""
    known = read_json(folder / TRACK_FILE)
    track = Track(known["name"], tuple(known["classes"]), tuple(known["values"]))
    return track, list(_read(folder))


def find_issues(labels: np.ndarray, probs: np.ndarray) -> Found:
    """cleanlab on the voxels of all cases together.

    Parameters
    ----------
    labels : (N,) class indices. probs : (K, N) uint8, 255 = surely.

    Raises
    ------
    MissingPart : cleanlab is not installed.
    """
    rank, issues = _cleanlab("rank"), _cleanlab("filter")
    lines = labels.astype(np.int64)[None, None]
    shares = as_probabilities(probs)[None, :, None]
    began = time.perf_counter()
    _, quality = rank.get_label_quality_scores(lines, shares, method="softmin", verbose=False)
    scored = time.perf_counter()
    found = issues.find_label_issues(lines, shares, n_jobs=1, batch_size=max(1, shares.size), verbose=False)
    return Found(quality[0, 0], found[0, 0], scored - began, time.perf_counter() - scored)


def as_probabilities(probs: np.ndarray) -> np.ndarray:
    """(K, N) float32 that add up to 1, from uint8."""
    shares = probs.astype(np.float32)
    return shares / np.maximum(shares.sum(0, keepdims=True), 1)


# ---------------------------------------------------------------- helpers, in order of use


def _corrected(case: OutOfFold, voxels: np.ndarray, issues: np.ndarray) -> np.ndarray:
    labels = case.labels.copy()
    labels[voxels] = np.where(issues, case.probs[:, voxels].argmax(0), case.labels[voxels])
    return labels


def _overlap(track: Track, cases: Sequence[OutOfFold], labels: Sequence[np.ndarray]) -> dict[str, Any]:
    n, tracks = track.n_classes, (track,)
    pairs = list(zip(cases, labels, strict=True))
    dice = means_per_class(tracks, track, [dice_per_class(own, c.true, n)[1:] for c, own in pairs])
    far = {
        measure.__name__: means_per_class(
            tracks, track, [per_class(measure, own, c.true, n, c.spacing)[1:] for c, own in pairs]
        )
        for measure in (hd95, assd)
    }
    return {"dice": dice, "dice_mean": mean_or_none(dice.values()), **far}


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _read(folder: Path) -> Iterator[OutOfFold]:
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise UnreadableFile(f"the out-of-fold probabilities are not in {folder}. Remove the cell's file and resume.")
    for path in files:
        with np.load(path, allow_pickle=False) as maps:
            spacing = tuple(float(v) for v in maps["spacing"])
            yield OutOfFold(path.stem, maps["probs"], maps["labels"], maps["true"], spacing)


def _cleanlab(part: str) -> Any:
    try:
        return importlib.import_module(f"cleanlab.segmentation.{part}")
    except ImportError as error:
        raise MissingPart(
            f"cleanlab is not installed, so it cannot be compared with. Install it: {INSTALL}."
        ) from error
