"""The formulas of ADELE: sizes of the rescaled images, consistency of scales, correction of labels.

S. Liu et al., "Adaptive Early-Learning Correction for Segmentation from Noisy Annotations", CVPR
2022 (arXiv 2110.03740), and what the released code does. `learning_curve` says when a class is
corrected. Tensors: logits (B, K, *spatial), labels (B, *spatial); arrays: one case, (*spatial).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_noisylabel.arrays.likelihood import best_class
from napari_noisylabel.records import IGNORE

MEAN_RANGE = (1e-3, 1 - 1e-3)  # the mean over scales is kept inside it
SHRUNK, EMPTY = 0.5, 0.95  # the guard: foreground left, and background around it


# ---------------------------------------------------------------- scales


def rescaled_axes(spacing: Sequence[float], how: str) -> tuple[int, ...]:
    """Axes that are rescaled: all of them, or with "in-plane" the two with the finest voxels.

    spacing in mm per axis of the patch. Of equal axes the last count as in-plane.
    """
    n = len(spacing)
    if how == "all" or n <= 2:
        return tuple(range(n))
    return tuple(sorted(sorted(range(n), key=lambda a: (spacing[a], -a))[:2]))


def scaled_size(size: Sequence[int], scale: float, factor: int, axes: Sequence[int]) -> tuple[int, ...]:
    """`size` times `scale` along `axes`, there rounded to multiples of `factor`.

    Larger images are rounded down (they cost most), smaller ones to the nearest, and at least one
    side keeps two factors: a single voxel at the bottom of a network cannot be normalised.
    """
    out = list(size)
    for a in axes if scale != 1 else ():
        wished = size[a] * scale / factor
        out[a] = factor * max(1, int(wished) if scale > 1 else round(wished))
    if max(out) <= factor:
        out[axes[-1]] = max(2 * factor, out[axes[-1]])
    return tuple(out)


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *spatial) -> (B, C, *size), linear, corners upon corners."""
    if tuple(values.shape[2:]) == tuple(size):
        return values
    mode = "bilinear" if values.ndim == 4 else "trilinear"
    return F.interpolate(values, size=tuple(size), mode=mode, align_corners=True)


# ---------------------------------------------------------------- consistency


