"""Prototypes: a few typical features per class, and how much each voxel looks like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

POINTS = 200  # features per case and class that prototypes are made from
ITERATIONS = 20
DECAY = 0.9  # of prototypes per refresh; the specification's 0.99 is per iteration
FEW_VOXELS = 20  # a class with fewer keeps the prototypes it has


def unit(features: np.ndarray) -> np.ndarray:
    """Features (F, ...) divided by their lengths, float32; a feature of length 0 stays 0."""
    f = features.astype(np.float32)
    return f / np.maximum(np.linalg.norm(f, axis=0, keepdims=True), 1e-6)


def agreed_features(
    features: np.ndarray, labels: np.ndarray, probs: np.ndarray, confident: float
) -> dict[int, np.ndarray]:
    """Features of voxels on which label and confident prediction agree, some 200 per class, spread over the case.

    features (F, *coarse) on a grid of every second voxel or so; labels (*spatial), probs (K, *spatial).
    Returns (N, F) of unit length per class.
    """
    own, p = _at_features(labels, features.shape[1:]), _at_features(probs, features.shape[1:])
    agreed = (p.argmax(0) == own) & (p.max(0) > confident)
    vectors = unit(features).reshape(len(features), -1)
    found = {}
    for k in range(len(probs)):
        places = np.flatnonzero(agreed & (own == k))
        found[k] = vectors[:, places[:: max(1, len(places) // POINTS)]].T
    return found


def k_means(points: np.ndarray, n_centres: int, start: np.ndarray | None = None) -> np.ndarray:
    """Centres of `points` (N, F) of unit length, by cosine; (n_centres, F) of unit length.

    The first centre is next to the mean, each further one is the point that is a middling stranger
    to those before (the median over the less similar half: the strangest is an outlier). With
    `start` centres go on from there, in their order. The same points give the same centres. A
    centre that no point is nearest to stays where it is; fewer points than centres repeat.
    """
    points = np.asarray(points, np.float32)
    centres = _first_centres(points, n_centres) if start is None else np.array(start, np.float32)
    for _ in range(ITERATIONS):
        nearest = (points @ centres.T).argmax(1)
        sums = np.stack([points[nearest == j].sum(0) for j in range(len(centres))])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), centres)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres


def updated(old: np.ndarray | None, points: np.ndarray, n_centres: int) -> np.ndarray | None:
    """Prototypes after new `points` (N, F) of unit length were seen: a moving mean; frozen if there are under 20."""
    if len(points) < FEW_VOXELS:
        return old
    fresh = k_means(points, n_centres, old)
    if old is None:
        return fresh
    mixed = DECAY * old + (1 - DECAY) * fresh
    return mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-6)


def prototype_probs(features: np.ndarray, prototypes: Sequence[np.ndarray], temperature: float) -> np.ndarray:
    """Softmax over the cosine to each class's most similar prototype.

    features (F, *spatial); prototypes (J, F) of unit length per class; returns (K, *spatial) float32.
    """
    every = np.concatenate(list(prototypes)).astype(np.float32)
    first = np.cumsum([0, *(len(p) for p in prototypes[:-1])])
    similarity = np.maximum.reduceat(np.tensordot(every, unit(features), axes=1), first, axis=0) / temperature
    similarity -= similarity.max(0, keepdims=True)
    e = np.exp(similarity)
    return e / e.sum(0, keepdims=True)


def resized(planes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """(K, *coarse) -> (K, *shape) by linear interpolation."""
    t = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))[None]
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(t, size=tuple(shape), mode=mode, align_corners=False)[0].numpy()


# ---------------------------------------------------------------- helpers, in order of use


def _at_features(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Every second voxel of (..., *spatial): the grid of the stored features."""
    steps = (slice(None, None, -(-n // m)) for n, m in zip(array.shape[-len(shape) :], shape, strict=True))
    where: Any = (..., *steps)
    return array[where]


def _first_centres(points: np.ndarray, n_centres: int) -> np.ndarray:
    chosen = [int((points @ points.mean(0)).argmax())]
    while len(chosen) < n_centres:
        similarity = (points @ points[chosen].T).max(1)
        order = np.argsort(similarity, kind="stable")
        chosen.append(int(order[len(order) // 4]))
    return points[chosen]
