"""Where voxels are taken from, and what is said of them: intensity, gradients, texture, position.

Features made by hand know nothing of the labels. A network that was trained on the noisy labels has
taken up some of the noise, and its features then hide it. Arrays are (*spatial) or (C, *spatial); N places
are indices (N, ndim).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

LARGE = 2**22
"""Larger volumes are averaged over blocks before they are filtered."""
SPREAD = 2.0
"""Standard deviation, in pixels, of the steps from a voxel of a class to the places near it."""
PROBES = 2
"""Voxels near a place that must be of the class, too, for the place to count as one where the class is."""
TRIES = 8


def places(
    labels: np.ndarray, free: np.ndarray, n_classes: int, n: int, spacing: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """About `n` places, as many where each class is: (N, ndim) indices, each once.

    A place is a step away from a voxel of the class, with `PROBES` more voxels of the class near it. Its own
    label has no say. Were places drawn by their own label, a rare class would be labelled wrongly more
    often among them than it is; so T is that of all voxels, if errors depend on the class alone and
    not on the place.

    Parameters
    ----------
    labels : (*spatial), noisy; values from `n_classes` on are no class.
    free : (*spatial) bool: voxels that may be taken.
    n : at most so many.
    spacing : mm per voxel; steps are as long in mm along each axis.
    """
    shape = np.array(labels.shape)
    steps = SPREAD * min(spacing) / np.asarray(spacing)
    flat, found = labels.reshape(-1), []
    shown = [k for k in range(n_classes) if (flat == k).any()]
    for k in shown:
        voxels, wished = np.flatnonzero(flat == k), -(-n // len(shown))
        loose: list[np.ndarray] = []
        near: list[np.ndarray] = []
        for _ in range(TRIES):
            seeds = np.stack(np.unravel_index(rng.choice(voxels, 2 * wished), labels.shape), axis=1)
            at, moved = _step(seeds, steps, shape, rng)
            agreed = moved & free[tuple(at.T)]
            loose.append(at[agreed])
            for _ in range(PROBES):
                probe, moved = _step(at, steps, shape, rng)
                agreed &= moved & (labels[tuple(probe.T)] == k)
            near.append(at[agreed])
            if sum(map(len, near)) >= 2 * wished:
                break
        # thin structures have few places inside: near them will do
        found.append(_once(np.concatenate([*near, *loose]), shape)[:wished])
    return _once(np.concatenate([np.zeros((0, labels.ndim), np.int64), *found]), shape)


def feature_names(n_channels: int, n_dims: int) -> tuple[str, ...]:
    """What `hand_made` gives, in its order."""
    channels = range(n_channels)
    each = [
        f"{what}" + (f" of channel {c}" if n_channels > 1 else "") for c in channels for what in _channel_names(n_dims)
    ]
    return (*each, *(f"position {'zyx'[3 - n_dims + a]}" for a in range(n_dims)), "distance from the centre")


def hand_made(image: np.ndarray, at: np.ndarray, spacing: Sequence[float], unit_mm: float) -> np.ndarray:
    """Features of the places `at`, (N, M) float32.

    Per channel: intensity; its mean at scales of 1, 2 and 4 units (Gaussian); size of its gradient at 1 and 2;
    standard deviation at 2 and 4; mean at the places 6 units before and behind along each axis. Then
    the position, -1 to 1 along each axis, and the distance from the centre.

    Parameters
    ----------
    image : (C, *spatial).
    at : (N, ndim) indices.
    spacing : mm per voxel.
    unit_mm : what a scale of 1 is, the same for all cases that are compared.
    """
    columns: list[np.ndarray] = []
    for channel in image:
        columns += _of_channel(np.asarray(channel, np.float32), at, spacing, unit_mm)
    shape = np.array(image.shape[1:])
    relative = 2 * (at + 0.5) / shape - 1
    columns += [*relative.T, np.linalg.norm(relative, axis=1)]
    return np.stack(columns, axis=1).astype(np.float32)


# ---------------------------------------------------------------- helpers


def _step(
    start: np.ndarray, steps: np.ndarray, shape: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random steps, ended at the border; which of them moved at all."""
    there = np.clip(start + np.rint(rng.normal(0, 1, start.shape) * steps).astype(np.int64), 0, shape - 1)
    return there, (there != start).any(axis=1)


def _once(at: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Each place once, in the order of their first appearance."""
    _, first = np.unique(np.ravel_multi_index(tuple(at.T), tuple(shape)), return_index=True)
    return at[np.sort(first)]


def _channel_names(n_dims: int) -> Iterator[str]:
    yield "intensity"
    yield from (f"mean, scale {s}" for s in (1, 2, 4))
    yield from (f"gradient, scale {s}" for s in (1, 2))
    yield from (f"texture, scale {s}" for s in (2, 4))
    yield from (f"mean {way} along {'zyx'[3 - n_dims + a]}" for a in range(n_dims) for way in ("before", "behind"))


def _of_channel(channel: np.ndarray, at: np.ndarray, spacing: Sequence[float], unit_mm: float) -> Iterator[np.ndarray]:
    yield channel[tuple(at.T)]
    small, factor = _reduced(channel)
    own = at // factor
    mm = np.asarray(spacing) * factor
    sigma = {s: s * unit_mm / mm for s in (1, 2, 4)}
    means = {s: gaussian_filter(small, sigma[s]) for s in sigma}
    for s in sigma:
        yield _taken(means[s], own)
    for s in (1, 2):
        yield _taken(gaussian_gradient_magnitude(small, sigma[s]), own)
    squares = small * small
    for s in (2, 4):
        yield np.sqrt(np.maximum(_taken(gaussian_filter(squares, sigma[s]), own) - _taken(means[s], own) ** 2, 0))
    for axis in range(channel.ndim):
        for way in (-1, 1):
            aside = own.copy()
            aside[:, axis] += way * max(1, round(6 * unit_mm / mm[axis]))
            yield _taken(means[2], aside)


def _reduced(channel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The channel, or means of its blocks where it is large, and how many voxels a block has along each axis."""
    factor = np.ones(channel.ndim, np.int64)
    while channel.size / factor.prod() > LARGE:
        factor[int((np.array(channel.shape) / factor).argmax())] *= 2
    for axis, f in enumerate(factor):
        if f > 1:
            starts = np.arange(0, channel.shape[axis], f)
            sums = np.add.reduceat(channel, starts, axis=axis)
            numbers = np.diff(np.append(starts, channel.shape[axis])).astype(np.float32)
            channel = sums / numbers.reshape([-1 if a == axis else 1 for a in range(channel.ndim)])
    return channel, factor


def _taken(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values at indices, which end at the border."""
    inside = np.clip(at, 0, np.array(values.shape) - 1)
    return np.asarray(values[tuple(inside.T)])
