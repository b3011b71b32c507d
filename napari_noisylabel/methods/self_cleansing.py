"""Mixture filter and label cleansing, inspired by Deep Self-Cleansing.

J. Dong, Y. Zhang et al., "Deep self-cleansing for medical image segmentation with noisy labels",
Medical Physics 2025 (arXiv 2409.05024). Only the abstract was available: a Gaussian mixture tells
clean from noisy labels, a cleansing module makes pseudo labels for the noisy ones, and both then
supervise the network together. Everything below that is a reconstruction, not the authors'
algorithm. Four functions do the work and can be exchanged one by one: `score_case`,
`filter_cases`, `cleanse` and `joint_loss`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.mixture import fit_mixture_samples, posterior
from napari_noisylabel.inner import Curve, InnerState, Note
from napari_noisylabel.methods.base import Batch, FoldRun, Method
from napari_noisylabel.methods.losses import segmentation_loss
from napari_noisylabel.records import IGNORE, Track

ROI_VOXELS = 8  # the score looks this far around an object: easy background would hide it
SMOOTHING = 0.7  # of scores over time
KEEP_CLEAN = 0.2  # share of lowest scores that is always clean
PROTOTYPE_DECAY = 0.9  # per refresh; the specification's 0.99 is per iteration
FEW_VOXELS = 20
LIKE_SIZE = 15  # cases that objects of like size are compared among


@dataclass(frozen=True)
class FilterResult:
    """P(clean) per case and class: weights[case] is (K,), NaN where a class is not there."""

    weights: Mapping[str, np.ndarray]
    split: tuple[bool, ...]
    reasons: tuple[str, ...]


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
    safe = np.where(known, labels, 0).astype(np.int64)
    loss = -np.log(np.clip(np.take_along_axis(probs, safe[None], 0)[0].astype(np.float32), 1e-4, 1))
    out = np.full(len(probs), np.nan)
    reach = ROI_VOXELS * min(spacing)
    for k in range(1, len(probs)):
        own = (labels == k) & known
        shown = (own | (guess == k)) & known
        if not shown.any():
            continue
        near = _near(shown, spacing, reach) & known
        p = probs[k].astype(np.float32)[near]
        soft_dice = (2 * p[own[near]].sum() + 1) / (p.sum() + own[near].sum() + 1)
        out[k] = float(loss[near].mean() + 1 - soft_dice)
    return out


def filter_cases(scores: Mapping[str, np.ndarray], sizes: Mapping[str, np.ndarray]) -> FilterResult:
    """P(clean) per case and class from a two-component mixture of each class's scores.

    Scores are log-transformed and compared among objects of like size, so that small objects,
    which score high with perfect labels, are not called noisy for their size. Without a split all
    are clean; the lowest 20 % always are.

    Parameters
    ----------
    scores : (K,) per case, NaN where a class has none.
    sizes : (K,) per case, voxels of the class, best as predicted: a label that lacks a part is
        small because it is wrong, and would be compared with others of its kind.
    """
    cases = list(scores)
    table = np.array([scores[c] for c in cases])
    extent = np.array([sizes[c] for c in cases])
    weights = np.ones_like(table)
    split, reasons = [False], ["background has no score"]
    for k in range(1, table.shape[1]):
        there = ~np.isnan(table[:, k])
        values = _size_free(table[there, k], extent[there, k])
        mixture = fit_mixture_samples(values) if len(values) else None
        split.append(mixture is not None and mixture.split)
        reasons.append("no case shows this class" if mixture is None else mixture.reason)
        if mixture is not None and mixture.split:
            clean = 1 - posterior(mixture, values)
            clean[values <= np.quantile(values, KEEP_CLEAN)] = 1.0
            weights[there, k] = clean
        weights[~there, k] = np.nan
    return FilterResult({c: weights[i] for i, c in enumerate(cases)}, tuple(split), tuple(reasons))


def prototype_probs(features: np.ndarray, prototypes: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax over the cosine to each class's prototype.

    features (F, *spatial), prototypes (K, F) of unit length or 0; returns (K, *spatial) float32.
    """
    f = features.astype(np.float32)
    f = f / np.maximum(np.linalg.norm(f, axis=0, keepdims=True), 1e-6)
    similarity = np.tensordot(prototypes, f, axes=1) / temperature
    similarity -= similarity.max(0, keepdims=True)
    e = np.exp(similarity)
    return e / e.sum(0, keepdims=True)


