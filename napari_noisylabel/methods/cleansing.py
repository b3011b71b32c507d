"""Score, filter, cleanse, loss: what self-cleansing computes, as functions that can be exchanged one by one.

A reconstruction inspired by J. Dong, Y. Zhang et al., "Deep self-cleansing for medical image
segmentation with noisy labels", Medical Physics 2025 (arXiv 2409.05024), of which only the abstract
was available: that a Gaussian mixture tells clean from noisy labels and that pseudo labels replace
the noisy ones. Nothing below that is the authors'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.mixture import Mixture, fit_mixture_samples, posterior
from napari_noisylabel.methods.base import Batch
from napari_noisylabel.methods.losses import segmentation_loss
from napari_noisylabel.records import IGNORE

ROI_VOXELS = 8  # the score of a case looks this far around an object: easy background would hide it
KEEP_CLEAN = 0.2  # share of each class's lowest scores that is always clean
LIKE_SIZE = 15  # cases that objects of like size are compared among
POOLED = "all classes"
MIN_GAIN = 4.0  # in BIC, of pooled mixtures: see filter_scores
WITNESS = 3.0  # nats: what a filter's word "clean" counts in the score of a voxel, log(20)


# ---------------------------------------------------------------- score


def score_case(
    probs: np.ndarray, labels: np.ndarray, spacing: Sequence[float], verified: np.ndarray | None = None
) -> np.ndarray:
    """How badly a case's labels fit the network: one score per class, high = suspicious.

    Mean cross-entropy within 8 voxels of label or prediction, plus 1 - soft Dice.

    Parameters
    ----------
    probs : (K, *spatial)
    labels : (*spatial) with IGNORE.
    spacing : mm per voxel.
    verified : (*spatial) bool or None; what a person has decided on is clean, and has no say.

    Returns
    -------
    (K,) float64. NaN for background and for a class that neither label nor prediction shows
    outside of what is verified.
    """
    known = labels != IGNORE
    if verified is not None:
        known = known & ~verified
    guess = probs.argmax(0)
    loss = label_losses(probs, np.where(known, labels, 0))
    out = np.full(len(probs), np.nan)
    reach = ROI_VOXELS * min(spacing)
    for k in range(1, len(probs)):
        own = (labels == k) & known
        shown = (own | (guess == k)) & known
        if not shown.any():
            continue
        near = (distance(~shown, spacing) <= reach) & known
        p = probs[k].astype(np.float32)[near]
        soft_dice = (2 * p[own[near]].sum() + 1) / (p.sum() + own[near].sum() + 1)
        out[k] = float(loss[near].mean() + 1 - soft_dice)
    return out


def surprise(probs: np.ndarray, labels: np.ndarray, k: int) -> float:
    """How much worse the labels of an object fit the network than the network itself expects.

    The score of `score_case` on the object's voxels over the score that labels drawn from `probs`
    would have in the mean, as a logarithm. A difficult or small object has a large loss, and the
    network expects it: of right labels it should not say much about either.

    probs (K, N), labels (N,) without IGNORE: the voxels of the object and of a shell around it.
    """
    p = np.clip(probs.astype(np.float32), 1e-4, 1)
    p /= p.sum(0)
    own = labels == k
    loss = label_losses(p, labels).mean() + 1 - (2 * p[k][own].sum() + 1) / (p[k].sum() + own.sum() + 1)
    entropy = -(p * np.log(p)).sum(0).mean()
    expected = entropy + 1 - (2 * (p[k] ** 2).sum() + 1) / (2 * p[k].sum() + 1)
    return float(np.log(max(loss, 1e-6) / max(expected, 1e-6)))


def label_losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each label in nats, at most -log(1e-4). probs (K, ...), labels (...) without IGNORE."""
    p = np.take_along_axis(probs, labels[None].astype(np.int64), 0)[0].astype(np.float32)
    return -np.log(np.clip(p, 1e-4, 1))


