"""Noise that looks at the image: which class a place is taken for depends on its features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.noise_case import DICE_LOSS, Case
from napari_noisylabel.arrays.shapes import equal_radius, objects

REACHES = np.linspace(0.05, 1.5, 59)
"""How far from a contour errors may lie, in radii of the object, where the Dice aimed at decides."""


def draw_rates(n: int, eta: float, sd: float, rng: np.random.Generator) -> np.ndarray:
    """`n` rates q ~ Normal(`eta`, `sd`), drawn again until they are in (0, 1); (n,) float64."""
    rates = rng.normal(eta, sd, n)
    while (bad := ~((rates > 0) & (rates < 1))).any():
        rates[bad] = rng.normal(eta, sd, int(bad.sum()))
    return rates


def instance_probs(scores: np.ndarray, labels: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """P(given = k) of each example, with instance-dependent noise.

    Parameters
    ----------
    scores : (N, K), the features times W. The score of the true class counts nothing.
    labels : (N,) true class indices.
    rates : (N,) P(wrong), q.

    Returns
    -------
    (N, K) float64: 1 - q for the true class, q times the softmax of the scores for the others. With a
    single class it is 1.

    Source: the generator released with Cheng et al., "Learning with Instance-Dependent Label Noise: A
    Sample Sieve Approach", ICLR 2021.
    """
    own = np.zeros(scores.shape, dtype=bool)
    own[np.arange(len(labels)), labels] = True
    if scores.shape[1] == 1:
        return np.ones(scores.shape)
    others = np.where(own, -np.inf, scores)
    others = np.exp(others - others.max(axis=1, keepdims=True))
    others *= (rates / others.sum(axis=1))[:, None]
    others[own] = 1 - rates
    return others


# ---------------------------------------------------------------- features


def local_features(image: np.ndarray, labels: np.ndarray, spacing: Sequence[float]) -> Iterator[np.ndarray]:
    """What a voxel looks like: per channel intensity, local mean and local deviation; signed distance last.

    Parameters
    ----------
    image : (C, *spatial).
    labels : (*spatial) integer, the true labels.
    spacing : mm per voxel. The mean is a Gaussian of 1 voxel (the finest spacing).

    Yields
    ------
    (*spatial) float32 maps. The distance is to the nearest voxel of another label, negative in foreground,
    in mm.
    """
    sigma = [min(spacing) / s for s in spacing]
    for channel in image:
        values = channel.astype(np.float32)
        mean = ndimage.gaussian_filter(values, sigma, mode="nearest")
        square = ndimage.gaussian_filter((values - mean) ** 2, sigma, mode="nearest")
        yield from (values, mean, np.sqrt(square))
    yield _signed_distance(labels, spacing)


def window_features(image: np.ndarray) -> Iterator[np.ndarray]:
    """The intensities of the 3 x 3 (x 3) voxels around each voxel, one (*spatial) float32 map per voxel of the
    window and channel. The border voxel goes on beyond the border."""
    for channel in image:
        padded = np.pad(channel.astype(np.float32), 1, mode="edge")
        for start in product(range(3), repeat=channel.ndim):
            yield padded[tuple(slice(s, s + n) for s, n in zip(start, channel.shape, strict=True))]


def _signed_distance(labels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    out = np.zeros(labels.shape, dtype=np.float32)
    for value in np.unique(labels):
        own = labels == value
        depth = distance(own, spacing)
        depth[~np.isfinite(depth)] = 0  # one label everywhere: no contour to be far from
        out += depth if value == 0 else -depth
    return out


def _standardised(feature: np.ndarray) -> np.ndarray:
    deviation = float(feature.std())
    return (feature - feature.mean()) / (deviation if deviation > 0 else 1.0)


# ---------------------------------------------------------------- the model


def instance(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    """Every cell of like voxels is taken for another class with its own probability, by its own look.

    An example is a cell within one true class (a voxel where `cell` is 0). It is wrong with a rate q
    around eta; with `ranked` the largest rates go to the examples that look most like another class and
    are nearest to a contour. The class that it is taken for is drawn by its features times W, one W per true class
    (with `shared` one for all) that depends on `w_seed` alone, so all cases of a folder err alike.
    """
    set_, known, image = case.settings, np.asarray(case.known), case.image
    eta = DICE_LOSS * case.severity if set_["eta"] is None else float(set_["eta"])
    if image is None or len(known) < 2 or eta == 0:
        return case.labels.copy(), {"eta": eta, "examples": 0}
    zone, reach = _zone(case, eta)
    if not zone.any():
        return case.labels.copy(), {"eta": eta, "reach": reach, "examples": 0}
    truth = np.searchsorted(known, case.labels[zone])
    example, n = _examples(case, image, zone, truth)
    label_of = np.zeros(n, dtype=np.int64)
    label_of[example] = truth
    local = _local(case, image)
    rates = draw_rates(n, eta, set_["sd"], case.rng)
    if set_["ranked"]:
        means = np.stack([_mean(feature, zone, example, n) for feature in local[1:-1:3]], axis=1)
        hard = difficulty(means, label_of, _mean(np.abs(local[-1]), zone, example, n))
        rates[np.argsort(hard, kind="stable")] = np.sort(rates)
    scores = _scores(case, window_features(image) if set_["features"] == "window" else local, zone, example, label_of)
    limits = np.cumsum(instance_probs(scores, label_of, rates), axis=1)
    drawn = (case.rng.random(n)[:, None] >= limits[:, :-1]).sum(axis=1)
    out = case.labels.copy()
    out[zone] = known[drawn[example]]
    return out, {"eta": eta, "reach": reach, "examples": n, "examples_wrong": int((drawn != label_of).sum())}


def _zone(case: Case, eta: float) -> tuple[np.ndarray, float]:
    """Where errors may lie: within some radii of the contour of an object; everywhere where `reach` is 0."""
    reach = case.settings["reach"]
    if reach == 0:
        return ~case.fixed, 0.0
    depth = _relative_depth(case, float(reach or REACHES[-1]))
    if reach is None:
        reach = _reach_for(case, depth, eta)
    return (depth <= reach) & ~case.fixed, round(float(reach), 4)


def _relative_depth(case: Case, most: float) -> np.ndarray:
    """Distance to the nearest contour in radii of its object, (*spatial); inf beyond `most`. The voxels on
    either side of a contour are near it, however small the object."""
    out = np.full(case.labels.shape, np.inf, dtype=np.float32)
    for plane, spacing in case.grid.planes(out.shape):
        for c in case.present:
            for box, obj in objects(case.labels[plane] == c, room=most):
                radius = equal_radius(float(obj.sum() * np.prod(spacing)), obj.ndim)
                if obj.all():
                    continue
                mm = distance(obj, spacing) + distance(~obj, spacing)
                share = np.where(mm <= min(spacing), 0, mm / radius)
                out[plane][box] = np.minimum(out[plane][box], share)
    return out


def _reach_for(case: Case, depth: np.ndarray, eta: float) -> float:
    """The reach at which errors at the rate `eta` take the mean Dice to 1 - 0.4 severity, as expected."""
    wanted = 1 - DICE_LOSS * case.severity
    total = np.histogram(depth[~case.fixed], [-1, *REACHES])[0].cumsum()
    reached = np.zeros(REACHES.size)
    for c in case.present:
        own = case.labels == c
        within, n = np.histogram(depth[own], [-1, *REACHES])[0].cumsum(), int(own.sum())
        kept, added = n - eta * within, eta / (len(case.known) - 1) * (total - within)
        reached += 2 * kept / (n + kept + added) / len(case.present)
    return float(REACHES[np.argmin(np.abs(reached - wanted))])


def _examples(case: Case, image: np.ndarray, zone: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, int]:
    """The number of the example that each voxel of the zone belongs to, and how many there are."""
    cell = case.settings["cell"]
    if cell == 0:
        return np.arange(truth.size), int(truth.size)
    cells, n = np.zeros(zone.shape, dtype=np.int64), 0
    look = _standardised(ndimage.gaussian_filter(image[0].astype(np.float32), 1.0, mode="nearest"))
    for plane, spacing in case.grid.planes(zone.shape):
        if not zone[plane].any():
            continue
        radius = cell * _mean_radius(case.labels[plane] != 0, spacing, case.fixed[plane])
        for c in case.known:
            part = zone[plane] & (case.labels[plane] == c)
            if part.any():
                number = _cells(part, look[plane], radius, spacing, case.rng)
                cells[plane][part] = n + number
                n += int(number.max()) + 1
    return cells[zone], n


def _mean_radius(foreground: np.ndarray, spacing: Sequence[float], fixed: np.ndarray) -> float:
    """Mean radius in mm of the objects, the larger ones counting more."""
    sizes = np.array([float(obj.sum()) for _, obj in objects(foreground & ~fixed, room=0.0)])
    if sizes.size == 0:
        return 4 * float(min(spacing))
    return equal_radius(float(np.average(sizes, weights=sizes)) * float(np.prod(spacing)), foreground.ndim)


def _cells(
    zone: np.ndarray, look: np.ndarray, radius: float, spacing: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Cells of about `radius` mm, each around a random voxel and of like intensity; numbers 0.. per voxel."""
    at = np.argwhere(zone)
    size = np.pi * radius**2 if zone.ndim == 2 else 4 / 3 * np.pi * radius**3
    n = int(np.clip(np.ceil(len(at) * np.prod(spacing) / max(size, 1e-9)), 1, len(at)))
    space = np.column_stack([at * np.asarray(spacing) / max(radius, 1e-9), look[zone]])
    seeds = np.sort(rng.choice(len(at), size=n, replace=False))
    return np.unique(cKDTree(space[seeds]).query(space)[1], return_inverse=True)[1].reshape(-1)