def scale_divergence(logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sum over scales of KL(p_k || q) per voxel, (B, *spatial) in nats, and the mean q (B, K, *spatial).

    p_k is the softmax at scale k, q their mean, clamped to [0.001, 0.999]. Nothing is detached. A
    scale may have only the first patches of the batch: the others are compared without it.
    """
    rows = sorted({len(z) for z in logits})
    parts = [
        _divergence([z[first:last] for z in logits if len(z) >= last])
        for first, last in zip([0, *rows[:-1]], rows, strict=True)
    ]
    return torch.cat([apart for apart, _ in parts]), torch.cat([mean for _, mean in parts])


def confidence_gate(mean: Tensor, known: Tensor, least: float, per: str) -> Tensor:
    """1 where consistency counts, else 0; (B, *spatial) float, of q (B, K, *spatial).

    per "image": the whole image, if one of its `known` voxels has a class of at least `least`
    (nearly always: background is surely background somewhere). per "voxel": each by itself.
    """
    best = mean.detach().amax(1)
    if per == "voxel":
        return (best >= least).float()
    highest = (best * known).flatten(1).amax(1)
    return (highest >= least).float().view(-1, *[1] * (best.ndim - 1)).expand_as(best)


def overlap_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """(3, K) int64: voxels of each class in prediction and label, in the prediction, in the label.

    IGNORE counts nowhere. IoU = row 0 / (row 1 + row 2 - row 0), after all counts are summed.
    """
    n = logits.shape[1]
    known = labels < n
    pairs = labels[known] * n + logits.detach().argmax(1)[known]
    table = torch.bincount(pairs, minlength=n * n).view(n, n)
    return torch.stack([table.diagonal(), table.sum(0), table.sum(1)])


# ---------------------------------------------------------------- correction


class Opinion(NamedTuple):
    """What a network says of a case: best class, whether surely so, and its probability; (*spatial) each."""

    best: np.ndarray
    sure: np.ndarray
    probability: np.ndarray


def opinion(probs: np.ndarray, foreground: float, background: float) -> Opinion:
    """Best class of probs (K, *spatial); sure where a foreground class or background passes its limit."""
    highest = probs[1:].max(0)
    sure = (highest > foreground) | (probs[0] > background)
    return Opinion(best_class(probs), sure, np.maximum(highest, probs[0]))


@dataclass(frozen=True)
class Rule:
    """What may be overwritten.

    concerns : "both" label and prediction must be switched on, or only the "prediction".
    constraint : a foreground class may come only where the label shows it already, in this "case", in this
        "slice" along `slice_axis`, or anywhere ("off").
    guard : leave a case alone that would lose over half of its foreground and be 95 % background.
    """

    concerns: str = "both"
    constraint: str = "case"
    guard: bool = True
    slice_axis: int = 0


@dataclass(frozen=True, eq=False)
class Correction:
    """Labels after correction, and what became of the wishes.

    `labels`, `changed` (*spatial); voxels that surely differ but were held back: `waiting` for
    their class to be switched on, `absent` by the class constraint, `guarded` with the whole case.
    """

    labels: np.ndarray
    changed: np.ndarray
    waiting: int
    absent: int
    guarded: int


def correct(
    labels: np.ndarray, said: Opinion, switched_on: Sequence[bool], rule: Rule, fixed: np.ndarray | None = None
) -> Correction:
    """Overwrite labels by sure predictions of classes that are switched on.

    Parameters
    ----------
    labels : (*spatial) uint8 with IGNORE, which stays.
    switched_on : (K,); background always counts as on.
    fixed : (*spatial) bool or None; voxels that stay, such as verified ones.
    """
    on = _table([True, *switched_on[1:]])
    wished = said.sure & (said.best != labels) & (labels != IGNORE)
    if fixed is not None:
        wished &= ~fixed
    concerned = wished & on[said.best]
    if rule.concerns == "both":
        concerned &= on[labels]
    changed = concerned & _is_shown(labels, said.best, len(switched_on), rule)
    waiting, absent = int((wished & ~concerned).sum()), int((concerned & ~changed).sum())
    out = np.where(changed, said.best, labels)
    if rule.guard and _shrinks(labels, out):
        return Correction(labels.copy(), np.zeros_like(changed), waiting, absent, int(changed.sum()))
    return Correction(out, changed, waiting, absent, 0)


def put_back(into: np.ndarray, patch: np.ndarray, index: Sequence[int], view: str) -> bool:
    """Write a patch to where it was cut from; False for one that was turned, which fits nowhere.

    into (Z, Y, X); patch (*in_plane), mirrored as `view` says; `index` (start, stop), partly outside.
    """
    parts = [p for p in view.split("+") if p]
    if any(not p.startswith("flip") for p in parts):
        return False
    for part in parts:
        patch = np.flip(patch, tuple(int(a) for a in part[4:]))
    sides = [(lo, hi, min(hi, n)) for lo, hi, n in zip(index[:3], index[3:], into.shape, strict=True)]
    box = patch.reshape([hi - lo for lo, hi, _ in sides])
    inside = tuple(slice(max(lo, 0), end) for lo, _, end in sides)
    into[inside] = box[tuple(slice(max(-lo, 0), end - lo) for lo, _, end in sides)]
    return True


def moves(before: np.ndarray, after: np.ndarray, n_classes: int) -> np.ndarray:
    """(K, K) int64: voxels that went from class i to class j; the diagonal is 0."""
    where = (before != after) & (before < n_classes) & (after < n_classes)
    code = before[where].astype(np.int64) * n_classes + after[where]
    return np.bincount(code, minlength=n_classes**2).reshape(n_classes, n_classes)


# ---------------------------------------------------------------- helpers, in order of use


def _divergence(logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`scale_divergence` where all scales have all patches."""
    logs = [z.float().log_softmax(1) for z in logits]
    probs = [p.exp() for p in logs]
    mean = (sum(probs[1:], probs[0]) / len(probs)).clamp(*MEAN_RANGE)
    log_mean = mean.log()
    each = [(p * (log_p - log_mean)).sum(1) for p, log_p in zip(probs, logs, strict=True)]
    return sum(each[1:], each[0]), mean


def _table(flags: Sequence[bool]) -> np.ndarray:
    """(256,) bool, to be looked up by labels; False for what is no class."""
    table = np.zeros(256, bool)
    table[: len(flags)] = flags
    return table


def _is_shown(labels: np.ndarray, best: np.ndarray, n_classes: int, rule: Rule) -> np.ndarray:
    """True where the class `best` is background or occurs in the label of the same case or slice."""
    if rule.constraint == "off":
        return np.ones(labels.shape, bool)
    per_slice = rule.constraint == "slice" and labels.ndim == 3
    here, wanted = (np.moveaxis(m, rule.slice_axis, 0) if per_slice else m[None] for m in (labels, best))
    shown = np.zeros((len(here), 256), bool)
    shown[:, 0] = True
    for k in range(1, n_classes):
        shown[:, k] = (here == k).any(tuple(range(1, here.ndim)))
    found = np.stack([row[slab] for row, slab in zip(shown, wanted, strict=True)])
    return np.moveaxis(found, 0, rule.slice_axis) if per_slice else found[0]


def _shrinks(before: np.ndarray, after: np.ndarray) -> bool:
    known = before != IGNORE
    had, has = (int(((labels > 0) & known).sum()) for labels in (before, after))
    return has < SHRUNK * had and has < (1 - EMPTY) * known.sum()
