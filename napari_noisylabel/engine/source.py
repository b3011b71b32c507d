"""From a project to the arrays that a run trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from napari_noisylabel.engine.data import CaseArrays
from napari_noisylabel.io.cases import load_image, load_labels
from napari_noisylabel.records import Case, Track
from napari_noisylabel.store import ProjectStore


def iterate_cases(store: ProjectStore, label_version: int) -> Iterator[CaseArrays]:
    """All cases of a project with their labels as of event `label_version`, one at a time."""
    for case in store.cases():
        labels = labels_of(store, case, label_version)
        shape = case.geometry.shape
        masks = {t.name: store.verified(case.id, t.name, shape, upto=label_version) for t in store.tracks}
        yield CaseArrays(
            id=case.id,
            group=case.group,
            held_out=bool(case.held_out) or not labels,  # nothing to learn from: only predicted
            spacing=case.geometry.spacing,
            image=load_image(case),
            labels=labels,
            verified=masks,
            verified_case=bool(labels) and all(_is_full(masks[t]) for t in labels),
            photograph=case.geometry.unit == "px" and case.geometry.ndim == 2,
        )


def labels_of(store: ProjectStore, case: Case, label_version: int | None = None) -> dict[str, np.ndarray]:
    """Class indices per track after event `label_version` (None: all); tracks without labels are left out."""
    return {
        track.name: store.corrected(case.id, track.name, given, upto=label_version)
        for track, given in given_of(store.tracks, case).items()
    }


def given_of(tracks: tuple[Track, ...], case: Case) -> Mapping[Track, np.ndarray]:
    """The given labels per track that this case has."""
    return {track: load_labels(case, track) for track in tracks if track.name in case.labels}


def _is_full(mask: np.ndarray | None) -> bool:
    return mask is not None and bool(mask.all())
