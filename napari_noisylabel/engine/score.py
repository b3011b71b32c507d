"""Measuring a case: score, probabilities, proposal and statistics from the networks' predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from napari_noisylabel.arrays.likelihood import (
    as_uint8,
    axes_of_array,
    displacement,
    rejection,
    score_histogram,
    to_uint16,
)
from napari_noisylabel.arrays.metrics import dice
from napari_noisylabel.arrays.strangers import constant_number, count_objects, strangers
from napari_noisylabel.engine.casemaps import CaseScores, TrackStatistics
from napari_noisylabel.engine.data import PreparedCase
from napari_noisylabel.methods.base import Evidence, Method, Prediction
from napari_noisylabel.records import IGNORE, Track


def score_case(
    scores: CaseScores,
    case: PreparedCase,
    unseen: Prediction,
    seen: Prediction,
    tracks: Sequence[Track],
    method: Method,
    axes: Sequence[int],
    objects: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Measure a case against the labels the run trains on, and keep what was found.

    Parameters
    ----------
    unseen : by the network that was not trained on this case; score and proposal are from it.
    seen : the mean of the networks that were. They only speak against regions, never for them.
    axes : of (Z, Y, X) in which neighbouring voxels count as neighbours: in-plane for slices.
    objects : per track, (K,) objects that each case shows (`objects_per_case`); further ones speak against no label.
    """
    own_axes = axes_of_array(axes, len(case.shape))
    statistics = {}
    spacing = case.spacing[3 - len(case.shape) :]
    for track in tracks:
        name = track.name
        labels = np.asarray(case.as_given(case.labels[name]))
        evidence = Evidence(
            case.id, track, unseen.probs[name], labels, spacing, unseen.features, unseen.disagreement.get(name),
            image=case.as_given(case.image), findings=case.findings.get(name), blank=name in case.blank,
        )  # fmt: skip
        evidence = replace(evidence, probs=method.corrected(evidence))
        other = replace(evidence, probs=seen.probs[name], features=seen.features, disagreement=None)
        other = replace(other, probs=method.corrected(other))
        heard = [_without_labels(e) if case.held_out else e for e in (evidence, other)]
        proposal, opposed = (method.propose(e).astype(np.uint8) for e in heard)
        stored = to_uint16(method.score(evidence))
        verified = case.verified[name]
        skip = None if verified is None else np.asarray(case.as_given(verified))
        histogram = score_histogram(stored, labels, track.n_classes, skip)
        numbers = objects[name] if objects else ()
        strange = strangers(labels, proposal, numbers)
        meant, opposed = np.where(strange, 0, proposal), np.where(strangers(labels, opposed, numbers), 0, opposed)
        measured = _measured(labels, meant, opposed, track.n_classes, own_axes, skip)
        statistics[name] = TrackStatistics(histogram, **measured, systematic=method.systematic(evidence))
        scores.write(f"{name}.score", stored)
        scores.write(f"{name}.proposal", proposal)
        own = method.noise_likelihood(evidence)
        rejected = rejection(evidence.probs, other.probs, labels) if own is None else own
        rejected = np.where(strange, 0, rejected)
        scores.write(f"{name}.rejection", as_uint8(rejected))
        scores.write(f"{name}.probs", np.round(evidence.probs.astype(np.float32) * 255).astype(np.uint8))
        for further, values in method.maps(evidence).items():
            scores.write(f"{name}.{further}", as_uint8(values))
    if unseen.features is not None:
        scores.write("features", unseen.features)
    scores.write_statistics(statistics)


def objects_per_case(cases: Sequence[PreparedCase], tracks: Sequence[Track]) -> dict[str, tuple[int, ...]]:
    """Per track (K,): how many objects of a class the mask of each case shows; 0 where that differs."""
    found = {}
    for track in tracks:
        drawn = [count_objects(c.labels[track.name], track.n_classes) for c in cases if track.name not in c.blank]
        found[track.name] = tuple(constant_number([own[k] for own in drawn]) for k in range(track.n_classes))
    return found


def _without_labels(evidence: Evidence) -> Evidence:
    """A held-out case only measures: a proposal that hears its labels would measure those."""
    return replace(evidence, labels=np.full_like(evidence.labels, IGNORE))


def _measured(
    labels: np.ndarray, unseen: np.ndarray, seen: np.ndarray, n_classes: int, axes: Sequence[int],
    verified: np.ndarray | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """(K,) each: distance of the label from both opinions and of these from each other, its overlap with the seen one.

    Opinions on ignored and verified voxels do not count. NaN where nothing else shows the class: an
    object that a person has decided on as a whole is clean, and no example for the others.
    """
    settled = labels == IGNORE if verified is None else (labels == IGNORE) | verified
    unseen, seen = np.where(settled, labels, unseen), np.where(settled, labels, seen)
    maps = (labels, unseen, seen)
    still_open = [any(((m == k) & ~settled).any() for m in maps) for k in range(n_classes)]

    def each(of: Callable[[int], float]) -> np.ndarray:
        return np.array([of(k) if k and still_open[k] else np.nan for k in range(n_classes)])

    return {
        "unseen": each(lambda k: displacement(labels, unseen, k, axes)),
        "seen": each(lambda k: displacement(labels, seen, k, axes)),
        "between": each(lambda k: displacement(unseen, seen, k, axes)),
        "overlap": each(lambda k: dice(labels == k, seen == k)),
    }
