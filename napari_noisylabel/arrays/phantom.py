"""Made-up cases with known truth, easy enough to be learnt in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.shapes import ellipsoid
from napari_noisylabel.errors import BadSetting, ShapeMismatch

FOREGROUND = 0.2
"""Share of the array that all classes take together, in the mean."""


def phantom(
    shape: Sequence[int],
    spacing: Sequence[float],
    n_classes: int,
    rng: np.random.Generator,
    *,
    texture: float = 0.1,
    noise: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """One ellipsoid per class, each class with a grey value of its own, under texture and noise.

    Parameters
    ----------
    shape : (*spatial), 2-D or 3-D.
    spacing : mm per voxel, in array order; the ellipsoids and the texture are round in mm.
    n_classes : K, background included, in [2, 255]. Every class has at least one voxel.
    texture : standard deviation of a smooth random field, in units of the grey values below.
    noise : standard deviation of the noise of single voxels, in the same units.

    Returns
    -------
    image : (1, *spatial) float32. Class c has the mean c / (K - 1), so background 0 and the last class 1.
    labels : (*spatial) uint8, the truth.

    Raises
    ------
    ShapeMismatch : `spacing` does not have one value per axis.
    BadSetting : another number of axes, too few voxels, or too few or too many classes.
    """
    shape = tuple(int(n) for n in shape)
    _check(shape, spacing, n_classes)
    labels = np.zeros(shape, dtype=np.uint8)
    for c in range(1, n_classes):
        share = FOREGROUND / (n_classes - 1) * rng.uniform(0.7, 1.3)
        labels[ellipsoid(labels == 0, max(1, round(share * labels.size)), spacing, rng)] = c
    image = labels / (n_classes - 1) + texture * _smooth_field(shape, spacing, rng)
    image += noise * rng.standard_normal(shape)
    return image[None].astype(np.float32), labels


def part_and_body(
    shape: Sequence[int], present: Sequence[int], rng: np.random.Generator, *, body: float = 0.5, part: float = 2.5
) -> tuple[np.ndarray, np.ndarray]:
    """Objects of which one small part catches the eye and a large body does not: what tags alone teach badly.

    Parameters
    ----------
    shape : (*spatial), 2-D or 3-D, every side at least 32.
    present : the classes that the image shows, of 1 and 2. Class c has a body of stripes across axis c - 1 of the
        last two, and somewhere in it a part: a bright disc for class 1, a dark one for class 2.
    body : amplitude of the stripes, part : contrast of the part; the background texture and the noise of single
        voxels have a standard deviation of 0.5 and 0.3.

    Returns
    -------
    image : (1, *spatial) float32; labels : (*spatial) uint8, the truth, body and part together.

    Raises
    ------
    BadSetting : sides under 32, or classes other than 1 and 2.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (2, 3) or min(shape) < 32 or not set(present) <= {1, 2}:
        raise BadSetting(
            f"objects of part and body need sides of at least 32 and classes 1 and 2, got {shape} and {list(present)}."
        )
    spacing = (1.0,) * len(shape)
    image = 0.5 * _smooth_field(shape, spacing, rng) + 0.3 * rng.standard_normal(shape)
    labels = np.zeros(shape, np.uint8)
    grid = np.indices(shape)
    for c in present:
        own = _ball(grid, rng.uniform(9, 13), labels == 0, rng)
        stripes = np.sin(2 * np.pi * (grid[len(shape) - 3 + c] / 6.0 + rng.uniform()))
        image[own] += body * stripes[own]
        disc = _ball(grid, rng.uniform(3, 4), own, rng)
        image[disc] += part if c == 1 else -part
        labels[own] = c
    return image[None].astype(np.float32), labels


def _ball(grid: np.ndarray, radius: float, within: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A ball around a voxel of `within` at least a radius from the array's edge, (*spatial) bool, cut to `within`."""
    inner = within.copy()
    for axis, n in enumerate(within.shape):
        edge = [slice(None)] * within.ndim
        for side in (slice(0, int(radius)), slice(n - int(radius), n)):
            edge[axis] = side
            inner[tuple(edge)] = False
    places = np.argwhere(inner if inner.any() else within)
    centre = places[rng.integers(len(places))].reshape(-1, *(1,) * within.ndim)
    return (((grid - centre) ** 2).sum(0) <= radius**2) & within


def _smooth_field(shape: tuple[int, ...], spacing: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    sigma_mm = 3 * min(spacing)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), [sigma_mm / s for s in spacing], mode="wrap")
    return field / max(float(field.std()), 1e-12)


def _check(shape: tuple[int, ...], spacing: Sequence[float], n_classes: int) -> None:
    if len(spacing) != len(shape) or min(spacing) <= 0:
        raise ShapeMismatch(
            f"spacing must have one positive value per axis, got {tuple(spacing)} for shape {shape}. "
            "Hand it over in array order."
        )
    if len(shape) not in (2, 3) or not 2 <= n_classes <= 255 or np.prod(shape) < 10 * n_classes:
        raise BadSetting(
            "a phantom needs 2 or 3 axes, 2 to 255 classes (background is one) and ten voxels per class, "
            f"got shape {shape} and {n_classes} classes."
        )
