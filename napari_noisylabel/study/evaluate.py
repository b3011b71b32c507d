"""Figures of a project against the truth: labels given, proposed and corrected, and how well errors are found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from napari_noisylabel.errors import NoPairs
from napari_noisylabel.records import IGNORE, Case, Run, Track
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.study.truth import Truth, choose_run, choose_tracks, class_keys, find_truth

Figures = dict[str, float | None]


def evaluate(
    store: ProjectStore, truth: Path | str, run: str | None = None, track: str | None = None,
    progress: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure the labels of a project against true ones.

    Parameters
    ----------
    truth : folder with one label file per case, in the project's values; one folder per track inside
        it where the project has several. Files without a case are ignored.
    run : by default the latest complete one. Before there is any, what needs one is None.
    track : one track instead of all.

    Returns
    -------
    `{"run", "method", "labels": {"given", "proposal", "corrected"}, "likelihood", "held_out"}`. Over
    cases with truth that are not held out: Dice where a class is in truth or labels, `hd95` and
    `assd` in mm where it is in both; means over cases, then over foreground classes (key
    `TRACK/CLASS` with several tracks). `likelihood` ranks all voxels together by the score: true
    errors are those of the labels that the run started from; verified voxels and those without
    annotation do not count. What is undefined is None.

    Raises
    ------
    NoPairs : no case has truth. BadLabels, ShapeMismatch, GeometryMismatch : it does not fit.
    UnknownName, NothingToDo : of the run or track.
    """
    tracks = choose_tracks(store, track)
    chosen = choose_run(store, run)
    files = find_truth(store, Path(truth), tracks)
    tally = _Tally(tracks)
    total = sum(len(f) for f in files.files.values())
    for done, (own, case, true) in enumerate(_training(files, tracks), 1):
        _measure_case(store, chosen, own, case, true, tally)
        if progress is not None:
            progress(min(done, total), total)
    if not tally.seen:
        raise NoPairs(
            f"figures need cases with truth that are not held out, and {truth} has none of them. "
            "Give the folder that holds their true labels."
        )
    return {
        "run": chosen.id if chosen else None,
        "method": chosen.method if chosen else None,
        "labels": {name: tally.overlap(name) for name in ("given", "proposal", "corrected")},
        "likelihood": tally.ranking(),
        "held_out": _held_out(store, files, tracks, chosen),
    }


# ---------------------------------------------------------------- helpers, in order of use


class _Tally:
    """Sums up over cases: Dice and distances per label state, counts of scores over right and wrong voxels."""

    def __init__(self, tracks: tuple[Track, ...]) -> None:
        self._tracks = tracks
        self._rows: dict[tuple[str, str, str], list[np.ndarray]] = {}
        self._hits = np.zeros(1 << 16, np.int64)
        self._misses = np.zeros(1 << 16, np.int64)
        self.seen = 0

    def add(self, state: str, track: Track, rows: Mapping[str, np.ndarray]) -> None:
        for name, row in rows.items():
            self._rows.setdefault((state, name, track.name), []).append(row)

    def add_scores(self, stored: np.ndarray, labels: np.ndarray, true: np.ndarray, skip: np.ndarray | None) -> None:
        counts = (labels != IGNORE) & (true != IGNORE)
        if skip is not None:
            counts &= ~skip
        hits, misses = count_scores(np.asarray(stored)[counts], (labels != true)[counts])
        self._hits += hits
        self._misses += misses

    def overlap(self, state: str) -> dict[str, Any] | None:
        """Dice, its mean, hd95 and assd of one label state; None where nothing was measured."""
        if not any(key[0] == state for key in self._rows):
            return None
        dice = self._means(state, "dice")
        return {
            "dice": dice,
            "dice_mean": mean_or_none(dice.values()),
            "hd95": self._means(state, "hd95"),
            "assd": self._means(state, "assd"),
        }

    def ranking(self) -> dict[str, float | None] | None:
        total = int(self._hits.sum() + self._misses.sum())
        if not total:
            return None
        return {
            "average_precision": _or_none(precision_over_counts(self._hits, self._misses)),
            "auroc": _or_none(area_under_roc(self._hits, self._misses)),
            "error_rate": float(self._hits.sum() / total),
        }

    def _means(self, state: str, measure: str) -> Figures:
        found: Figures = {}
        for track in self._tracks:
            rows = self._rows.get((state, measure, track.name), [])
            found |= means_per_class(self._tracks, track, rows)
        return found


def means_per_class(tracks: tuple[Track, ...], track: Track, rows: Iterable[np.ndarray]) -> Figures:
    """Mean over cases per foreground class, from rows (K - 1,) of single cases; NaN has no say."""
    table = np.array(list(rows), float).reshape(-1, track.n_classes - 1)
    keys = class_keys(tracks, track)
    return {key: mean_or_none(table[:, i].tolist()) for i, key in enumerate(keys)}


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """The mean of what is a finite number; None where nothing is."""
    known = [v for v in values if v is not None and np.isfinite(v)]
    return float(np.mean(known)) if known else None


def _training(files: Truth, tracks: tuple[Track, ...]) -> Iterable[tuple[Track, Case, np.ndarray]]:
    for track in tracks:
        for case, true in files.training(track):
            yield track, case, true


def _measure_case(
    store: ProjectStore, run: Run | None, track: Track, case: Case, true: np.ndarray, tally: _Tally
) -> None:
    tally.seen += 1
    spacing = case.geometry.spacing
    given = labels_of(store, case, 0)[track.name]
    corrected = store.corrected(case.id, track.name, given)
    rows = _overlap(given, true, track, spacing)
    tally.add("given", track, rows)
    changed = not np.array_equal(corrected, given)
    tally.add("corrected", track, _overlap(corrected, true, track, spacing) if changed else rows)
    if run is None:
        return
    scores = CaseScores(store.run_folder(run.id), case.id)
    proposal, stored = scores.read(f"{track.name}.proposal"), scores.read(f"{track.name}.score")
    if proposal is None or stored is None:  # a case without labels when the run was made
        return
    tally.add("proposal", track, _overlap(proposal, true, track, spacing))
    trained_on = store.corrected(case.id, track.name, given, upto=run.label_version)
    verified = store.verified(case.id, track.name, true.shape, upto=run.label_version)
    tally.add_scores(stored, trained_on, true, verified)


def _overlap(labels: np.ndarray, true: np.ndarray, track: Track, spacing: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Each measure (K - 1,) of the foreground classes of one case."""
    n = track.n_classes
    rows = {
        "dice": dice_per_class(labels, true, n),
        "hd95": per_class(hd95, labels, true, n, spacing),
        "assd": per_class(assd, labels, true, n, spacing),
    }
    return {name: row[1:] for name, row in rows.items()}


def _held_out(
    store: ProjectStore, files: Truth, tracks: tuple[Track, ...], run: Run | None
) -> Mapping[str, Any] | None:
    if run is None:
        return None
    dice: Figures = {}
    for track in tracks:
        rows = []
        for case, true in files.held_out(track):
            proposal = CaseScores(store.run_folder(run.id), case.id).read(f"{track.name}.proposal")
            if proposal is not None:
                rows.append(dice_per_class(proposal, true, track.n_classes)[1:])
        dice |= means_per_class(tracks, track, rows)
    return {"dice": dice, "dice_mean": mean_or_none(dice.values())}


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
