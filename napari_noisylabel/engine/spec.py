"""What a run is asked to do, as it stands in `run.json`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from napari_noisylabel.store.files import read_json, write_json

RUN_FILE = "run.json"


@dataclass(frozen=True)
class RunSpec:
    """Everything a run depends on besides its cases.

    `label_version` is the last event that counts; `device` "auto", "cpu", "cuda" or "mps";
    `versions` are those of the libraries that decide the numbers.
    """

    run: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    folds: int = 2
    epochs: int = 20
    device: str = "auto"
    label_version: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)


def read_spec(folder: Path) -> RunSpec:
    """The spec in a run's folder. Raises UnreadableFile."""
    return RunSpec(**read_json(folder / RUN_FILE))


def write_spec(folder: Path, spec: RunSpec) -> None:
    """Keep `spec` in the run's folder."""
    write_json(folder / RUN_FILE, asdict(spec))


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a run's numbers; those that are missing are left out."""
    found = {}
    for name in ("napari-noisylabel", "torch", "monai", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
