"""What a noise model is handed: one case, or one of its classes, and how much of it is to be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.arrays.shapes import objects

DICE_LOSS = 0.4
"""Mean loss of Dice at severity 1; and the share of wrong voxels, for noise that flips one by one."""

THICK = 3.0
"""Slices are spoiled one by one where the spacings differ by this factor, as nnU-Net calls it anisotropic."""


@dataclass(frozen=True)
class Grid:
    """Spacing in mm, and the axis whose slices are spoiled one by one (None: all axes together)."""

    spacing: tuple[float, ...]
    axis: int | None

    @classmethod
    def of(cls, shape: tuple[int, ...], spacing: Sequence[float] | None, per_slice: bool | None) -> Grid:
        mm = tuple(float(s) for s in spacing) if spacing is not None else (1.0,) * len(shape)
        thick = max(mm) / min(mm) >= THICK if per_slice is None else per_slice
        return cls(mm, int(np.argmax(mm)) if thick and len(shape) == 3 else None)

    def planes(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[Any, ...], tuple[float, ...]]]:
        """Index and spacing of what is spoiled as one: the array, or each of its slices."""
        if self.axis is None:
            yield (slice(None),) * len(shape), self.spacing
            return
        rest = self.spacing[: self.axis] + self.spacing[self.axis + 1 :]
        for i in range(shape[self.axis]):
            yield tuple(i if a == self.axis else slice(None) for a in range(3)), rest

    def pieces(self, mask: np.ndarray) -> tuple[np.ndarray, int]:
        """What may be missing as a whole: objects, or slices of `mask`. Numbers 1..n, and n."""
        if self.axis is None:
            return label_components(mask)
        n = mask.shape[self.axis]
        numbers = np.arange(1, n + 1).reshape([-1 if a == self.axis else 1 for a in range(mask.ndim)])
        return mask * numbers, n


@dataclass(frozen=True, eq=False)
class Case:
    """What the models are handed. `fixed` voxels cannot change.

    `present` are the foreground classes of the case, `known` all classes of the track with background
    first; `image` is (C, *spatial) or None; `severity` is 0 where the settings say all (as published).
    """

    name: str
    labels: np.ndarray
    fixed: np.ndarray
    present: list[int]
    known: list[int]
    image: np.ndarray | None
    severity: float
    settings: Mapping[str, Any]
    grid: Grid
    rng: np.random.Generator

    def dice(self, settings: Mapping[str, Any]) -> float:
        """The Dice to aim at: 1 - 0.4 severity in the mean."""
        spread = settings.get("spread", 0.0)
        return 1 - DICE_LOSS * self.severity * float(self.rng.uniform(1 - spread, 1 + spread))


@dataclass(frozen=True, eq=False)
class ClassJob:
    """One class to spoil. `covered` is what other classes or fixed voxels take from it anyway."""

    mask: np.ndarray
    covered: np.ndarray
    background: np.ndarray
    dice: float
    settings: Mapping[str, Any]
    grid: Grid
    rng: np.random.Generator

    def objects(self, room: float = 1.0) -> Iterator[tuple[tuple[Any, ...], np.ndarray, tuple[float, ...]]]:
        """Where each object is (an index of the array), its mask there, and the spacing there."""
        for plane, spacing in self.grid.planes(self.mask.shape):
            for box, obj in objects(self.mask[plane], room):
                yield _within(plane, box), obj, spacing


def _within(plane: tuple[Any, ...], box: tuple[slice, ...]) -> tuple[Any, ...]:
    sides = iter(box)
    return tuple(p if isinstance(p, int) else next(sides) for p in plane)


# ---------------------------------------------------------------- sizes


def to_remove(obj: np.ndarray, covered: np.ndarray, dice: float) -> int:
    """Voxels to take from `obj` for this Dice, beside those that are covered anyway."""
    lost = int((obj & covered).sum())
    return max(0, round(2 * int(obj.sum()) * (1 - dice) / (2 - dice)) - lost)


def to_add(obj: np.ndarray, covered: np.ndarray, dice: float) -> int:
    """Voxels to add to `obj` for this Dice, given those that are covered anyway."""
    size, lost = int(obj.sum()), int((obj & covered).sum())
    return max(0, round(2 * (size - lost) / dice) - (2 * size - lost))


def reached_dice(spoiled: np.ndarray, mask: np.ndarray) -> float:
    """Dice of two binary masks; that of a crumb which vanishes is 0. `mask` is not empty."""
    return 2 * int((spoiled & mask).sum()) / (int(spoiled.sum()) + int(mask.sum()))
