"""Objects and pieces of objects: the samples of self-cleansing's filter where cases are too coarse.

One sample per case and class cannot see a missing lesion, and a few dozen cases are too few samples
for the filter's guards. So connected components of label and prediction are samples, too, and so are
the pieces in which the two differ: a piece that is thick is no matter of a careful hand.
Millimetres, 26-connectivity. A reconstruction, see `methods.cleansing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.methods.cleansing import surprise
from napari_noisylabel.records import IGNORE

SHOWN = 0.5  # an object is predicted from this probability on: networks that saw many omissions doubt what is there
SURE = 0.8  # a piece differs from a confident prediction; measured alike at 0.9
SHELL_VOXELS = 3  # around an object or piece, in units of the smallest spacing
FEW_VOXELS = 3  # smaller components are no samples

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One sample of the filter: an object or a piece of class `k` in one case, and what is to be cleansed if noisy.

    `kind` is "object", "missing label" (only predicted) or "false label" (labelled, not predicted);
    "case" for a whole case. `key` names a labelled object over time; "" where only a prediction shows
    it. `mask` are its voxels, on `box`, which has room for a shell of 3 voxels. `score` rises with suspicion.
    `off` is 1 - Dice of label and prediction in it: how far off the network redraws it.
    """

    k: int
    kind: str
    key: str
    score: float
    box: Box
    mask: np.ndarray
    spacing: tuple[float, ...]
    volume_mm3: float
    off: float = 1.0

    def near(self, voxels: float) -> np.ndarray:
        """Its voxels and those within so many voxels of them (in mm: of the smallest spacing), on `box`."""
        return _near(self.mask, self.spacing, voxels)


def scores_of(candidates: Sequence[Candidate]) -> np.ndarray:
    """(N,) float64"""
    return np.array([c.score for c in candidates], np.float64)


def classes_of(candidates: Sequence[Candidate]) -> np.ndarray:
    """(N,) int64"""
    return np.array([c.k for c in candidates], np.int64)


def find_objects(
    probs: np.ndarray, labels: np.ndarray, spacing: Sequence[float], settled: np.ndarray | None = None
) -> list[Candidate]:
    """Connected components of label or prediction (P > 0.5), class by class.

    A component without a labelled voxel is a candidate for a missing label, one without a predicted
    voxel for a false one. The score is `surprise` in the component and its shell.

    Parameters
    ----------
    probs : (K, *spatial)
    labels : (*spatial) with IGNORE.
    spacing : mm per voxel.
    settled : (*spatial) bool or None; voxels that need no judgement (verified, or judged) have no say.
    """
    known, spacing = _open(labels, settled), tuple(spacing)
    found = []
    for k in range(1, len(probs)):
        own, shown = labels == k, probs[k] > SHOWN
        drawn, _ = label_components(own, 26)
        for _, box, mask in _each(label_components(own | shown, 26)[0], spacing):
            here = _near(mask, spacing, SHELL_VOXELS) & known[box]
            if not (mask & known[box]).any():
                continue
            names = drawn[box][mask & own[box]]
            kind = "missing label" if not names.size else "object" if (shown[box] & mask).any() else "false label"
            key = f"{k}.{names.min()}" if names.size else ""
            score = surprise(probs[:, *box][:, here], labels[box][here], k)
            off = redrawn_off(own[box] & here, shown[box] & here)
            found.append(Candidate(k, kind, key, score, box, mask, spacing, _mm3(mask, spacing), off))
    return found


def redrawn_off(own: np.ndarray, shown: np.ndarray) -> float:
    """1 - Dice of a label and its prediction, both (*spatial) bool; 0 where both are empty."""
    total = int(own.sum()) + int(shown.sum())
    return 1 - 2 * int((own & shown).sum()) / total if total else 0.0


def rescored(objects: Sequence[Candidate], probs: np.ndarray, labels: np.ndarray, settled: np.ndarray) -> np.ndarray:
    """The scores (N,) of objects without voxels that are `settled`; -inf where nothing is left to judge."""
    known = _open(labels, settled)
    out = np.full(len(objects), -np.inf)
    for i, o in enumerate(objects):
        here = o.near(SHELL_VOXELS) & known[o.box]
        if (o.mask & here).any():
            out[i] = surprise(probs[:, *o.box][:, here], labels[o.box][here], o.k)
    return out


