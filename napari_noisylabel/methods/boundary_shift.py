"""Moving predicted boundaries by a known bias, in two ways.

`bumped` is the published correction (Yao et al., ICLR 2023): a bump of the width of the bias is added
to the logit of a class. Where the logit is linear in distance it moves the boundary by 0.753 of the
bias, where it is saturated not at all. `carried` is ours, and exact whatever the shape of the logit:
each voxel takes the probabilities that were found one bias further along the normal of its border.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.arrays.labels import bounding_box
from napari_noisylabel.methods.boundary_bias import distance_in_slices, signed_distance_in_slices

LEAST_PROB = 1e-6
"""Probabilities are float16, which knows nothing between 0 and 6e-8."""
FLAT = 0.5
"""Slope below which a distance has no direction: on the middle line of a structure nothing is carried."""
DEPTH = 90
"""Percentile of the inner depth that counts as half the width of a structure."""


# ---------------------------------------------------------------- the published correction


def bumped(margin: np.ndarray, d: np.ndarray, bias: float, percentile: float = 100) -> np.ndarray:
    """`margin` with a bump along the boundary that moves it outwards (`bias` > 0) or inwards.

    s + sign(bias) b exp(-d^2 / (2 bias^2)), where b is the largest |s| in the band between the
    boundary and the bias. Without any voxel in the band, as where |bias| is below one voxel, nothing
    changes.

    Parameters
    ----------
    margin : (*spatial) logits s of one class, positive inside.
    d : (*spatial) signed distance to {s > 0}, in the unit of `bias`.
    percentile : 100 for the published maximum; 95 does not let one extreme logit decide.

    Source: specification section 5, step 4.
    """
    band = (bias <= d) & (d < 0) if bias < 0 else (0 < d) & (d <= bias)
    if not band.any():
        return margin.copy()
    b = np.percentile(np.abs(margin[band]), percentile)
    return margin + np.sign(bias) * b * np.exp(-(d**2) / (2 * bias**2))


def bumped_probs(
    probs: np.ndarray, bias: np.ndarray, spacing: Sequence[float], axis: int | None, percentile: float = 100
) -> np.ndarray:
    """Probabilities after `bumped` of each class with a bias, on its margin over the next best class.

    A class gives way to background alone and grows into background alone, so that of two classes that
    share a border not both are moved away from it.

    Parameters
    ----------
    probs : (K, *spatial), float16 or better.
    bias : (K,) mm, of which 0 and NaN leave their class alone, and that of background has no say.

    Returns
    -------
    (K, *spatial) float32. A class that the prediction lacks, or that fills it, stays as it is.
    """
    logs = np.log(np.clip(probs.astype(np.float32), LEAST_PROB, 1))
    guess, out = logs.argmax(0), logs.copy()
    for c in range(1, len(logs)):
        own = guess == c
        if not np.nan_to_num(bias[c]) or not own.any() or own.all():
            continue
        margin = logs[c] - np.delete(logs, c, 0).max(0)
        d = signed_distance_in_slices(own, spacing, axis)
        if bias[c] < 0:
            d = np.where(own, -distance_in_slices(guess != 0, spacing, axis), d)
        bump = bumped(margin, d, bias[c], percentile) - margin
        out[c] += np.where(own | (guess == 0), bump, 0)
    return _softmax(out)


# ---------------------------------------------------------------- the exact one


def carried(probs: np.ndarray, bias: np.ndarray, spacing: Sequence[float], axis: int | None) -> np.ndarray:
    """Probabilities carried across each border by its bias.

    A voxel takes the probabilities from the place that lies the bias further along the normal of the
    nearest border: out of the losing class, into the winning one. Full shift up to twice the bias from
    the border, none from four times on. No voxel changes in favour of the class that loses.

    Parameters
    ----------
    probs : (K, *spatial).
    bias : (K, K) mm, antisymmetric: [c, k] is by how much c grows at the expense of k. 0 and NaN
        leave a border alone.
    axis : across which slices are measured one by one, or None.

    Returns
    -------
    (K, *spatial) float32, summing to 1 where `probs` does.
    """
    out = probs.astype(np.float32)
    shifts = np.nan_to_num(bias)
    guess = probs.argmax(0)
    pairs = [(c, k) for c, k in combinations(range(len(probs)), 2) if shifts[c, k]]
    pairs = [(c, k) for c, k in pairs if (guess == c).any() and (guess == k).any()]
    if not pairs:
        return out
    box = _roomy_box(guess > 0, 4 * np.abs(shifts).max(), spacing)
    own, new = guess[box], out[(slice(None), *box)]
    old = new.copy()
    away = np.stack([distance_in_slices(own != k, spacing, axis) for k in range(len(probs))])
    beside = _nearest_other(away, own)
    for c, k in pairs:
        here = ((own == c) & (beside == k)) | ((own == k) & (beside == c))
        near, taken = _taken_from(old, away[c], away[k], here, shifts[c, k], spacing, axis)
        before = old[:, near]
        gain = (taken[c] - taken[k] - before[c] + before[k]) * np.sign(shifts[c, k])
        new[:, near] = np.where(gain > 0, taken, before)
    return out


# ---------------------------------------------------------------- guards


def capped(bias: np.ndarray, guess: np.ndarray, spacing: Sequence[float], axis: int | None, cap: float) -> np.ndarray:
    """`bias` of which no class loses more than `cap` times its inner depth (90th percentile).

    bias (K,) per class or (K, K) per border, in mm; guess (*spatial). Classes may grow by any amount,
    and background loses any amount: thin structures vanish by shrinking only. Source: specification, section 10.
    """
    out = np.array(bias, float)
    for c in range(1, len(out)):
        own = guess == c
        depth = distance_in_slices(own, spacing, axis)[own]
        depth = depth[np.isfinite(depth)]
        if not depth.size:
            continue
        most = cap * np.percentile(depth, DEPTH)
        out[c] = np.where(out[c] < -most, -most, out[c])
        if out.ndim == 2:
            out[:, c] = np.where(out[:, c] > most, most, out[:, c])
    return out


def kept(probs: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """`moved` with the probabilities `probs` back where a whole component of a class was erased.

    probs, moved (K, *spatial); components of the foreground classes of `probs`, in which not one voxel
    is left of their class. Writes into `moved` and returns it. Source: specification, section 10.
    """
    guess = probs.argmax(0)
    components, n = label_components(guess.astype(np.uint8))
    left = np.zeros(n + 1, bool)
    left[np.unique(components[moved.argmax(0) == guess])] = True
    left[0] = True
    np.copyto(moved, probs.astype(moved.dtype), where=~left[components])
    return moved


# ---------------------------------------------------------------- helpers, in order of use


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(0, keepdims=True))
    return (e / e.sum(0, keepdims=True)).astype(np.float32)


def _roomy_box(mask: np.ndarray, reach: float, spacing: Sequence[float]) -> tuple[slice, ...]:
    room = [int(np.ceil(reach / s)) + 2 for s in spacing]
    return tuple(slice(max(0, b.start - r), b.stop + r) for b, r in zip(bounding_box(mask), room, strict=True))


def _nearest_other(away: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The nearest class that is not a voxel's own, from the distances (K, *spatial) to each class."""
    others = away.copy()
    np.put_along_axis(others, own[None], np.inf, 0)
    nearest = others.argmin(0)
    return np.where(np.isfinite(others.min(0)), nearest, own)


def _taken_from(
    planes: np.ndarray, from_c: np.ndarray, from_k: np.ndarray, here: np.ndarray, shift: float,
    spacing: Sequence[float], axis: int | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(*spatial) bool: the voxels among `here` that lie near the border of c and k; and what (K, N) they take.

    from_c, from_k : (*spatial) distances to both classes; one of the two is 0 at each voxel of `here`.
    """
    depth = from_c + from_k
    weight = np.clip(2 - depth / (2 * abs(shift)), 0, 1)
    near = here & (weight > 0)
    signed = np.where(np.isfinite(depth), from_c - from_k, 0)
    slopes = np.gradient(signed, *spacing)
    normal = np.stack([np.zeros(near.sum()) if a == axis else s[near] for a, s in enumerate(slopes)])
    normal /= np.maximum(np.linalg.norm(normal, axis=0), FLAT)
    places = np.stack(np.nonzero(near)) - shift * weight[near] * normal / np.reshape(spacing, (-1, 1))
    return near, np.stack([ndimage.map_coordinates(p, places, order=1, mode="nearest") for p in planes])
