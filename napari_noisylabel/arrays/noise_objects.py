"""Noise of whole objects: missing, false, of another class, moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.noise_case import Case, ClassJob, to_add, to_remove
from napari_noisylabel.arrays.shapes import ellipsoid, piece
from napari_noisylabel.errors import BadSetting


def missing(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    """Whole objects, or a piece of one, are not drawn."""
    wanted = to_remove(job.mask, job.covered, job.dice)
    return job.mask & ~_part(job.mask & ~job.covered, wanted, job), {}


def false_object(job: ClassJob) -> tuple[np.ndarray, dict[str, Any]]:
    """Each object has a false companion in the background near it."""
    out = job.mask.copy()
    for at, obj, spacing in job.objects(room=4.0):
        room = job.background[at] & ~job.covered[at] & ~out[at]
        out[at] |= ellipsoid(room, to_add(obj, job.covered[at], job.dice), spacing, job.rng)
    return out, {}


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


def swap(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    """Every class gives a part to the next one in a random circle."""
    known = case.known[1:]
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
    reached = [2 * (n - share * gives[c]) / (2 * n + share * (gets.get(c, 0) - gives[c])) for c, n in sizes.items()]
    wanted = float(np.interp(dice, np.mean(reached, axis=0), share))
    return {c: round(wanted * given) for c, given in gives.items()}


def shift(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    """The whole label map has moved."""
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
