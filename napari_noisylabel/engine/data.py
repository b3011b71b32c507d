"""Cases as the engine sees them: normalised images and labels, mapped from disk, never all in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from napari_noisylabel.records import IGNORE, Track
from napari_noisylabel.store.files import disk_errors

SAMPLES_PER_CLASS = 2000
"""Voxels remembered per class and case as centres of foreground patches."""


@dataclass(frozen=True, eq=False)
class CaseArrays:
    """A case in memory: image (C, *spatial) float32, labels and verified voxels per track.

    `findings[track]` are the classes that the image shows by its tags, None where nobody has said;
    `blank` the tracks without a mask, whose labels are at most what people decided on in review.
    """

    id: str
    group: str
    held_out: bool
    spacing: tuple[float, ...]
    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    verified: Mapping[str, np.ndarray | None]
    verified_case: bool = False
    photograph: bool = False
    findings: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    blank: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case ready for patches. Arrays always have three spatial axes; a 2-D image has one slice.

    image (C, Z, Y, X) float16, zero mean and unit spread over the body; labels (Z, Y, X) uint8
    per track with IGNORE; `centres[track][class]` are (N, 3) voxels of that class.
    """

    id: str
    group: str
    held_out: bool
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    verified: Mapping[str, np.ndarray | None]
    centres: Mapping[str, Mapping[int, np.ndarray]]
    photograph: bool = False
    verified_case: bool = False
    findings: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    has_labels: bool = True
    blank: frozenset[str] = frozenset()

    def as_given(self, array: np.ndarray) -> np.ndarray:
        """`array` (..., Z, Y, X) with the number of axes of the file."""
        return array.reshape(*array.shape[:-3], *self.shape)


class Grouped(Protocol):
    """What folds are made of: a case, prepared or not, and the person that it is of."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...


def normalise(image: np.ndarray) -> np.ndarray:
    """Intensities of each channel on one scale, whatever the file's.

    image (C, *spatial); clipped to its 0.5 and 99.5 percentiles (outliers such as metal or
    burnt-in text decide nothing; where the two are one value, as in nearly empty pictures, to its
    whole range), then zero mean and unit standard deviation per channel. A channel with one value
    becomes 0. Non-finite voxels count as the lowest value.
    """
    out = np.empty(image.shape, np.float32)
    for channel, target in zip(image, out, strict=True):
        finite = np.isfinite(channel)
        values = channel if finite.all() else channel[finite]
        if not values.size:
            target[...] = 0
            continue
        step = max(1, values.size // 2_000_000)  # percentiles of a sample: exact enough, and quick
        low, high = np.percentile(values.reshape(-1)[::step], [0.5, 99.5])
        if low == high:
            low, high = values.min(), values.max()
        if low == high:
            target[...] = 0
            continue
        span = float(high) - float(low)
        target[...] = (np.clip(np.where(finite, channel, low), low, high).astype(np.float64) - float(low)) / span
        target -= target.mean(dtype=np.float64)
        target /= target.std(dtype=np.float64)
    return out


def class_centres(labels: np.ndarray, n_classes: int, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Up to SAMPLES_PER_CLASS voxels (N, 3) of each foreground class that `labels` (Z, Y, X) shows."""
    centres = {}
    for k in range(1, n_classes):
        flat = np.flatnonzero(labels == k)
        if flat.size:
            chosen = flat if flat.size <= SAMPLES_PER_CLASS else rng.choice(flat, SAMPLES_PER_CLASS, replace=False)
            centres[k] = np.stack(np.unravel_index(np.sort(chosen), labels.shape), axis=1)
    return centres


def prepare(case: CaseArrays, tracks: Sequence[Track], folder: Path, seed: int) -> PreparedCase:
    """Normalise a case and keep it in `folder`, mapped, so that a run of any size fits in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    depth = (1,) * (3 - (case.image.ndim - 1))
    shape = case.image.shape[1:]
    image = _mapped(folder / "image.npy", normalise(case.image).astype(np.float16).reshape(-1, *depth, *shape))
    rng = np.random.default_rng([seed, *case.id.encode()])
    labels, verified, centres = {}, {}, {}
    for i, track in enumerate(tracks):
        given = case.labels.get(track.name)
        values = np.full(shape, IGNORE, np.uint8) if given is None else given
        labels[track.name] = _mapped(folder / f"labels-{i}.npy", values.reshape(*depth, *shape))
        mask = case.verified.get(track.name)
        verified[track.name] = None if mask is None else mask.reshape(*depth, *shape)
        centres[track.name] = class_centres(labels[track.name], track.n_classes, rng)
    spacing = (1.0,) * len(depth) + tuple(case.spacing)
    return PreparedCase(
        case.id, case.group, case.held_out, spacing, shape, image, labels, verified, centres,
        photograph=case.photograph, verified_case=case.verified_case,
        findings={t.name: case.findings.get(t.name) for t in tracks}, has_labels=bool(case.labels),
        blank=case.blank | {t.name for t in tracks if t.name not in case.labels},
    )  # fmt: skip


def prepare_all(
    cases: Iterable[CaseArrays], tracks: Sequence[Track], folder: Path, seed: int
) -> dict[str, PreparedCase]:
    """All cases, prepared one after the other: only one is in memory as a whole."""
    return {case.id: prepare(case, tracks, folder / f"{i:05d}", seed) for i, case in enumerate(cases)}


def drop_prepared(folder: Path) -> None:
    """Give the disk back; mapped files vanish when their last reader does."""
    shutil.rmtree(folder, ignore_errors=True)


def make_folds(cases: Iterable[Grouped], n_folds: int, seed: int) -> dict[str, int]:
    """The fold of each case that may train: whole groups, shuffled by seed, evenly by cases."""
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case.id)
    names = sorted(groups)
    np.random.default_rng([seed, 7]).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))
    folds: dict[str, int] = {}
    sizes = [0] * n_folds
    for name in names:
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(groups[name])
        folds.update(dict.fromkeys(groups[name], smallest))
    return folds


def _mapped(path: Path, array: np.ndarray) -> np.ndarray:
    with disk_errors(path):
        np.save(path, array)
    return np.load(path, mmap_mode="r")
