"""Tiny cases on anisotropic, non-square grids, and a way to train on them in about a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_noisylabel import methods
from napari_noisylabel.arrays.labels import apply_runs, from_bytes
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.engine import train as training
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.checkpoint import epoch_checkpoints, load_checkpoint
from napari_noisylabel.engine.data import CaseArrays, PreparedCase, prepare
from napari_noisylabel.engine.spec import RunSpec
from napari_noisylabel.methods import BUILT_IN, method_info
from napari_noisylabel.records import Report, Track
from tests.engine.trial_methods import INFOS, TRIALS

ORGANS = (Track("organ", ("background", "liver", "spleen"), (0, 1, 2)),)
OVERLAPPING = (Track("body", ("background", "body"), (0, 1)), Track("lesion", ("background", "lesion"), (0, 7)))
ALL = (*(m.name for m in BUILT_IN), *(m.name for m in TRIALS))
"""Every method, those of the program and those that only tests know."""
QUICK: dict[str, dict[str, Any]] = {
    "jcas": {"warmup": 0.5},
    "adele": {
        "earliest": 0,
        "least_steps": 0,
        "points": 3,
        "min_points": 2,
        "skip": "none",
        "change": 0.01,
        "guard": False,
    },
    "self-cleansing": {"warmup": 0.3, "refresh": 1, "confident": 0.51},
    "cores": {
        "consistency": 0.5,
        "sieve_from": 0.0,
        "beta_from": 0.0,
        "known_from": 0.0,
        "least_steps": 0,
        "fresh": True,
        "fresh_steps": 0,
    },
    "fmi-transition": {"rounds": 2, "repeats": 3, "voxels": 200, "proposal": "network"},
    "multi-sa": {"images": 2, "layers": (4, 5), "regrow": 0.3},
    "spatial-correction": {"first": 0.3, "period": 0.3, "guard": 0.1, "least": 0.1, "until_unbiased": False},
    "active-refinement": {"ramp": 0.3, "vog_from": 0.3, "memory": 2, "refine": 0.3},
}
"""Settings with which a method gets through all its stages in two to four epochs."""
SPACING = {2: (1.5, 1.0), 3: (2.0, 1.5, 1.0)}


def make_case(
    case_id: str, shape: Sequence[int] = (20, 27), tracks: Sequence[Track] = ORGANS, *, seed: int = 0,
    verified: bool = False, **fields: Any,
) -> CaseArrays:  # fmt: skip
    """A phantom; with two tracks, the second lies inside the first. `verified` marks a corner of it."""
    rng = np.random.default_rng([seed, *case_id.encode()])
    image, truth = phantom(shape, SPACING[len(shape)], 3, rng)
    maps = [truth] if len(tracks) == 1 else [(truth > 0).astype(np.uint8), (truth == 2).astype(np.uint8)]
    corner = np.zeros(shape, bool)
    corner[(slice(2, 14),) * len(shape)] = True
    decided = {t.name: corner if verified else None for t in tracks}
    base = {"group": case_id, "held_out": False, "spacing": SPACING[len(shape)], "image": image}
    labels = {t.name: m for t, m in zip(tracks, maps, strict=True)}
    return CaseArrays(id=case_id, labels=labels, verified=decided, **{**base, **fields})


def some_cases(n: int = 4, *args: Any, held_out: int = 0, **fields: Any) -> list[CaseArrays]:
    """`n` training cases a, b, ... of which each second has verified voxels, and some held-out ones."""
    own = [make_case(chr(97 + i), *args, verified=i % 2 == 0, **fields) for i in range(n)]
    return own + [make_case(f"test-{i}", *args, held_out=True, **fields) for i in range(held_out)]


def with_reference(method: str, cases: list[CaseArrays], *args: Any, **fields: Any) -> list[CaseArrays]:
    """`cases`, and a wholly verified one for methods that measure themselves on it."""
    if "a verified case" not in method_info(method).needs:
        return cases
    right = make_case("right", *args, **fields)
    whole = {track: np.ones(labels.shape, bool) for track, labels in right.labels.items()}
    return [*cases, replace(right, verified=whole, verified_case=True)]


def make_spec(method: str = "cross-entropy", epochs: int = 2, settings: Any = None, **engine: Any) -> RunSpec:
    """Two folds of two steps per epoch with small patches, in full precision on one thread."""
    own = {"patch": (16, 16), "batch": 2, "steps": 2, "precision": "32-true", "threads": 1}
    chosen = QUICK.get(method, {}) | (settings or {})
    return RunSpec("run-001", method, chosen, {**own, **engine}, seed=3, folds=2, epochs=epochs, device="cpu")


def prepared(folder: Path, case: CaseArrays, tracks: Sequence[Track] = ORGANS) -> PreparedCase:
    return prepare(case, tracks, folder / case.id, seed=0)


def interrupted(folder: Path, points: Iterable[int], spec: RunSpec, cases: Any, tracks: Any) -> list[Report]:
    """Train in several lives, each of which ends after so many reports; then to the end. What each life reported."""
    told: list[Report] = []
    for n in points:
        life = training.train(spec, cases, tracks, folder)
        told += islice(life, n)
        life.close()
    return told + list(training.train(spec, cases, tracks, folder))


def losses(reports: Iterable[Report]) -> dict[tuple[int, int], Any]:
    """Loss, curve and inner state of each fold and epoch."""
    return {(r.fold, r.epoch): (dict(r.losses), dict(r.dice), list(r.inner)) for r in reports if r.kind == "epoch"}


def checkpoints(folder: Path) -> dict[str, Any]:
    """The last checkpoint of each fold."""
    return {f.name: load_checkpoint(epoch_checkpoints(f)[-1]) for f in sorted((folder / "checkpoints").iterdir())}


def working(folder: Path, cases: Sequence[CaseArrays]) -> dict[tuple[str, str, str], np.ndarray]:
    """The working labels at the end of the run, by fold, case and track."""
    given = {c.id: c for c in cases}
    out = {}
    for fold, tree in checkpoints(folder).items():
        for case, tracks in tree["fold"]["working"].items():
            for track, changes in tracks.items():
                out[fold, case, track] = given[case].labels[track].copy()
                apply_runs(out[fold, case, track], from_bytes(changes.tobytes()))
    return out


def maps(folder: Path, cases: Sequence[CaseArrays], tracks: Sequence[Track]) -> dict[tuple[str, str], Any]:
    """All maps that a run left."""
    names = [f"{t.name}.{n}" for t in tracks for n in ("score", "proposal", "probs")] + ["features"]
    return {(c.id, n): CaseScores(folder, c.id).read(n) for c in cases for n in names}


def same(a: Any, b: Any) -> bool:
    """True if two trees of arrays, tensors and values are equal to the last bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny networks are slowed down by a second thread."""
    torch.set_num_threads(1)


@pytest.fixture
def trial_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three trial methods, as if they were built in."""
    monkeypatch.setattr(methods, "BUILT_IN", (*methods.BUILT_IN, *INFOS))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report for each step, whatever the time: places to stop."""
    monkeypatch.setattr(training, "REPORT_EVERY_S", 0.0)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., tuple[Path, list[Report]]]:
    """Train to the end in a folder of its own; the folder and all reports."""

    def run(spec: RunSpec, cases: Any, tracks: Any = ORGANS, name: str = "run") -> tuple[Path, list[Report]]:
        return tmp_path / name, list(training.train(spec, cases, tracks, tmp_path / name))

    return run
