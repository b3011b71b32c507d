"""A folder of labels spoiled on purpose, with the true errors beside it."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays.metrics import dice
from napari_noisylabel.arrays.noise import NOISES, PUBLISHED, check_name, corrupt, needs_all_classes, needs_image
from napari_noisylabel.errors import BadSetting, ExportRefused, NoPairs
from napari_noisylabel.io.checks import check_grid, check_image
from napari_noisylabel.io.files import list_folder
from napari_noisylabel.io.format import Volume
from napari_noisylabel.io.pairing import find_cases
from napari_noisylabel.io.tables import read_split
from napari_noisylabel.io.values import values_in
from napari_noisylabel.io.volumes import case_id, is_known, read_image, read_labels, write_labels, write_like
from napari_noisylabel.store.files import disk_errors, write_json

NOISE_FILE = "noise.json"
FOLDER_SETTINGS = ("ignore", "per_slice")
DEFAULT_SEVERITY = 0.5


@dataclass(frozen=True)
class CorruptedFolder:
    """What was written: labels, masks of the true errors, and the cases that were spoiled."""

    labels: Path
    errors: Path
    spoiled: tuple[str, ...]
    n_cases: int


def corrupt_folder(
    labels: Path | str,
    out: Path | str,
    noise: str,
    *,
    severity: float | None = None,
    share: float = 1.0,
    images: Path | str | None = None,
    split: Path | str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CorruptedFolder:
    """Write the labels of a folder with synthetic noise; the given files stay as they are.

    Parameters
    ----------
    labels : folder of label files.
    out : folder for one label file per source, with its name, format and values; absent or empty.
        `OUT.errors/` gets the true error masks and `noise.json`, parameters per case.
    noise : a noise model, see `arrays.noise`.
    severity : in [0, 1]; 0.5, which is the default, aims at a mean Dice of 0.80. With a published setting
        (`as-published-NAME`) it must be left out.
    share : of the cases that is spoiled, in [0, 1]. The others are written as they are.
    images : folder of the images, one or more channels per label file; read by noise models that look at
        the image, and by no other.
    split : JSON file; its `val` and `test` cases are not spoiled and do not count for `share`.
    seed : each case draws from a generator of (seed, case), so neither order nor share changes how
        a case is spoiled.
    settings : parameters of the noise model; and `ignore`, the value of voxels without annotation,
        `per_slice`, whether slices are spoiled one by one.

    Raises
    ------
    UnknownName, BadSetting : of the noise model. NoPairs, UnpairedFiles : no label file, one without image.
    BadImage, ShapeMismatch, GeometryMismatch : an image without information, or on another grid.
    ExportRefused : `out` holds files. UnreadableFile, BadLabels : a file cannot be used.
    """
    source, out = Path(labels), Path(out)
    errors = out.with_name(f"{out.name}.errors")
    files = _label_files(source)
    if severity is None and noise not in PUBLISHED:
        severity = DEFAULT_SEVERITY
    job = _Job(noise, severity, seed, dict(settings or {}))
    job.check()
    of_case = _image_files(noise, images, source)
    chosen = _choose(sorted(files), share, split, seed)
    _require_free(source, (out, errors))
    classes = _all_values(files.values()) if needs_all_classes(noise) else ()
    asides = (out.with_name(f".{out.name}.partial"), out.with_name(f".{errors.name}.partial"))
    try:
        with disk_errors(out):
            for folder in asides:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
        records = {}
        for done, (name, path) in enumerate(sorted(files.items()), 1):
            records[name] = _spoil(path, name if name in chosen else "", job, classes, of_case.get(name, ()), *asides)
            if progress is not None:
                progress(done, len(files))
        write_json(asides[1] / NOISE_FILE, records, nan_as_null=True)
        with disk_errors(out):
            for folder, target in zip(asides, (out, errors), strict=True):
                folder.replace(target)
    finally:
        for folder in asides:
            shutil.rmtree(folder, ignore_errors=True)
    return CorruptedFolder(out, errors, tuple(sorted(chosen)), len(files))


# ---------------------------------------------------------------- helpers, in order of use


@dataclass(frozen=True)
class _Job:
    noise: str
    severity: float | None
    seed: int
    settings: dict[str, Any]

    def check(self) -> None:
        """Refuse what the noise model would refuse, before a file is read."""
        known = (*self._parameters(), *FOLDER_SETTINGS)
        strange = [key for key in self.settings if key not in known]
        if strange:
            raise BadSetting(f"noise model {self.noise} has no setting {strange[0]!r}. It has: {', '.join(known)}.")
        if self.seed < 0:
            raise BadSetting(f"a seed is 0 or more, got {self.seed}. Give another one.")
        labels, image = np.zeros((2, 2), np.uint8), np.zeros((1, 2, 2), np.float32)
        corrupt(labels, self.noise, self.severity, np.random.default_rng(0), image=image, **self.settings)

    def _parameters(self) -> Iterable[str]:
        check_name(self.noise)
        published = PUBLISHED.get(self.noise)
        return NOISES[published.model if published else self.noise]


def _label_files(folder: Path) -> dict[str, Path]:
    files = {case_id(path): path for path in list_folder(folder) if is_known(path)}
    if not files:
        raise NoPairs(f"no label file found in {folder}. Give the folder that holds the labels.")
    return files


def _image_files(noise: str, images: Path | str | None, labels: Path) -> dict[str, tuple[Path, ...]]:
    """The image files of each case, for a noise model that looks at them."""
    if not needs_image(noise):
        return {}
    if images is None:
        raise BadSetting(
            f"{noise} noise looks at the images, and none were given. Give their folder with --images DIR."
        )
    return {found.id: found.images for found in find_cases(images, {"labels": labels}, unlabelled=True)}


def _choose(names: Sequence[str], share: float, split: Path | str | None, seed: int) -> set[str]:
    if not 0 <= share <= 1:
        raise BadSetting(f"the share of spoiled cases is between 0 and 1, got {share:g}. Give another one.")
    held_out = {name for name, part in read_split(split).items() if part} if split is not None else set()
    eligible = [name for name in names if name not in held_out]
    order = np.random.default_rng(seed).permutation(len(eligible))
    return {eligible[i] for i in order[: round(share * len(eligible))]}


def _require_free(source: Path, targets: Sequence[Path]) -> None:
    for target in targets:
        if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
            raise ExportRefused(f"{target} holds given files, which are never written. Choose another folder.")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ExportRefused(f"{target} exists already and is not empty. Choose another folder.")


def _all_values(files: Any) -> tuple[int, ...]:
    """All values over all files: a case can be given a class that it lacks."""
    return tuple(sorted(set().union(*(values_in(read_labels(path).array) for path in files))))


def _spoil(
    path: Path, name: str, job: _Job, classes: tuple[int, ...], images: Sequence[Path], out: Path, errors: Path
) -> dict[str, Any]:
    """Write one case spoiled (as it is without a `name`), its error mask, and return its record."""
    volume = read_labels(path)
    true = np.asarray(volume.array)
    spoiled, record = true, {"noise": job.noise, "severity": 0.0}
    if name:
        rng = np.random.default_rng([job.seed, zlib.crc32(name.encode())])
        extra: dict[str, Any] = {"classes": classes} if classes else {}
        if images:
            extra["image"] = _image(images, volume, name)
        made = corrupt(true, job.noise, job.severity, rng, _spacing(volume), **extra, **job.settings)
        spoiled, record = made.labels, made.parameters
    write_labels(path, spoiled, out / path.name)
    wrong = (spoiled != true).astype(np.uint8) * (255 if true.ndim == 2 else 1)  # pictures show 255 as white
    write_like(path, wrong, errors / path.name)
    foreground = [v for v in values_in(true) if v != 0 and v != job.settings.get("ignore")]
    return {
        "file": path.name,
        "spoiled": bool(name),
        "seed": job.seed,
        "voxels_wrong": int(np.count_nonzero(wrong)),
        "dice": {str(v): dice(spoiled == v, true == v) for v in foreground},
        "parameters": record,
    }


def _spacing(volume: Volume) -> tuple[float, ...]:
    return tuple(volume.geometry.spacing)


def _image(paths: Sequence[Path], labels: Volume, case: str) -> np.ndarray:
    """All channels of a case, (C, *spatial) float32, on the grid of its labels."""
    channels = []
    for path in paths:
        volume = read_image(path)
        check_image(volume.array, path)
        check_grid(labels.geometry, volume.geometry, "labels", path, case)
        channels.append(np.asarray(volume.array, dtype=np.float32))
    return np.concatenate(channels)
