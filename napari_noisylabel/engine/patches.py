"""Patches: where they lie, how they are cut, and the light augmentation they get.

Everything drawn for a patch comes from a generator seeded by (seed, fold, epoch, index), so a
run that was interrupted draws the same patches again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_noisylabel.engine.data import PreparedCase
from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.methods.base import Batch
from napari_noisylabel.records import IGNORE, Track

THICK = 3.0  # slices this much thicker than the pixels are wide are taken one by one


@dataclass(frozen=True)
class PatchPlan:
    """How a run cuts its cases: `size` (Z, Y, X); for 2-D the side along `slice_axis` is 1.

    `context` slices on each side become channels in 2.5-D.
    """

    n_dims: int
    size: tuple[int, int, int]
    slice_axis: int
    context: int
    batch: int
    steps: int
    flips: bool

    @property
    def in_plane(self) -> tuple[int, ...]:
        """Axes of a patch that the network sees."""
        return tuple(a for a in range(3) if self.n_dims == 3 or a != self.slice_axis)


def plan_patches(cases: Sequence[PreparedCase], settings: EngineSettings, factor: int, big_device: bool) -> PatchPlan:
    """Decide dimension, patch, batch and steps from the data and the device.

    2-D where one of the arrays is, where slices are three times thicker than pixels, or where a volume
    has few slices for its width; patches hold a whole small case and at most 48^3 (192^2 in 2-D)
    voxels on a CPU, 96^3 (384^2) on a GPU.
    """
    shape = np.median([c.image.shape[1:] for c in cases], axis=0)
    spacing = np.median([c.spacing for c in cases], axis=0)
    flat_arrays = any(len(c.shape) == 2 for c in cases)
    axis = 0 if flat_arrays else _slice_axis(shape, spacing)
    dims = "2d" if flat_arrays else settings.dims
    if dims == "auto":
        thick = spacing[axis] >= THICK * np.delete(spacing, axis).min() and shape[axis] > 1
        flat = shape[axis] * 6 < np.delete(shape, axis).min()
        dims = "2d" if thick or flat else "3d"
    n_dims = 3 if dims == "3d" else 2
    size = _patch_size(shape, settings.patch, n_dims, axis, factor, big_device)
    batch = settings.batch or ((4 if big_device else 2) if n_dims == 3 else (16 if big_device else 8))
    per_case = 1 if n_dims == 3 else min(12, max(1, round(float(shape[axis]) * 0.6)))
    tiles = float(np.clip(np.prod(shape) / (np.prod(size) * (1 if n_dims == 3 else shape[axis])), 1, 4))
    steps = settings.steps or int(np.clip(np.ceil(len(cases) * per_case * tiles / batch), 12, 250))
    flips = settings.flips == "yes" or (settings.flips == "auto" and all(c.photograph for c in cases))
    return PatchPlan(n_dims, size, axis, 1 if dims == "2.5d" else 0, batch, steps, flips)


def _slice_axis(shape: np.ndarray, spacing: np.ndarray) -> int:
    if spacing.max() >= THICK * spacing.min():
        return int(spacing.argmax())
    return int(shape.argmin())


def _patch_size(
    shape: np.ndarray, asked: tuple[int, ...], n_dims: int, axis: int, factor: int, big_device: bool
) -> tuple[int, int, int]:
    if asked:
        size = list(asked)
        if n_dims == 2:
            size = size[-2:]
            size.insert(axis, 1)
        elif len(size) == 2:
            size.insert(axis, min(size))
    else:
        size = [int(s) for s in shape]
        if n_dims == 2:
            size[axis] = 1
        room = {(3, False): 48**3, (3, True): 96**3, (2, False): 192**2, (2, True): 384**2}[(n_dims, big_device)]
        while np.prod(size) > room:
            size[int(np.argmax(size))] = int(max(size) * 0.9)
    for a in range(3):
        if n_dims == 3 or a != axis:
            size[a] = int(np.ceil(size[a] / factor) * factor)
    return (size[0], size[1], size[2])


def patch_start(
    case: PreparedCase, tracks: Sequence[Track], plan: PatchPlan, foreground: float, rng: np.random.Generator
) -> tuple[int, int, int]:
    """First voxel of a random patch; may be negative where the case is smaller than the patch."""
    shape, size = np.array(case.image.shape[1:]), np.array(plan.size)
    centre = None
    if rng.random() < foreground:
        track = tracks[int(rng.integers(len(tracks)))]
        classes = case.centres[track.name]
        if classes:
            voxels = classes[sorted(classes)[rng.integers(len(classes))]]
            jitter = rng.integers(-(size // 4), size // 4 + 1)
            centre = voxels[rng.integers(len(voxels))] + jitter * (size > 1)
    if centre is None:
        centre = rng.integers(0, shape)
    start = np.clip(centre - size // 2, 0, np.maximum(shape - size, 0))
    small = size > shape
    start[small] = -((size - shape) // 2)[small]
    return (int(start[0]), int(start[1]), int(start[2]))


def cut(array: np.ndarray, start: Sequence[int], size: Sequence[int], fill: float) -> np.ndarray:
    """The box of `array` (..., Z, Y, X) at `start`, padded with `fill` where it leaves the array."""
    inside: list[slice] = []
    pad: list[tuple[int, int]] = []
    for a, (lo, n) in enumerate(zip(start, size, strict=True)):
        extent = array.shape[array.ndim - 3 + a]
        first, last = max(lo, 0), min(lo + n, extent)
        inside.append(slice(first, last))
        pad.append((first - lo, lo + n - last))
    box = np.asarray(array[..., inside[0], inside[1], inside[2]])
    if any(p != (0, 0) for p in pad):
        box = np.pad(box, [(0, 0)] * (array.ndim - 3) + pad, constant_values=fill)
    return box


def cut_image(case: PreparedCase, start: Sequence[int], plan: PatchPlan) -> np.ndarray:
    """Image patch (C, *in_plane) float32; in 2.5-D the neighbouring slices follow as channels."""
    if plan.n_dims == 3:
        return cut(case.image, start, plan.size, 0.0).astype(np.float32)
    extent = case.image.shape[1 + plan.slice_axis]
    slices = []
    for offset in range(-plan.context, plan.context + 1):
        at = list(start)
        at[plan.slice_axis] = int(np.clip(start[plan.slice_axis] + offset, 0, extent - 1))
        slices.append(cut(case.image, at, plan.size, 0.0).squeeze(1 + plan.slice_axis))
    return np.concatenate(slices).astype(np.float32)


def cut_map(array: np.ndarray, start: Sequence[int], plan: PatchPlan, fill: float) -> np.ndarray:
    """A map's patch (*in_plane)."""
    box = cut(array, start, plan.size, fill)
    return box if plan.n_dims == 3 else box.squeeze(box.ndim - 3 + plan.slice_axis)


