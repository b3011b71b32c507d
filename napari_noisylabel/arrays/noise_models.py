"""The noise models, one function each; `noise.corrupt` is the door to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.markov import markov, scaled_markov
from napari_noisylabel.arrays.shapes import ellipsoid, equal_radius, objects, piece
from napari_noisylabel.errors import BadSetting

DICE_LOSS = 0.4
"""Mean loss of Dice at severity 1."""

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
    """What the models are handed. `fixed` voxels cannot change."""

    name: str
    labels: np.ndarray
    fixed: np.ndarray
    present: list[int]
    severity: float
    settings: Mapping[str, Any]
    grid: Grid
    rng: np.random.Generator

    def dice(self, settings: Mapping[str, Any]) -> float:
        """The Dice to aim at: 1 - 0.4 severity in the mean."""
        spread = settings["spread"]
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


# ---------------------------------------------------------------- class by class


def _markov(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    set_ = job.settings
    out = np.zeros_like(job.mask)
    if set_["steps"] is not None:  # as published: all objects of a class move together
        thetas = (set_["theta1"], set_["theta2"], set_["theta3"])
        for plane, _ in job.grid.planes(out.shape):
            out[plane] = markov(job.mask[plane], set_["steps"], *thetas, job.rng)
        return out, {"theta1": set_["theta1"], "steps": [set_["steps"]]}
    size, steps = _to_add if set_["theta1"] > 0.5 else _to_remove, []
    for at, obj, _ in job.objects():
        covered = job.covered[at]
        wanted = size(obj, covered, job.dice)
        moved, n = scaled_markov(obj, covered, wanted, set_["theta1"], set_["theta2"], job.rng)
        out[at] |= moved
        steps.append(n)
    return out, {"theta1": set_["theta1"], "steps": steps}


def _boundary(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
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


def _missing(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    wanted = _to_remove(job.mask, job.covered, job.dice)
    return job.mask & ~_part(job.mask & ~job.covered, wanted, job), {}


def _false_object(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    out = job.mask.copy()
    for at, obj, spacing in job.objects(room=4.0):
        room = job.background[at] & ~job.covered[at] & ~out[at]
        out[at] |= ellipsoid(room, _to_add(obj, job.covered[at], job.dice), spacing, job.rng)
    return out, {}


BY_CLASS: Mapping[str, Callable[[ClassJob], tuple[np.ndarray, dict[str, Any]]]] = {
    "markov": _markov,
    "boundary": _boundary,
    "missing": _missing,
    "false-object": _false_object,
}


def _part(mask: np.ndarray, wanted: int, by: ClassJob | Case) -> np.ndarray:
    """`wanted` voxels of `mask`: whole objects or slices that fit, the rest cut from the largest left."""
    out = np.zeros_like(mask)
    box = ndimage.find_objects(mask.astype(np.int8))
    if box and wanted > 0:
        out[box[0]] = _part_in_box(mask[box[0]], wanted, by)
    return out


def _part_in_box(mask: np.ndarray, wanted: int, by: ClassJob | Case) -> np.ndarray:
    pieces, n = by.grid.pieces(mask)
    sizes = np.bincount(pieces.reshape(-1), minlength=n + 1)
    sizes[0], taken = 0, np.zeros(n + 1, dtype=bool)
    for i in by.rng.permutation(n) + 1:
        if 0 < sizes[i] <= wanted:
            taken[i], wanted = True, wanted - int(sizes[i])
    part = taken[pieces]
    if wanted > 0:
        largest = pieces == np.argmax(np.where(taken, 0, sizes))
        ball = bool(by.rng.random() < by.settings["ball"])
        part |= piece(largest, wanted, by.grid.spacing, by.rng, ball=ball)
    return part


# ---------------------------------------------------------------- all classes at once


def swap(case: Case, known: list[int]) -> tuple[np.ndarray, dict[str, Any]]:
    """Every class gives a part to the next one in a random circle."""
    if len(known) < 2:
        raise BadSetting(
            f"class-swap needs two classes, got labels with the single class {known[0]}. "
            "Choose another noise model, or name all classes of the track."
        )
    circle = [known[i] for i in case.rng.permutation(len(known))]
    after = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    dice = case.dice(case.settings)
    masks = {c: case.labels == c for c in case.present}
    out, sizes = case.labels.copy(), _swap_sizes({c: int(m.sum()) for c, m in masks.items()}, after, dice)
    for c, mask in masks.items():
        out[_part(mask, sizes[c], case)] = after[c]
    return out, {"dice_aimed": round(dice, 4), "given_to": {str(c): after[c] for c in masks}}


def _swap_sizes(sizes: Mapping[int, int], after: Mapping[int, int], dice: float) -> dict[int, int]:
    """Voxels that each class gives so that the mean Dice is `dice`: a share of the smaller of the two."""
    gives = {c: min(size, sizes.get(after[c], size)) for c, size in sizes.items()}
    gets = {after[c]: given for c, given in gives.items()}
    share = np.linspace(1, 0, 201)
    reached = [
        2 * (n - share * gives[c]) / (2 * n + share * (gets.get(c, 0) - gives[c])) for c, n in sizes.items()
    ]
    wanted = float(np.interp(dice, np.mean(reached, axis=0), share))
    return {c: round(wanted * given) for c, given in gives.items()}


def shift(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    dice = case.dice(case.settings)
    labels = np.where(case.fixed, np.zeros_like(case.labels), case.labels)
    out, moves = np.zeros_like(labels), []
    for plane, spacing in case.grid.planes(labels.shape):
        masks = [labels[plane] == c for c in case.present]
        moves.append(_move_for([m for m in masks if m.any()], dice, case.rng, spacing))
        out[plane] = _moved(labels[plane], moves[-1])
    return out, {"dice_aimed": round(dice, 4), "moved_voxels": moves}


def _move_for(
    masks: list[np.ndarray], dice: float, rng: np.random.Generator, spacing: Sequence[float]
) -> tuple[int, ...]:
    """The whole-voxel move in a random direction that takes the mean Dice of `masks` nearest to `dice`."""
    heading = rng.standard_normal(len(spacing))
    heading *= min(spacing) / (np.linalg.norm(heading) * np.asarray(spacing))
    best, gap = (0,) * len(spacing), 1 - dice
    for length in np.arange(0.5, 2 * max(masks[0].shape), 0.5) if masks else ():
        move = tuple(int(np.rint(h * length)) for h in heading)
        reached = float(np.mean([(m & _moved(m, move)).sum() / m.sum() for m in masks]))
        if abs(reached - dice) < gap:
            best, gap = move, abs(reached - dice)
        if reached < dice:
            break
    return best


def _moved(array: np.ndarray, move: Sequence[int]) -> np.ndarray:
    out = np.zeros_like(array)
    to = tuple(slice(max(0, m), max(0, n + min(0, m))) for m, n in zip(move, array.shape, strict=True))
    source = tuple(slice(max(0, -m), max(0, n - max(0, m))) for m, n in zip(move, array.shape, strict=True))
    out[to] = array[source]
    return out


# ---------------------------------------------------------------- sizes


def _to_remove(obj: np.ndarray, covered: np.ndarray, dice: float) -> int:
    """Voxels to take from `obj` for this Dice, beside those that are covered anyway."""
    lost = int((obj & covered).sum())
    return max(0, round(2 * int(obj.sum()) * (1 - dice) / (2 - dice)) - lost)


def _to_add(obj: np.ndarray, covered: np.ndarray, dice: float) -> int:
    """Voxels to add to `obj` for this Dice, given those that are covered anyway."""
    size, lost = int(obj.sum()), int((obj & covered).sum())
    return max(0, round(2 * (size - lost) / dice) - (2 * size - lost))
