"""Noise of contours: fronts, waves, dilation and erosion, objects redrawn as ellipses. One class at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.markov import markov, scaled_markov
from napari_noisylabel.arrays.noise_case import ClassJob, reached_dice, to_add, to_remove
from napari_noisylabel.arrays.shapes import equal_radius, same_moments


def markov_front(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    """The contour grows or shrinks by a random front: as published where the steps are set."""
    set_ = job.settings
    out = np.zeros_like(job.mask)
    if set_["steps"] is not None:  # as published: all objects of a class move together
        thetas = (set_["theta1"], set_["theta2"], set_["theta3"])
        for plane, _ in job.grid.planes(out.shape):
            out[plane] = markov(job.mask[plane], set_["steps"], *thetas, job.rng)
        return out, {"theta1": set_["theta1"], "steps": [set_["steps"]]}
    size, steps = to_add if set_["theta1"] > 0.5 else to_remove, []
    for at, obj, _ in job.objects():
        covered = job.covered[at]
        wanted = size(obj, covered, job.dice)
        moved, n = scaled_markov(obj, covered, wanted, set_["theta1"], set_["theta2"], job.rng)
        out[at] |= moved
        steps.append(n)
    return out, {"theta1": set_["theta1"], "steps": steps}


def boundary(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    """Each object is dilated or eroded, and its contour waves."""
    out = np.zeros_like(job.mask)
    grown: list[bool] = []
    for at, obj, spacing in job.objects():
        if job.grid.axis is None or not grown:  # slices of one object go the same way
            grown.append(bool(job.rng.random() < job.settings["grow"]))
        speed = (1.0 if grown[-1] else -1.0) + job.settings["roughness"] * _wave(obj, job, spacing)
        signed_mm = distance(~obj, spacing) - distance(obj, spacing)
        with np.errstate(divide="ignore"):
            when = signed_mm / speed  # the dilation, in mm, at which the front reaches a voxel
        out[at] |= _flip_until(obj, job.covered[at], when, job.dice)
    return out, {"grown": grown}


def _wave(obj: np.ndarray, job: ClassJob, spacing: Sequence[float]) -> np.ndarray:
    """A smooth random field of standard deviation 1, as wide as the object."""
    length_mm = job.settings["wave"] * equal_radius(float(obj.sum() * np.prod(spacing)), obj.ndim)
    field = job.rng.standard_normal(obj.shape, dtype=np.float32)
    field = ndimage.gaussian_filter(field, [length_mm / s for s in spacing], mode="nearest")
    return (field - field.mean()) / max(float(field.std()), 1e-12)


def _flip_until(obj: np.ndarray, covered: np.ndarray, when: np.ndarray, dice: float) -> np.ndarray:
    """Flip voxels in the order of `when`, if positive, until the Dice with `obj` is `dice`."""
    at = np.flatnonzero((when > 0) & np.isfinite(when) & ~covered)
    at = at[np.argsort(when.reshape(-1)[at], kind="stable")]
    inside = obj.reshape(-1)[at]
    size = int(obj.sum())
    lost = int((obj & covered).sum()) + np.concatenate([[0], np.cumsum(inside)])
    added = np.concatenate([[0], np.cumsum(~inside)])
    reached = 2 * (size - lost) / (2 * size - lost + added)
    out = obj.copy()
    out.reshape(-1)[at[: np.argmin(np.abs(reached - dice))]] ^= True
    return out


# ---------------------------------------------------------------- dilation and erosion


def dilated(mask: np.ndarray, radius: float, spacing: Sequence[float], *, grows: bool) -> np.ndarray:
    """`mask` dilated or (with `grows` False) eroded: every voxel nearer than `radius` to it, or to what is not it.

    Parameters
    ----------
    mask : (*spatial) bool.
    radius : in the unit of `spacing`; with a spacing of 1, in voxels. 1 or less changes nothing.
    spacing : mm per voxel, in array order.

    Returns
    -------
    (*spatial) bool. An empty and a full mask stay as they are.

    Source: the comparison noise {EDT(1 - y) < r} of Yao et al., "Learning to Segment from Noisy
    Annotations: A Spatial Correction Approach", ICLR 2023, and its released code.
    """
    if not mask.any() or mask.all():
        return mask.copy()
    return distance(~mask, spacing) < radius if grows else distance(mask, spacing) >= radius


def dilation_erosion(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    """All objects of the class are dilated, or all are eroded, by one radius and without raggedness."""
    set_, out = job.settings, np.zeros_like(job.mask)
    if set_["least"] is not None:
        radius = float(job.rng.uniform(set_["least"], set_["most"]))
        for plane, spacing in job.grid.planes(out.shape):
            out[plane] = dilated(job.mask[plane], radius, (1.0,) * len(spacing), grows=set_["grows"])
        return out, {"grown": set_["grows"], "radius_voxels": round(radius, 4)}
    out, radius = _to_dice(job)
    return out, {"grown": set_["grows"], "radius_mm": round(radius, 4)}


def _to_dice(job: ClassJob) -> tuple[np.ndarray, float]:
    """The class dilated or eroded until its Dice is what is wanted, and the radius in mm.

    Of the last shell of voxels, which are equally far from the contour, those come first that have most
    of the object around them (dilation) or least of it (erosion).
    """
    grows = job.settings["grows"]
    depth, softness = np.zeros(job.mask.shape, np.float32), np.zeros(job.mask.shape, np.float32)
    for plane, spacing in job.grid.planes(job.mask.shape):
        mask = job.mask[plane]
        if mask.any() and not mask.all():
            depth[plane] = distance(~mask if grows else mask, spacing)
            sigma = [2 * min(spacing) / s for s in spacing]
            softness[plane] = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest")
    at = np.flatnonzero((depth > 0) & ~job.covered)
    softness *= -1 if grows else 1
    at = at[np.lexsort((softness.reshape(-1)[at], depth.reshape(-1)[at]))]
    size, lost = int(job.mask.sum()), int((job.mask & job.covered).sum())
    flipped = np.arange(at.size + 1)
    kept, added = (size - lost, flipped) if grows else (size - lost - flipped, 0 * flipped)
    n = int(np.argmin(np.abs(2 * kept / (size + kept + added) - job.dice)))
    out = job.mask.copy()
    out.reshape(-1)[at[:n]] ^= True
    return out, float(depth.reshape(-1)[at[n - 1]]) if n else 0.0


# ---------------------------------------------------------------- ellipses


STRETCHES = np.linspace(0, 1.5, 31)
"""Steps of the way from the ellipse of an object to a thinner and longer one: logarithm of the longest axis."""


def ellipses(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    """Each object is redrawn as the ellipse (ellipsoid) with its centroid and second moments.

    Where a Dice is aimed at, the first shape with that Dice on the way from the object to its ellipse, and
    on to ever longer and thinner ellipses of the same size, is taken.
    """
    out = np.zeros_like(job.mask)
    stretches: list[float] = []
    for at, obj, spacing in job.objects(room=3.0):
        if job.settings["exact"]:
            out[at] |= same_moments(obj, spacing)
            continue
        best, gap = obj, np.inf
        for stretch, shape in _towards_ellipse(obj, spacing):
            reached = reached_dice(shape & ~job.covered[at], obj)
            if abs(reached - job.dice) < gap:
                best, gap, chosen = shape, abs(reached - job.dice), stretch
            if reached < job.dice:
                break
        out[at] |= best
        stretches.append(round(float(chosen), 3))
    return out, {} if job.settings["exact"] else {"stretch": stretches}


def _towards_ellipse(obj: np.ndarray, spacing: Sequence[float]) -> Iterator[tuple[float, np.ndarray]]:
    """The object, shapes between it and its ellipse (-1..0), and longer ellipses (0..1.5)."""
    ellipse = same_moments(obj, spacing)
    yield -1.0, obj
    if ellipse.any() and not ellipse.all():
        depth = [distance(~m, spacing) - distance(m, spacing) for m in (obj, ellipse)]
        for share in np.linspace(0, 1, 11)[1:-1]:
            yield share - 1, (1 - share) * depth[0] + share * depth[1] < 0
    for stretch in STRETCHES:
        yield stretch, same_moments(obj, spacing, float(np.exp(stretch)))