@dataclass(frozen=True)
class CaseMaps:
    """All per-voxel maps of one case and track that a batch carries."""

    labels: np.ndarray
    working: np.ndarray
    verified: np.ndarray | None
    extra: Mapping[str, np.ndarray]


def make_batch(
    cases: Sequence[PreparedCase],
    maps: Mapping[str, Mapping[str, CaseMaps]],
    tracks: Sequence[Track],
    plan: PatchPlan,
    settings: EngineSettings,
    seeds: Sequence[Sequence[int]],
    whole: bool = False,
) -> Batch:
    """One patch per case in `cases` (repeats allowed), drawn and augmented by its own seed.

    `maps[case][track]`; `seeds[i]` is the entropy of patch i. With `whole`, a patch is the whole
    case (in 2-D a whole slice) at the size of a patch, as classifiers want it.
    """
    starts, images, planes, views = [], [], [], []
    names = sorted({n for case in cases for track in tracks for n in maps[case.id][track.name].extra})
    for case, entropy in zip(cases, seeds, strict=True):
        rng = np.random.default_rng(list(entropy))
        start = patch_start(case, tracks, plan, settings.foreground, rng)
        taken = _around_all(case, plan) if whole else plan
        if whole:
            z, y, x = (0 if a in plan.in_plane else first for a, first in enumerate(start))
            start = (z, y, x)
        image = torch.from_numpy(cut_image(case, start, taken))
        stack = torch.from_numpy(np.stack(_planes(maps[case.id], tracks, names, start, taken)))
        if whole:
            size = [plan.size[a] for a in plan.in_plane]
            image = F.interpolate(image[None], size, mode="bilinear" if plan.n_dims == 2 else "trilinear")[0]
            stack = F.interpolate(stack[None], size, mode="nearest")[0]
        view = ""
        if settings.augment:
            image, stack, view = augment(image, stack, case, plan, rng)
        starts.append(start)
        images.append(image)
        planes.append(stack)
        views.append(view)
    return _assemble(cases, tracks, names, plan, starts, torch.stack(images), torch.stack(planes), tuple(views))


def _around_all(case: PreparedCase, plan: PatchPlan) -> PatchPlan:
    """The plan whose one patch is the whole case, or in 2-D a whole slice."""
    z, y, x = (n if a in plan.in_plane else 1 for a, n in enumerate(case.image.shape[1:]))
    return replace(plan, size=(z, y, x))


