"""A small project: two cases on anisotropic, non-square grids, two tracks that overlap."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.arrays.labels import encode_indices
from napari_noisylabel.records import Case, Event, Region, Run, RunState, SourceFile, Track, Verdict
from napari_noisylabel.store import ProjectStore

ROOT = Path(__file__).parents[2]
SHAPE = (3, 4, 5)
AFFINE = ((0, 0, -0.7, 10), (0, -1.2, 0, 20), (2.5, 0, 0, -30), (0, 0, 0, 1))


@pytest.fixture
def tracks() -> tuple[Track, ...]:
    organ = Track("organ", ("background", "liver", "spleen"), (0, 2, 5), 255)
    return organ, Track("tumour", ("background", "tumour"), (0, 1))


@pytest.fixture
def make_case() -> Callable[..., Case]:
    def make(case_id: str = "case-1", folder: Path = Path("/data"), shape: tuple[int, ...] = SHAPE) -> Case:
        image = SourceFile(folder / f"{case_id}.nii.gz", 1234, 1_700_000_000_123_456_789, "ab" * 32)
        label = SourceFile(folder / "labels" / f"{case_id}.nii.gz", 99, 1, "cd" * 32)
        affine = tuple(tuple(float(x) for x in row) for row in AFFINE)
        labels, raters = {"organ": label, "tumour": label}, {"bob": label}
        return Case(case_id, "person-1", Geometry(shape, affine), (image,), labels, raters, {"grade": "2"}, "val")

    return make


@pytest.fixture
def make_event() -> Callable[..., Event]:
    def make(indices: Any, verdict: Verdict = Verdict.ACCEPTED, before: int = 0, after: int = 1, **fields: Any):
        runs = encode_indices(np.asarray(indices, int), before, after)
        place = {"case": fields.pop("case", "case-1"), "track": fields.pop("track", "organ")}
        return Event(number=0, time="", by="ann", verdict=verdict, runs=runs, **place, **fields)

    return make


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(**fields: Any) -> Run:
        base = {"id": "", "method": "self-cleansing", "settings": {"lr": 0.1}, "engine": {"patch": [8, 8]}}
        base |= {"seed": 7, "folds": 2, "epochs": 30, "label_version": 0, "created": ""}
        return Run(**{**base, "state": RunState.RUNNING, **fields})

    return make


@pytest.fixture
def make_region() -> Callable[..., tuple[Region, np.ndarray]]:
    """A region with its voxels, its box made from their flat indices."""

    def make(indices: Any, **fields: Any) -> tuple[Region, np.ndarray]:
        indices = np.asarray(indices)
        index = np.stack(np.unravel_index(indices, SHAPE))
        base = {"id": 0, "run": "run-001", "case": "case-1", "track": "organ", "from_class": 0, "to_class": 1}
        base |= {"start": tuple(index.min(axis=1).tolist()), "stop": tuple((index.max(axis=1) + 1).tolist())}
        base |= {"voxels": indices.size, "volume_mm3": 2.1 * indices.size, "likelihood": 0.5, "score": 1.5}
        return Region(**{**base, "gain": 0.5 * indices.size, **fields}), indices

    return make


@pytest.fixture
def given() -> np.ndarray:
    return np.zeros(SHAPE, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "project"


@pytest.fixture
def store(folder: Path, tracks: tuple[Track, ...], make_case: Callable[..., Case]) -> Iterator[ProjectStore]:
    with ProjectStore.create(folder, "livers", tracks, [make_case("case-1"), make_case("case-2")]) as opened:
        yield opened


@pytest.fixture
def propose(store: ProjectStore, make_run, make_region) -> Callable[..., tuple[Region, ...]]:
    """Make the regions with these voxels the open ones of the first run."""

    def propose(*voxels: Any, **fields: Any) -> tuple[Region, ...]:
        if not store.runs():
            store.add_run(make_run())
        regions, indices = zip(*(make_region(v, **fields) for v in voxels), strict=True) if voxels else ((), ())
        return store.replace_open_regions("run-001", regions, indices)

    return propose


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen]]:
    """Run a script in a process of its own; killed when the test ends."""
    started: list[subprocess.Popen] = []

    def start(script: str, *arguments: object, **options: Any) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", script, *map(str, arguments)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