def find_pieces(
    probs: np.ndarray, labels: np.ndarray, spacing: Sequence[float], settled: np.ndarray | None = None
) -> list[Candidate]:
    """Connected pieces in which label and confident prediction (P > 0.8) differ; the score is the log of the thickness.

    Thickness is the mean distance, in mm, of the piece's voxels to what is outside of it. Network
    and hand differ by slivers along every contour; a part that is missing, or too much, is thicker.
    Parameters as in `find_objects`.
    """
    known, spacing = _open(labels, settled), tuple(spacing)
    found = []
    for k in range(1, len(probs)):
        own, p = labels == k, probs[k]
        for kind, differing in (("missing label", (p > SURE) & ~own), ("false label", (p < 1 - SURE) & own)):
            pieces, n = label_components(differing & known, 26)
            depth = distance(np.pad(pieces > 0, 1), spacing)[(slice(1, -1),) * pieces.ndim]  # the border is an end
            size = np.maximum(np.bincount(pieces.ravel(), minlength=n + 1), 1)
            thickness = np.bincount(pieces.ravel(), depth.ravel(), n + 1) / size
            found += [
                Candidate(k, kind, "", float(np.log(thickness[j])), box, mask, spacing, _mm3(mask, spacing))
                for j, box, mask in _each(pieces, spacing)
            ]
    return found


def concerned(
    labels: np.ndarray, best: np.ndarray, candidates: Sequence[Candidate], noisy: Iterable[float]
) -> np.ndarray:
    """P(noisy) of each voxel, (*spatial) float32: of its label's class, or of the one it would become.

    labels, best (*spatial) are the class that is there and the fused one; `noisy` of each candidate.
    Where several candidates speak about a voxel, the most suspicious one counts.
    """
    out = np.zeros(labels.shape, np.float32)
    for candidate, p in zip(candidates, noisy, strict=True):
        if p > 0:
            here = out[candidate.box]
            about = (labels[candidate.box] == candidate.k) | (best[candidate.box] == candidate.k)
            about &= candidate.near(SHELL_VOXELS)
            here[about] = np.maximum(here[about], p)
    return out


def suspicion(
    shape: Sequence[int], candidates: Sequence[Candidate], noisy: Iterable[float], voxels: float
) -> np.ndarray:
    """P(noisy) of the most suspicious candidate that a voxel lies in or near, (*spatial) float32; elsewhere 0."""
    out = np.zeros(tuple(shape), np.float32)
    for candidate, p in zip(candidates, noisy, strict=True):
        if p > 0:
            here, near = out[candidate.box], candidate.near(voxels)
            here[near] = np.maximum(here[near], p)
    return out


# ---------------------------------------------------------------- helpers, in order of use


def _open(labels: np.ndarray, settled: np.ndarray | None) -> np.ndarray:
    return labels != IGNORE if settled is None else (labels != IGNORE) & ~settled


def _each(components: np.ndarray, spacing: Sequence[float]) -> Iterator[tuple[int, Box, np.ndarray]]:
    """Each component of 3 voxels or more: its number, a box with room for its shell, its mask in it."""
    room = [int(SHELL_VOXELS * min(spacing) // s) for s in spacing]
    for j, tight in enumerate(ndimage.find_objects(components.astype(np.int32)), 1):
        box = tuple(slice(max(0, s.start - r), s.stop + r) for s, r in zip(tight, room, strict=True))
        mask = components[box] == j
        if mask.sum() >= FEW_VOXELS:
            yield j, box, mask


def _near(mask: np.ndarray, spacing: Sequence[float], voxels: float) -> np.ndarray:
    return distance(~mask, spacing) <= voxels * min(spacing) * (1 + 1e-6)  # distances are rounded


def _mm3(mask: np.ndarray, spacing: Sequence[float]) -> float:
    return float(mask.sum() * np.prod(spacing))