# ---------------------------------------------------------------- filter


@dataclass(frozen=True)
class FilterResult:
    """P(noisy) of each sample (N,), the mixtures by name ("1", "2", ... or "all classes"), why or why not per class."""

    noisy: np.ndarray
    fits: Mapping[str, Mixture]
    reasons: tuple[str, ...]


def filter_scores(scores: np.ndarray, classes: np.ndarray, n_classes: int, pool: bool = False) -> FilterResult:
    """P(noisy) of samples (cases or objects) from two-component mixtures of their scores.

    Each class has a mixture of its own. With `pool`, a class whose mixture finds no split is judged
    by one of all classes together: a few dozen objects per class are too few for the guards, and
    scores like `surprise` mean the same in every class. That one needs a gain of 4 in BIC instead of
    10: of 300 draws of 68 scores from one Gaussian it splits none (3 at a gain of 0), and those of
    clean objects are near to one. The lowest 20 % of a class are always clean.

    Parameters
    ----------
    scores : (N,) finite, rising with suspicion, roughly normal among the clean ones.
    classes : (N,) in 1..K-1.
    n_classes : K.
    """
    scores, classes = np.asarray(scores, np.float64), np.asarray(classes)
    own = {str(k): scores[classes == k] for k in range(1, n_classes)}
    fits = {name: fit_mixture_samples(values) for name, values in own.items() if values.size}
    if pool and scores.size and len(fits) > 1 and not all(fit.split for fit in fits.values()):
        fits[POOLED] = fit_mixture_samples(scores, MIN_GAIN)
    noisy = noisy_posterior(fits, scores, classes)
    reasons = ["background has no score"]
    for k in range(1, n_classes):
        mine = classes == k
        if mine.any():
            noisy[mine & (scores <= np.quantile(scores[mine], KEEP_CLEAN))] = 0.0
        reasons.append(_reason(fits, str(k)))
    return FilterResult(noisy, fits, tuple(reasons))


def noisy_posterior(
    fits: Mapping[str, Mixture], scores: np.ndarray, classes: np.ndarray, unknown: float = 0.0
) -> np.ndarray:
    """P(noisy) of scores (N,) of `classes` (N,) under mixtures that were fitted before; `unknown` without a split."""
    out = np.full(len(scores), unknown)
    for k in np.unique(classes):
        fit = _judge(fits, str(k))
        if fit is not None:
            out[classes == k] = posterior(fit, np.asarray(scores)[classes == k])
    return out


def threshold_of(fit: Mixture, tau: float) -> float | None:
    """The score from which samples are noisy: where P(clean) falls under `tau`. None without a split."""
    if not fit.split:
        return None
    grid = np.linspace(fit.means[0], fit.means[1], 2001)
    return float(grid[int(np.argmax(posterior(fit, grid) > 1 - tau))])


