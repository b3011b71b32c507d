"""Every file of a case is opened once, before a project is made from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.geometry import Geometry, same_grid
from napari_noisylabel.errors import BadImage, BadLabels, GeometryMismatch, InputError, ShapeMismatch
from napari_noisylabel.io.files import source_file
from napari_noisylabel.io.pairing import FoundCase
from napari_noisylabel.io.values import values_in
from napari_noisylabel.io.volumes import read_image, read_labels
from napari_noisylabel.records import SourceFile

MOST_VALUES = 254  # class indices are uint8, and 255 is IGNORE


@dataclass(frozen=True)
class CheckedCase:
    """A case whose files can all be used together. `label_values`: sorted values per track, with 0."""

    id: str
    geometry: Geometry
    n_channels: int
    images: tuple[SourceFile, ...]
    labels: Mapping[str, SourceFile]
    raters: Mapping[str, SourceFile]
    label_values: Mapping[str, tuple[int, ...]]
    rater_values: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Problem:
    """What keeps a case out."""

    case: str
    error: InputError


def check_case(found: FoundCase) -> CheckedCase:
    """Open every file of a case, and see that they can be used together.

    Raises
    ------
    UnreadableFile : a file is missing, truncated, corrupt.
    BadImage, BadLabels : NaN or one value everywhere, 4-D, values that are not whole numbers.
    ShapeMismatch, GeometryMismatch : the files do not lie on one grid.
    """
    grid: Geometry | None = None
    n_channels = 0
    for path in found.images:
        volume = read_image(path)
        check_image(volume.array, path)
        grid = grid or volume.geometry
        check_grid(volume.geometry, grid, "image", path, found.id)
        n_channels += volume.array.shape[0]
    if grid is None:
        raise BadImage(f"a case must have an image, and {found.id!r} has none. Add its file.")
    return CheckedCase(
        id=found.id,
        geometry=grid,
        n_channels=n_channels,
        images=tuple(source_file(path) for path in found.images),
        labels={track: source_file(path) for track, path in found.labels.items()},
        raters={rater: source_file(path) for rater, path in found.raters.items()},
        label_values={t: _label_values(path, grid, found.id) for t, path in found.labels.items()},
        rater_values={r: _label_values(path, grid, found.id) for r, path in found.raters.items()},
    )


def check_image(image: np.ndarray, path: Path) -> None:
    """Refuse an image without information: NaN or infinite voxels, or the same value everywhere."""
    low, high = image.min(), image.max()  # NaN shows in both
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImage(
            f"an image must hold numbers only, but {path} holds NaN or infinite voxels. Export it again without them."
        )
    if low == high:
        raise BadImage(
            f"an image must show something, but every voxel of {path} is {low:g}. "
            "Take the case out, or export it again."
        )


def check_grid(geometry: Geometry, grid: Geometry, what: str, path: Path, case: str) -> None:
    """Refuse a file that does not lie on the grid of the case's first image."""
    if geometry.shape != grid.shape:
        raise ShapeMismatch(
            f"image and {what} differ in shape: image {grid.shape}, {path} {geometry.shape}, case {case!r}. "
            "Resample it to the image grid, or give the file that belongs to this image."
        )
    difference = same_grid(geometry, grid)
    if difference:
        raise GeometryMismatch(
            f"image and {what} lie differently in space ({difference}): {path}, case {case!r}. "
            "Resample it to the image grid, or give the file that belongs to this image."
        )


def examine_cases(
    found: Iterable[FoundCase],
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[CheckedCase], list[Problem]]:
    """Check many cases in parallel: those that are fine and those that are not, both in the order given.

    `progress(done, total)` is called in this thread after each case. `workers` are threads; by
    default one per core, at most 4, as each holds a case in memory.
    """
    cases = list(found)
    workers = workers or min(4, os.cpu_count() or 1)
    results: dict[int, CheckedCase | Problem] = {}
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        futures = {pool.submit(_checked_or_problem, case): i for i, case in enumerate(cases)}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            if progress is not None:
                progress(len(results), len(cases))
    finally:
        pool.shutdown(cancel_futures=True)
    ordered = [results[i] for i in range(len(cases))]
    return [r for r in ordered if isinstance(r, CheckedCase)], [r for r in ordered if isinstance(r, Problem)]


def check_cases(
    found: Iterable[FoundCase],
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[CheckedCase]:
    """Check cases in parallel, as `examine_cases`; raises the first problem and names the others."""
    checked, problems = examine_cases(found, workers, progress)
    if problems:
        first, others = problems[0], [p.case for p in problems[1:]]
        if not others:
            raise first.error
        names = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise type(first.error)(f"{first.error} (Problems in {len(others)} further cases: {names}.)")
    return checked


def _checked_or_problem(found: FoundCase) -> CheckedCase | Problem:
    try:
        return check_case(found)
    except InputError as error:
        return Problem(found.id, error)


def _label_values(path: Path, grid: Geometry, case: str) -> tuple[int, ...]:
    volume = read_labels(path)
    check_grid(volume.geometry, grid, "labels", path, case)
    values = values_in(volume.array)
    if len(values) > MOST_VALUES:
        raise BadLabels(
            f"labels may have {MOST_VALUES - 1} classes at most, but {path} holds {len(values)} values. "
            "Check that this is the label and not the image; number objects by class, not one by one."
        )
    return values