def _scores(
    case: Case, maps: Iterable[np.ndarray], zone: np.ndarray, example: np.ndarray, label_of: np.ndarray
) -> np.ndarray:
    """(N, K): the mean features of each example times the W of its true class."""
    set_, n_classes = case.settings, len(case.known)
    rng = np.random.default_rng(set_["w_seed"])
    scores = np.zeros((label_of.size, n_classes))
    for feature in maps:
        w = rng.standard_normal((n_classes, n_classes))  # of this feature, per true class
        x = _mean(_standardised(feature) if set_["standardise"] else feature, zone, example, label_of.size)
        scores += x[:, None] * (w[0] if set_["shared"] else w[label_of])
    return scores


def _local(case: Case, image: np.ndarray) -> list[np.ndarray]:
    """The local features, slice by slice where the case is spoiled so."""
    labels = np.where(case.fixed, 0, case.labels)
    maps = [np.zeros(labels.shape, dtype=np.float32) for _ in range(3 * len(image) + 1)]
    for plane, spacing in case.grid.planes(labels.shape):
        for out, feature in zip(
            maps, local_features(image[(slice(None), *plane)], labels[plane], spacing), strict=True
        ):
            out[plane] = feature
    return maps


def difficulty(means: np.ndarray, labels: np.ndarray, distance_mm: np.ndarray) -> np.ndarray:
    """How much each example looks like another class, and how near it is to a contour; (N,).

    Parameters
    ----------
    means : (N, C) local mean of each channel.
    labels : (N,) true class indices.
    distance_mm : (N,) to the nearest voxel of another label.

    Returns
    -------
    The distance of the intensities to the mean of the own class minus that to the nearest mean of another,
    standardised, minus the standardised distance to a contour. With one class only the latter.
    """
    found = np.unique(labels)
    hard = -_standardised(distance_mm)
    if len(found) > 1:
        to = np.stack([np.linalg.norm(means - means[labels == k].mean(axis=0), axis=1) for k in found], axis=1)
        own = labels[:, None] == found
        hard = hard + _standardised(to[own] - np.where(own, np.inf, to).min(axis=1))
    return hard


def _mean(feature: np.ndarray, zone: np.ndarray, example: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(example, feature[zone], minlength=n) / np.bincount(example, minlength=n)