def size_free(scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """log score minus the lower quartile among the cases of like size, at least 15 of them.

    Not over the interquartile range: where over a quarter of the cases is noisy, it measures the
    noise and hides it. Sizes (N,) are best as predicted: a label that lacks a part is small because
    it is wrong, and would be compared with others of its kind.
    """
    logs = np.log(np.maximum(scores, 1e-6))
    n_parts = int(np.clip(len(logs) // LIKE_SIZE, 1, 10))
    part = np.searchsorted(np.quantile(sizes, np.arange(1, n_parts) / n_parts), sizes, side="left")
    out = np.empty_like(logs)
    for i in range(n_parts):
        own = part == i
        if own.any():
            out[own] = logs[own] - np.quantile(logs[own], 0.25)
    return out


# ---------------------------------------------------------------- cleanse


def fuse(probs: np.ndarray, prototype: np.ndarray | None) -> np.ndarray:
    """The geometric mean of the network's probabilities and the prototypes', (K, *spatial) float32, sums to 1."""
    fused = np.maximum(probs.astype(np.float32), 1e-6)
    if prototype is not None:
        fused = np.sqrt(fused * np.maximum(prototype, 1e-6))
    return fused / fused.sum(0, keepdims=True)


def cleanse(labels: np.ndarray, fused: np.ndarray, concerned: np.ndarray, confident: float) -> np.ndarray:
    """Pseudo labels where labels are judged noisy.

    A voxel gets the fused class where that is confident; where it merely agrees with the label, the
    label stays; else it is IGNORE. Nothing changes outside of `concerned`.

    labels (*spatial) with IGNORE; fused (K, *spatial); concerned (*spatial) bool. Returns a new array.
    """
    best = fused.argmax(0).astype(labels.dtype)
    sure = fused.max(0) > confident
    changed = concerned & (best != labels) & (labels != IGNORE)
    out = labels.copy()
    out[changed & sure] = best[changed & sure]
    out[changed & ~sure] = IGNORE
    return out


# ---------------------------------------------------------------- loss


def joint_loss(logits: Tensor, batch: Batch, track: str, ramp: float, dice_weight: float) -> Tensor:
    """Clean labels count fully, pseudo labels by `ramp`, voxels without a valid label not at all."""
    labels, working, verified = batch.labels[track], batch.working[track], batch.verified[track]
    pseudo = (working != labels) & ~verified
    weight = batch.weight[track] * (ramp * pseudo + 1.0 * ~pseudo)
    return segmentation_loss(logits, working, weight, dice_weight)


def soft_loss(logits: Tensor, batch: Batch, track: str, clean: Tensor, ramp: float, dice_weight: float) -> Tensor:
    """Labels count by P(clean), pseudo labels by the rest of it times `ramp`; verified voxels are clean.

    `clean` (B, *spatial) in [0, 1]. The two terms share the loss as their weights share the sum.
    """
    labels, working, verified = batch.labels[track], batch.working[track], batch.verified[track]
    clean = clean.masked_fill(verified, 1.0)
    by_label = clean * (labels != IGNORE)
    by_pseudo = ramp * (1 - clean) * (working != IGNORE)
    total = (by_label.sum() + by_pseudo.sum()).clamp_min(1e-6)
    first = segmentation_loss(logits, labels, by_label, dice_weight) * by_label.sum()
    return (first + segmentation_loss(logits, working, by_pseudo, dice_weight) * by_pseudo.sum()) / total


# ---------------------------------------------------------------- the score of a voxel


def wrong_nats(nats: np.ndarray, noisy: Sequence[np.ndarray]) -> np.ndarray:
    """-log P(label is right) per voxel, after the witnesses of the filter were heard.

    The odds that a label is wrong, (1 - p) / p by its cross-entropy `nats`, fall by up to a factor of
    20 where a witness says that its object is clean, and by nothing where it is noisy.

    nats (*spatial) of the labels, 0 where ignored; noisy : P(noisy) of each witness, (*spatial) in [0, 1].
    Returns (*spatial) float32; without witnesses `nats`.
    """
    doubt = np.zeros(nats.shape)
    for p in noisy:
        doubt -= WITNESS * (1 - p)
    return np.log1p(np.exp(doubt) * np.expm1(np.minimum(nats.astype(np.float64), 30))).astype(np.float32)


# ---------------------------------------------------------------- helpers, in order of use


def _judge(fits: Mapping[str, Any], name: str) -> Mixture | None:
    """The mixture that speaks about a class: its own, else that of all classes; None where neither splits."""
    for fit in (fits.get(name), fits.get(POOLED)):
        if fit is not None and fit.split:
            return fit
    return None


def _reason(fits: Mapping[str, Mixture], name: str) -> str:
    if name not in fits:
        return "no case shows this class"
    if not fits[name].split and POOLED in fits:
        return f"{fits[name].reason}; all classes together: {fits[POOLED].reason}"
    return fits[name].reason