def cleanse(
    labels: np.ndarray, probs: np.ndarray, prototype: np.ndarray | None, noisy: np.ndarray, confident: float
) -> np.ndarray:
    """Pseudo labels for the classes of a case that are judged noisy.

    The network's probabilities and the prototypes' are fused by their geometric mean. A voxel
    gets the fused class where it is confident; where it merely agrees with the label, the label
    stays; else it is IGNORE. Only voxels whose label or fused class is a noisy class change.

    labels (*spatial) with IGNORE; probs, prototype (K, *spatial); noisy (K,) bool. Returns a new array.
    """
    fused = np.sqrt(np.maximum(probs.astype(np.float32), 1e-6))
    if prototype is not None:
        fused *= np.sqrt(np.maximum(prototype, 1e-6))
    else:
        fused *= fused
    fused /= fused.sum(0, keepdims=True)
    best = fused.argmax(0).astype(labels.dtype)
    flags = np.append(np.asarray(noisy, bool), np.zeros(IGNORE + 1 - len(noisy), bool))
    concerned = (flags[labels] | flags[best]) & (labels != IGNORE)
    out = labels.copy()
    changed = concerned & (best != labels)
    sure = fused.max(0) > confident
    out[changed & sure] = best[changed & sure]
    out[changed & ~sure] = IGNORE
    return out


def joint_loss(logits: Tensor, batch: Batch, track: str, ramp: float, dice_weight: float) -> Tensor:
    """Clean labels count fully, pseudo labels by `ramp`, voxels without a valid label not at all."""
    labels, working, verified = batch.labels[track], batch.working[track], batch.verified[track]
    pseudo = (working != labels) & ~verified
    weight = batch.weight[track] * (ramp * pseudo + 1.0 * ~pseudo)
    return segmentation_loss(logits, working, weight, dice_weight)


