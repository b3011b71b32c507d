"""The sample project: a third of its masks is spoiled, so that the errors it finds are true ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.errors import ProjectExists
from napari_noisylabel.io.volumes import case_id, read_labels, write_labels, write_like
from napari_noisylabel.records import RunState
from napari_noisylabel.samples import hippocampus_folder
from napari_noisylabel.store.files import disk_errors, write_json
from napari_noisylabel.store.manifest import DATABASE_FILE
from napari_noisylabel.study.project import make_project
from napari_noisylabel.workbench import Workbench

CLASSES = ("anterior", "posterior")
SPOILED_BY = ("missing", "shift", "class-swap")
SEVERITY = 0.6
SEED = 7
METHOD = "self-cleansing"
EPOCHS = 12
"""About a minute on two quiet cores: two folds of twelve cases, twelve steps per epoch."""

RECIPE = "demo.json"


def data_folder(project: Path) -> Path:
    """Where the demo keeps its files: images, spoiled labels, their true errors, and the truth."""
    project = project.absolute()
    return project.with_name(f"{project.name}-data")


def make_demo(project: Path | str) -> Path:
    """Make the demo project, untrained, or find that it is there already. Returns its folder.

    The files lie beside it in `PROJECT-data/`: `images/`, spoiled `labels/`, `errors/` (masks of what
    was spoiled), `truth/` and `demo.json`, which says how each mask was spoiled.

    Raises
    ------
    ProjectExists : the folder holds something else.
    DiskFull, ReadOnlyProject : it cannot be written.
    """
    project = Path(project).absolute()
    data = data_folder(project)
    if not (data / RECIPE).exists():
        if (project / DATABASE_FILE).exists():
            raise ProjectExists(f"{project} holds a project that is not the demo's. Choose another folder.")
        _make_data(data)
    if not (project / DATABASE_FILE).exists():
        make_project(
            project, data / "images", {"hippocampus": data / "labels"}, groups=data / "groups.csv",
            class_names=CLASSES, name="hippocampus demo",
        )  # fmt: skip
    return project


def start_demo(workbench: Workbench) -> bool:
    """Start what the open demo project lacks: its first run, or the rest of it. False if nothing is lacking."""
    runs = workbench.store.runs()
    if any(run.state == RunState.COMPLETE for run in runs):
        return False
    halfway = [run.id for run in runs if run.state == RunState.INTERRUPTED]
    if halfway:
        workbench.retrain(resume=halfway[-1])
    else:
        workbench.retrain(METHOD, epochs=EPOCHS, seed=0)
    return True


# ---------------------------------------------------------------- helpers, in order of use


def _make_data(data: Path) -> None:
    if data.exists() and any(data.iterdir()):
        raise ProjectExists(f"the demo needs the folder {data} for its files, and it holds others. Move them away.")
    aside = data.with_name(f".{data.name}.partial")
    source = hippocampus_folder()
    try:
        with disk_errors(data):
            shutil.rmtree(aside, ignore_errors=True)
            for name in ("labels", "errors"):
                (aside / name).mkdir(parents=True)
            shutil.copytree(source / "images", aside / "images")
            shutil.copytree(source / "labels", aside / "truth")
            for name in ("groups.csv", "LICENSE.txt"):
                shutil.copy2(source / name, aside / name)
            write_json(aside / RECIPE, _spoil_third(aside))
            aside.replace(data)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _spoil_third(folder: Path) -> dict[str, dict[str, object]]:
    """Write `labels/` and `errors/` from `truth/`; how each case was spoiled."""
    files = sorted((folder / "truth").glob("*.nii.gz"))
    rng = np.random.default_rng(SEED)
    chosen = rng.permutation(len(files))[: len(files) // 3]
    kind_of = {files[c]: SPOILED_BY[i % len(SPOILED_BY)] for i, c in enumerate(chosen)}
    record: dict[str, dict[str, object]] = {}
    for path in files:
        true = read_labels(path)
        labels = np.asarray(true.array)
        if path in kind_of:
            made = corrupt(labels, kind_of[path], SEVERITY, rng, true.geometry.spacing, classes=(1, 2))
            labels, record[case_id(path)] = made.labels, made.parameters
        write_labels(path, labels, folder / "labels" / path.name)
        write_like(path, (labels != true.array).astype(np.uint8), folder / "errors" / path.name)
    return record
