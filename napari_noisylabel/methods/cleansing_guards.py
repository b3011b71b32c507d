"""What self-cleansing may not do to a label: add specks or whole crowds, or delete lesions without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.records import IGNORE

TWICE = 2.0  # see worth_redrawing


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


def usual_number(counts: Sequence[int]) -> int:
    """How many objects of a class a case may have after cleansing: nine of ten labelled cases have no more.

    `counts` are the labelled objects per case; cases without any do not count, they may lack theirs.
    0 where no case has one.
    """
    some = [n for n in counts if n]
    return int(np.quantile(some, 0.9, method="lower")) if some else 0


def surplus(labels: np.ndarray, fused: np.ndarray, about: np.ndarray, most: Sequence[int]) -> np.ndarray:
    """(*spatial) bool: predicted objects that nobody labelled, beyond the number that labelled cases have.

    Where every label shows one cell, its neighbours were left out on purpose, however much they look
    like cells. The surest objects fill what room there is; those that touch a labelled one always stay.

    labels (*spatial) with IGNORE; fused (K, *spatial); about (*spatial) bool, where labels may change;
    most (K,) objects per case.
    """
    out, best = np.zeros(labels.shape, bool), fused.argmax(0)
    for k in range(1, len(fused)):
        components, n = label_components((labels == k) | ((best == k) & about), 26)
        flat = components.ravel()
        drawn = np.bincount(flat, (labels == k).ravel(), n + 1) > 0
        sureness = np.bincount(flat, fused[k].ravel(), n + 1) / np.maximum(np.bincount(flat, minlength=n + 1), 1)
        added = [j for j in range(1, n + 1) if not drawn[j]]
        room = max(0, most[k] - int(drawn[1:].sum()))
        beyond = sorted(added, key=lambda j: -sureness[j])[room:]
        out |= np.isin(components, beyond)
    return out


def worth_redrawing(off: np.ndarray, classes: np.ndarray, noisy: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(N,) bool: objects that the network redraws more than twice as far off as clean objects of their class.

    The network errs by as much as it is off on objects that are clean, and where a label errs, too, the
    two errors add. Up to twice the network's own, the label is the better one of the two.

    off (N,) is 1 - Dice of label and prediction; classes (N,); noisy (N,) bool is what the filter says;
    drawn (N,) bool: both label and prediction show the object. A class without a clean object that both
    show is not redrawn.
    """
    out = np.zeros(len(off), bool)
    for k in np.unique(classes):
        clean = (classes == k) & ~noisy & drawn
        if clean.any():
            out |= (classes == k) & (off > TWICE * np.median(off[clean]))
    return out


def at_least(volumes_mm3: np.ndarray) -> float:
    """The 1st percentile of the volumes of labelled objects (N,), 0 without any: what is smaller is a speck."""
    return float(np.percentile(volumes_mm3, 1)) if volumes_mm3.size else 0.0


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