class SelfCleansing(Method):
    """Warm up on all labels; then keep refreshing which are clean, and repair the others."""

    name = "self-cleansing"
    title = "Mixture filter and label cleansing (inspired by Deep Self-Cleansing)"

    def __init__(
        self,
        dice_weight: float = 1.0,
        warmup: float = 0.4,
        ramp: int = 5,
        refresh: int = 3,
        tau: float = 0.5,
        confident: float = 0.8,
        temperature: float = 0.1,
    ) -> None:
        self.dice_weight, self.warmup, self.ramp, self.refresh = dice_weight, warmup, ramp, refresh
        self.tau, self.confident, self.temperature = tau, confident, temperature
        self._scores: dict[str, dict[str, np.ndarray]] = {}
        self._prototypes: dict[str, np.ndarray] = {}
        self._clean_share: dict[str, float] = {}
        self._reasons: dict[str, list[str]] = {}

    def on_epoch_start(self, run: FoldRun) -> None:
        since = run.epoch - self._first(run)
        if since >= 0 and since % self.refresh == 0:
            self._refresh(run)

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        logits = run.networks[0](batch.images).logits
        ramp = float(np.clip((run.epoch - self._first(run) + 1) / self.ramp, 0, 1))
        losses = [joint_loss(logits[t.name], batch, t.name, ramp, self.dice_weight) for t in run.tracks]
        return sum(losses[1:], losses[0])

    def state_dict(self) -> dict[str, Any]:
        return {
            "scores": self._scores,
            "prototypes": self._prototypes,
            "clean_share": self._clean_share,
            "reasons": self._reasons,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scores, self._prototypes = dict(state["scores"]), dict(state["prototypes"])
        self._clean_share, self._reasons = dict(state["clean_share"]), dict(state["reasons"])

    def inner(self) -> list[InnerState]:
        notes = [Note(f"filter of {track}", "; ".join(reasons)) for track, reasons in self._reasons.items()]
        return [Curve("share of cases called clean", dict(self._clean_share)), *notes]

    def _first(self, run: FoldRun) -> int:
        return max(1, round(self.warmup * run.epochs))

    def _refresh(self, run: FoldRun) -> None:
        """Score, filter and cleanse every training case of the fold, each track by itself."""
        predictions = list(run.predict(features=True))
        for track in run.tracks:
            labels = {p.case: np.asarray(run.labels[p.case][track.name]) for p in predictions}
            self._update_scores(run, track, predictions, labels)
            guesses = {p.case: p.probs[track.name].argmax(0).ravel() for p in predictions}
            sizes = {i: np.bincount(guess, minlength=track.n_classes) for i, guess in guesses.items()}
            result = filter_cases(self._scores[track.name], sizes)
            noisy = {i: np.nan_to_num(w, nan=1.0) < self.tau for i, w in result.weights.items()}
            self._update_prototypes(track, predictions, labels, noisy)
            for p in predictions:
                run.working_labels[p.case][track.name] = self._cleansed(track, p, labels[p.case], noisy[p.case])
            flags = np.array(list(noisy.values()))[:, 1:]
            for k, name in enumerate(track.classes[1:]):
                self._clean_share[f"{track.name}/{name}"] = float(1 - flags[:, k].mean())
            self._reasons[track.name] = list(result.reasons)

    def _update_scores(self, run: FoldRun, track: Track, predictions: Sequence[Any], labels: Mapping[str, Any]) -> None:
        kept = self._scores.setdefault(track.name, {})
        for p in predictions:
            verified = run.verified[p.case][track.name]
            new = score_case(p.probs[track.name], labels[p.case], run.spacing[p.case], verified)
            old = kept.get(p.case)
            kept[p.case] = new if old is None else np.where(np.isnan(old), new, SMOOTHING * old + (1 - SMOOTHING) * new)

    def _update_prototypes(
        self, track: Track, predictions: Sequence[Any], labels: Mapping[str, Any], noisy: Mapping[str, np.ndarray]
    ) -> None:
        total = np.zeros((track.n_classes, predictions[0].features.shape[0]))
        count = np.zeros(track.n_classes)
        for p in predictions:
            own = _at_features(labels[p.case], p.features.shape[1:])
            probs = _at_features(p.probs[track.name], p.features.shape[1:])
            agreed = (probs.argmax(0) == own) & (probs.max(0) > self.confident)
            unit = p.features.astype(np.float32)
            unit = unit / np.maximum(np.linalg.norm(unit, axis=0, keepdims=True), 1e-6)
            for k in range(track.n_classes):
                where = agreed & (own == k) & (not noisy[p.case][k])
                total[k] += unit[:, where].sum(1)
                count[k] += where.sum()
        fresh = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-6)
        old = self._prototypes.get(track.name, fresh)
        mixed = PROTOTYPE_DECAY * old + (1 - PROTOTYPE_DECAY) * fresh
        mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-6)
        self._prototypes[track.name] = np.where((count >= FEW_VOXELS)[:, None], mixed, old)

    def _cleansed(self, track: Track, prediction: Any, labels: np.ndarray, noisy: np.ndarray) -> np.ndarray:
        if not noisy.any():
            return labels.copy()
        coarse = prototype_probs(prediction.features, self._prototypes[track.name], self.temperature)
        prototype = _resized(coarse, labels.shape)
        return cleanse(labels, prediction.probs[track.name], prototype, noisy, self.confident)


# ---------------------------------------------------------------- helpers, in order of use


def _near(mask: np.ndarray, spacing: Sequence[float], reach: float) -> np.ndarray:
    return distance(~mask, spacing) <= reach


def _size_free(scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """log score minus the lower quartile among the cases of like size, at least 15 of them.

    Not over the interquartile range: where over a quarter of the cases is noisy, it measures the
    noise and hides it.
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


def _at_features(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Every second voxel of (..., *spatial): the grid of the stored features."""
    steps = (slice(None, None, -(-n // m)) for n, m in zip(array.shape[-len(shape) :], shape, strict=True))
    where: Any = (..., *steps)
    return array[where]


def _resized(planes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """(K, *coarse) -> (K, *shape) by linear interpolation."""
    t = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))[None]
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(t, size=tuple(shape), mode=mode, align_corners=False)[0].numpy()
