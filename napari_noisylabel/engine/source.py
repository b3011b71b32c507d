"""From a project to the arrays that a run trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from napari_noisylabel.engine.data import CaseArrays
from napari_noisylabel.io.cases import load_image, load_labels
from napari_noisylabel.records import IGNORE, Case, Track, found_classes
from napari_noisylabel.store import ProjectStore


def iterate_cases(store: ProjectStore, label_version: int) -> Iterator[CaseArrays]:
    """All cases of a project with their labels as of event `label_version`, one at a time.

    Of a mask that started empty only what people decided on is known.
    """
    for case in store.cases():
        labels = labels_of(store, case, label_version)
        shape = case.geometry.shape
        masks = {t.name: store.verified(case.id, t.name, shape, upto=label_version) for t in store.tracks}
        blank = frozenset(t for t in labels if case.is_blank(t))
        for track in blank:
            decided = masks[track]
            if decided is None:
                del labels[track]
            else:
                labels[track][~decided] = IGNORE
        yield CaseArrays(
            id=case.id,
            group=case.group,
            held_out=bool(case.held_out) or not (labels or case.findings is not None),  # nothing to learn from
            spacing=case.geometry.spacing,
            image=load_image(case),
            labels=labels,
            verified=masks,
            verified_case=bool(labels) and all(_is_full(masks[t]) for t in labels),
            photograph=case.geometry.unit == "px" and case.geometry.ndim == 2,
            findings={t.name: found_classes(case, t) for t in store.tracks},
            blank=blank,
        )


def labels_of(store: ProjectStore, case: Case, label_version: int | None = None) -> dict[str, np.ndarray]:
    """Class indices per track after event `label_version` (None: all); see `given_of` for the tracks."""
    return {
        track.name: store.corrected(case.id, track.name, given, upto=label_version)
        for track, given in given_of(store.tracks, case).items()
    }


def given_of(tracks: tuple[Track, ...], case: Case) -> Mapping[Track, np.ndarray]:
    """The given labels per track that this case has.

    A blank mask, all background, where it has none but image-level findings; other tracks are left out.
    """
    return {track: _given(case, track) for track in tracks if case.is_labelled(track.name)}


def _given(case: Case, track: Track) -> np.ndarray:
    return np.zeros(case.geometry.shape, np.uint8) if case.is_blank(track.name) else load_labels(case, track)


def _is_full(mask: np.ndarray | None) -> bool:
    return mask is not None and bool(mask.all())
