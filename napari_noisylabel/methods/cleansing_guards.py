"""What self-cleansing may not do to a label: add specks, or delete lesions without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.records import IGNORE


def without_specks(
    pseudo: np.ndarray, labels: np.ndarray, smallest_mm3: np.ndarray, spacing: Sequence[float]
) -> np.ndarray:
    """Pseudo labels without predicted components that are smaller than clean objects are.

    There the labels stand. pseudo, labels (*spatial); smallest_mm3 (K,). Returns a new array.
    """
    out = pseudo.copy()
    for k in range(1, len(smallest_mm3)):
        components, n = label_components(pseudo == k, 26)
        volumes = np.bincount(components.ravel(), minlength=n + 1) * np.prod(spacing)
        small = volumes < smallest_mm3[k]
        small[0] = False
        speck = small[components] & (pseudo != labels)
        out[speck] = labels[speck]
    return out


@dataclass(frozen=True, eq=False)
class Lost:
    """A labelled object of which cleansing leaves nothing: its voxels (flat indices), how sure that is, how large."""

    k: int
    voxels: np.ndarray
    sureness: float
    volume_mm3: float


def lost_objects(labels: np.ndarray, pseudo: np.ndarray, sure: np.ndarray, spacing: Sequence[float]) -> list[Lost]:
    """The labelled objects that pseudo labels would delete: no voxel keeps the class, most get another one.

    labels, pseudo (*spatial) with IGNORE; sure (*spatial), the probability of the pseudo label.
    """
    found = []
    for k in np.unique(labels[(labels != pseudo) & (labels != 0) & (labels != IGNORE)]):
        components, n = label_components(labels == k, 26)
        flat = components.ravel()
        kept = np.bincount(flat, (pseudo == k).ravel(), n + 1)
        other = np.bincount(flat, ((pseudo != k) & (pseudo != IGNORE)).ravel(), n + 1)
        size = np.bincount(flat, minlength=n + 1)
        for j in np.flatnonzero((kept == 0) & (2 * other > size)):
            if j:
                voxels = np.flatnonzero(flat == j)
                volume = float(size[j] * np.prod(spacing))
                found.append(Lost(int(k), voxels, float(sure.ravel()[voxels].mean()), volume))
    return found


def over_the_cap(lost: Sequence[Lost], n_objects: int, max_deleted: float) -> list[bool]:
    """Which of the lost objects of one class must not be deleted: all but the surest, a share of all its objects.

    `n_objects` is the number of labelled objects of the class, `max_deleted` the share that may go.
    """
    room = int(max_deleted * n_objects)
    order = sorted(range(len(lost)), key=lambda i: -lost[i].sureness)
    spared = set(order[room:])
    return [i in spared for i in range(len(lost))]


def object_volumes(labels: np.ndarray, k: int, spacing: Sequence[float]) -> np.ndarray:
    """Volumes in mm3 of the connected components of class `k`."""
    components, n = label_components(labels == k, 26)
    return np.bincount(components.ravel(), minlength=n + 1)[1:] * float(np.prod(spacing))