def _planes(
    maps: Mapping[str, CaseMaps], tracks: Sequence[Track], names: Sequence[str], start: Sequence[int], plan: PatchPlan
) -> list[np.ndarray]:
    """labels, working, verified and the extras of each track, float32, in one fixed order."""
    planes = []
    for track in tracks:
        m = maps[track.name]
        labels, working = cut_map(m.labels, start, plan, IGNORE), cut_map(m.working, start, plan, IGNORE)
        shape = labels.shape
        verified = np.zeros(shape, bool) if m.verified is None else cut_map(m.verified, start, plan, 0)
        planes += [labels, np.where(verified, labels, working), verified]
        planes += [cut_map(m.extra[n], start, plan, 0) if n in m.extra else np.ones(shape) for n in names]
    return [p.astype(np.float32) for p in planes]


def _assemble(
    cases: Sequence[PreparedCase], tracks: Sequence[Track], names: Sequence[str], plan: PatchPlan,
    starts: Sequence[Sequence[int]], images: Tensor, planes: Tensor, views: tuple[str, ...],
) -> Batch:  # fmt: skip
    labels, working, verified, weight = {}, {}, {}, {}
    extra: dict[str, dict[str, Tensor]] = {n: {} for n in names}
    per_track = 3 + len(names)
    for i, track in enumerate(tracks):
        own = planes[:, i * per_track : (i + 1) * per_track]
        labels[track.name] = own[:, 0].long()
        working[track.name] = own[:, 1].long()
        inside = labels[track.name] != IGNORE
        verified[track.name] = (own[:, 2] > 0.5) & inside
        weight[track.name] = (working[track.name] != IGNORE).float()
        for j, n in enumerate(names):
            extra[n][track.name] = own[:, 3 + j] * inside
    index = torch.tensor([[*s, *(a + b for a, b in zip(s, plan.size, strict=True))] for s in starts])
    return Batch(images, labels, working, verified, weight, tuple(c.id for c in cases), index, views, extra)


# ---------------------------------------------------------------- augmentation


def augment(
    image: Tensor, planes: Tensor, case: PreparedCase, plan: PatchPlan, rng: np.random.Generator
) -> tuple[Tensor, Tensor, str]:
    """Turn and zoom image and maps together; brightness, contrast and noise for the image alone.

    image (C, *in_plane), planes (P, *in_plane). Maps are sampled at the nearest voxel; what comes
    from outside the patch is IGNORE in the first two planes of each track and 0 weight thereby.
    """
    view = []
    if plan.flips:
        axes = [a + 1 for a in range(plan.n_dims) if rng.random() < 0.5]
        if axes:
            image, planes = image.flip(axes), planes.flip(axes)
            view.append("flip" + "".join(str(a - 1) for a in axes))
    if rng.random() < 0.5:
        grid = _turn_and_zoom(image.shape[1:], [case.spacing[a] for a in plan.in_plane], rng)
        image = F.grid_sample(image[None], grid, padding_mode="zeros", align_corners=False)[0]
        # shifted by one so that the zeros from outside can be told from class 0
        planes = F.grid_sample(planes[None] + 1, grid, mode="nearest", padding_mode="zeros", align_corners=False)[0] - 1
        planes = torch.where(planes < 0, torch.full_like(planes, float(IGNORE)), planes)
        view.append("turn")
    scale, shift = float(rng.uniform(0.8, 1.2)), float(rng.uniform(-0.2, 0.2))
    image = image * scale + shift
    if rng.random() < 0.3:
        noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
        image = image + float(rng.uniform(0, 0.15)) * torch.from_numpy(noise)
    return image, planes, "+".join(view)


def _turn_and_zoom(shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator) -> Tensor:
    """Sampling grid (1, *shape, n_dims) of a rotation by up to 15 degrees and a zoom of 0.75 to 1.33.

    The rotation is one in millimetres: on anisotropic grids it must not shear.
    """
    n = len(shape)
    extent = np.array([s * d for s, d in zip(shape, spacing, strict=True)], float)
    turn = np.eye(n)
    for i in range(n):
        for j in range(i + 1, n):
            angle = np.deg2rad(rng.uniform(-15, 15))
            plane = np.eye(n)
            plane[[i, i, j, j], [i, j, i, j]] = [np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)]
            turn = turn @ plane
    matrix = np.diag(1 / extent) @ turn @ np.diag(extent) * np.exp(rng.uniform(-0.29, 0.29))
    theta = np.zeros((n, n + 1))
    theta[:, :n] = matrix[::-1, ::-1]  # torch orders coordinates (x, y, z)
    return F.affine_grid(torch.tensor(theta, dtype=torch.float32)[None], [1, 1, *shape], align_corners=False)
