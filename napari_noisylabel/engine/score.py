"""Measuring a case: score, probabilities, proposal and statistics from a network's prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_noisylabel.arrays.likelihood import displacement, score_histogram, to_uint16
from napari_noisylabel.engine.casemaps import CaseScores, TrackStatistics
from napari_noisylabel.engine.data import PreparedCase
from napari_noisylabel.methods.base import Method, Prediction
from napari_noisylabel.records import IGNORE, Track


def score_case(
    scores: CaseScores,
    case: PreparedCase,
    prediction: Prediction,
    tracks: Sequence[Track],
    method: Method,
    axes: Sequence[int],
) -> None:
    """Measure a case against the labels the run trains on, and keep what was found.

    `axes` of (Z, Y, X) in which neighbouring voxels count as neighbours: in-plane for slices.
    """
    own_axes = [a - (3 - len(case.shape)) for a in axes if a >= 3 - len(case.shape)]
    statistics = {}
    for track in tracks:
        name, probs = track.name, prediction.probs[track.name]
        labels = np.asarray(case.as_given(case.labels[name]))
        proposal = method.propose(track, probs).astype(np.uint8)
        stored = to_uint16(method.score(track, probs, labels))
        verified = case.verified[name]
        skip = None if verified is None else np.asarray(case.as_given(verified))
        known = np.where(labels == IGNORE, IGNORE, proposal)
        moved = [np.nan] + [displacement(labels, known, k, own_axes) for k in range(1, track.n_classes)]
        statistics[name] = TrackStatistics(score_histogram(stored, labels, track.n_classes, skip), np.array(moved))
        scores.write(f"{name}.score", stored)
        scores.write(f"{name}.proposal", proposal)
        scores.write(f"{name}.probs", np.round(probs.astype(np.float32) * 255).astype(np.uint8))
    if prediction.features is not None:
        scores.write("features", prediction.features)
    scores.write_statistics(statistics)
