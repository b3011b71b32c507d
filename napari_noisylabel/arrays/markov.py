"""The Markov label noise of Yao et al., ICLR 2023, as published and scaled to the size of an object."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.distance import distance

FRONT = {(2, True): (1.95, 0.55), (2, False): (1.9, 0.3), (3, True): (2.0, 0.4), (3, False): (1.85, 0.1)}
"""How a Markov front moves (2-D or 3-D, growing or not): its speed relative to theta2 |2 theta1 - 1|, and
the voxels that smoothing takes back. Faster than 1, because a flipped voxel makes new ring voxels.
Measured on the hippocampi (3-D), heart chambers and cells (2-D) of the table in `noise`."""


def markov(
    mask: np.ndarray,
    steps: int,
    theta1: float,
    theta2: float,
    theta3: float,
    rng: np.random.Generator,
    *,
    smooth: bool = True,
) -> np.ndarray:
    """The Markov label noise M(T, theta1, theta2, theta3), as published.

    `steps` times, the outer ring of the object (with probability `theta1`) or else its inner ring
    is chosen, and each voxel of that ring flipped with probability `theta2`. Then each voxel of
    the array is flipped with probability `theta3`, and the mask is smoothed.

    Parameters
    ----------
    mask : (*spatial) bool, one structure, 2-D or 3-D; rings are of face neighbours. Not changed.
    steps : T, 0 or more.
    theta1, theta2, theta3 : probabilities.
    smooth : False leaves out the last step: a Gaussian of sigma 2 in a window of 5 x 5 in 2-D,
        of sigma 1 in 3-D, cut at 0.5.

    Returns
    -------
    (*spatial) bool. An empty and a full mask have no ring; only flips change them.

    Source: Yao et al., "Learning to Segment from Noisy Annotations: A Spatial Correction Approach",
    ICLR 2023, and its released code.
    """
    outside = -1  # neither object nor background: the border of the array is no boundary
    edged = np.pad(np.ascontiguousarray(mask, dtype=np.int8), 1, constant_values=outside)
    flat = edged.reshape(-1)
    steps_to = np.array([s * sign for s in edged.strides for sign in (-1, 1)])  # int8: strides are in voxels
    front = _front(flat, np.arange(flat.size), steps_to)
    for grows in rng.random(steps) < theta1:
        ring = front[flat[front] != grows]
        flipped = ring[rng.random(ring.size) < theta2]
        flat[flipped] = grows
        touched = (flipped[:, None] + steps_to).reshape(-1)
        front = _front(flat, np.unique(np.concatenate([front, touched])), steps_to)
    out = edged[(slice(1, -1),) * mask.ndim] == 1
    if theta3 > 0:
        out ^= rng.random(out.shape) < theta3
    return _smoothed_as_published(out) if smooth else out


def scaled_markov(
    obj: np.ndarray, covered: np.ndarray, wanted: int, theta1: float, theta2: float, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """The Markov noise with T and smoothing that suit the size of one object.

    Parameters
    ----------
    obj : (*spatial) bool, one object with room around it.
    covered : (*spatial) bool, voxels that do not count.
    wanted : voxels that the object should gain (theta1 > 0.5) or lose, in the mean.

    Returns
    -------
    (*spatial) bool, and T. With T = 0 the object is as it was.
    """
    steps = _steps_for(obj, covered, wanted, theta1, theta2)
    if steps == 0:
        return obj.copy(), 0
    depth = float(distance(np.pad(obj, 1), (1.0,) * obj.ndim).max())
    sigma = min(2.0 if obj.ndim == 2 else 1.0, depth / 4)  # as published, unless that would erase it
    return _smoothed(markov(obj, steps, theta1, theta2, 0.0, rng, smooth=False), sigma), steps


def _steps_for(obj: np.ndarray, covered: np.ndarray, wanted: int, theta1: float, theta2: float) -> int:
    """Shells of the object to go for the wanted voxels, over the speed of the front."""
    grows = theta1 > 0.5
    depth = distance(~obj if grows else obj, (1.0,) * obj.ndim)
    depth = depth[(depth > 0) & np.isfinite(depth) & ~covered]
    shells = np.cumsum(np.bincount(np.ceil(depth).astype(np.int64), minlength=1))
    voxels = float(np.interp(wanted, shells, np.arange(shells.size)))
    drift = max(abs(2 * theta1 - 1), 0.2)  # without drift no number of steps would do
    speed, lag = FRONT[obj.ndim, grows]
    return round((voxels + lag) / (speed * theta2 * drift)) if voxels > 0 else 0


def _front(flat: np.ndarray, candidates: np.ndarray, steps_to: np.ndarray) -> np.ndarray:
    """Those candidates that have a face neighbour of the other kind: outer and inner ring together."""
    candidates = candidates[flat[candidates] >= 0]
    other = 1 - flat[candidates]
    found = np.zeros(candidates.size, dtype=bool)
    for step in steps_to:
        found |= flat[candidates + step] == other
    return candidates[found]


def _smoothed_as_published(mask: np.ndarray) -> np.ndarray:
    return _smoothed(mask, 2.0, radius=2) if mask.ndim == 2 else _smoothed(mask, 1.0)


def _smoothed(mask: np.ndarray, sigma: float, radius: int | None = None) -> np.ndarray:
    return ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest", radius=radius) > 0.5
