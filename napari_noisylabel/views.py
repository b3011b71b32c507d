"""What the window shows of a case, read from the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from napari_noisylabel.arrays import labels as voxel_runs
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.source import given_of
from napari_noisylabel.errors import NothingToDo
from napari_noisylabel.io.cases import load_image
from napari_noisylabel.records import CaseView, Run
from napari_noisylabel.store import ProjectStore

MAPS = ("likelihood", "proposal", "activation")
"""Maps of a run that the window shows."""


def load_view(store: ProjectStore, case_id: str, run: Run | None, shown: CaseView | None = None) -> CaseView:
    """Read a case from the disk: image, labels, maps of `run`. Slow for large cases.

    Of the case `shown` on the screen only the maps are read; its labels there are the latest.
    """
    case = store.case(case_id)
    scores = CaseScores(store.run_folder(run.id), case_id) if run is not None else None
    if shown is not None and shown.case.id == case_id:
        likelihood, proposal, activation = (_stored(scores, name, shown.given) for name in MAPS)
        return replace(shown, likelihood=likelihood, proposal=proposal, activation=activation)
    given = {t.name: a for t, a in given_of(store.tracks, case).items()}
    version = store.label_version
    decided = {t: store.corrected(case_id, t, a, upto=version) for t, a in given.items()}
    corrected = {t: a.copy() for t, a in decided.items()}
    for track, array in corrected.items():
        draft = store.draft(case_id, track)
        if draft is not None:
            voxel_runs.apply_runs(array, draft)
    likelihood, proposal, activation = (_stored(scores, name, given) for name in MAPS)
    return CaseView(
        case=case,
        images=tuple(_read_only(channel) for channel in load_image(case)),
        given={t: _read_only(a) for t, a in given.items()},
        corrected=corrected,
        decided=decided,
        label_version=version,
        likelihood=likelihood,
        proposal=proposal,
        activation=activation,
    )


def affinity(store: ProjectStore, run: Run, case_id: str, index: Sequence[int], axis: int = 0) -> np.ndarray:
    """Which pixels the network believes belong with one voxel: cosine of the run's features.

    `index` is a voxel of the file's array. Returns the slice through it across `axis`
    (the whole image in 2-D), float32 in [-1, 1]. Raises NothingToDo without features.
    """
    stored = CaseScores(store.run_folder(run.id), case_id).open("features")
    if stored is None:
        raise NothingToDo(f"run {run.id} kept no features of case {case_id!r}. Train again, then ask for affinity.")
    shape = store.case(case_id).geometry.shape
    steps = [-(-n // m) for n, m in zip(shape, stored.shape[1:], strict=True)]
    at = [int(i) // s for i, s in zip(index, steps, strict=True)]
    flat = len(shape) == 2
    within = [slice(None) if flat or a != axis else at[a] for a in range(len(shape))]
    plane = np.asarray(stored[(slice(None), *within)], np.float32)
    own = np.asarray(stored[(slice(None), *at)], np.float32)
    norms = np.maximum(np.linalg.norm(plane, axis=0) * np.linalg.norm(own), 1e-6)
    cosine = np.tensordot(own, plane, axes=1) / norms
    kept = [a for a in range(len(shape)) if flat or a != axis]
    for i, a in enumerate(kept):
        cosine = np.repeat(cosine, steps[a], axis=i)
    return cosine[tuple(slice(0, shape[a]) for a in kept)].astype(np.float32)


def _stored(scores: CaseScores | None, name: str, tracks: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if scores is None:
        return {}
    found = {t: scores.read(f"{t}.{name}") for t in tracks}
    return {t: _read_only(a) for t, a in found.items() if a is not None}


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
