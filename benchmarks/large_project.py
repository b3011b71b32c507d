"""A project for timing the window: one case of 300 x 512 x 512 voxels, some small ones, and a complete run.

    python benchmarks/large_project.py FOLDER

The large case is that of `bench_mixture_regions.py`: three organs whose given boundaries wave around the true ones in
thin shells, and thousands of small objects that are missing or too many. Nothing trains: what networks would have
predicted is drawn around the truth, and measured and filtered by the program's own functions. Takes a minute and 6 GB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench_mixture_regions import SPACING, synthetic_case

from napari_noisylabel import study
from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.data import PreparedCase
from napari_noisylabel.engine.filter import FilterRequest, refilter
from napari_noisylabel.engine.journal import Journal
from napari_noisylabel.engine.score import score_case
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.engine.spec import RunSpec, write_spec
from napari_noisylabel.io.volumes import write_volume
from napari_noisylabel.methods import method_info
from napari_noisylabel.methods.base import Prediction
from napari_noisylabel.records import Report, Run, RunState
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.workbench import Workbench

LARGE = "large"
TRACK, CLASSES = "organs", ("liver", "spleen", "kidney")
HOUNSFIELD = np.array([-100, 60, 110, 180], np.int16)
NOISE_HU = 25
N_SMALL, SMALL_SHAPE, SMALL_SPACING = 6, (24, 56, 48), (2.0, 1.0, 1.0)
METHOD, N_FEATURES = "cross-entropy", 16

Truth = dict[str, np.ndarray]


def make_project(folder: Path) -> Path:
    """Write the files, make the project, and give it a run with maps, filter and regions. Returns its folder."""
    truth: Truth = {}
    for name, spacing, given, own in draw_cases(np.random.default_rng(0)):
        write_case(folder, name, spacing, given, own)
        truth[name] = own
    project = folder / "project"
    study.make_project(project, folder / "images", {TRACK: folder / "labels"}, class_names=CLASSES, name="window")
    write_run(project, truth)
    bench = Workbench()
    bench.open(project)  # takes in what the run left
    bench.close()
    return project


def draw_cases(rng: np.random.Generator) -> Iterator[tuple[str, tuple[float, ...], np.ndarray, np.ndarray]]:
    """Id, spacing, given labels and truth of each case."""
    yield LARGE, SPACING, *synthetic_case(rng)
    for i in range(N_SMALL):
        _, own = phantom(SMALL_SHAPE, SMALL_SPACING, len(CLASSES) + 1, rng)
        yield f"small-{i}", SMALL_SPACING, corrupt(own, "missing", 0.3, rng, SMALL_SPACING).labels, own


def write_case(folder: Path, name: str, spacing: tuple[float, ...], given: np.ndarray, truth: np.ndarray) -> None:
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], range(4)] = [*spacing, 1.0]  # (Z, Y, X) to RAS+
    geometry = Geometry(truth.shape, tuple(map(tuple, affine.tolist())))
    image = HOUNSFIELD[truth]
    noise = np.random.default_rng(1)
    for plane in image:
        plane += (NOISE_HU * noise.standard_normal(plane.shape, np.float32)).astype(np.int16)
    for part, array in (("images", image), ("labels", given)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        write_volume(array, geometry, folder / part / f"{name}.nii.gz")


def write_run(project: Path, truth: Truth) -> None:
    """A run that has come to its end, with the maps and regions that a worker would have left."""
    info = method_info(METHOD)
    method = info.make(info.check({}))
    with ProjectStore.open(project) as store:
        run = store.add_run(Run("", METHOD, {}, {}, 0, 2, 1, 0, RunState.RUNNING, ""))
        folder = store.run_folder(run.id)
        write_spec(folder, RunSpec(run.id, METHOD, epochs=1))
        for case in store.cases():
            own, labels = truth[case.id], labels_of(store, case)
            prepared = PreparedCase(
                case.id, case.group, False, case.geometry.spacing, own.shape,
                np.broadcast_to(np.float16(0), (1, *own.shape)),
                labels, {TRACK: None}, {},
            )  # fmt: skip
            predicted = predict(case.id, own, np.random.default_rng(2))
            score_case(CaseScores(folder, case.id), prepared, predicted, predicted, store.tracks, method, (1, 2))
        list(refilter(store, folder, FilterRequest(run.id)))
        Journal(folder, "train").write(Report(run.id, "done", message="trained, scored and proposed"))


def predict(case: str, truth: np.ndarray, rng: np.random.Generator) -> Prediction:
    """Sure of the truth at 90 to 99 %; features of half the resolution."""
    sure = (0.9 + 0.09 * rng.random(truth.shape, np.float32)).astype(np.float16)
    rest = (1 - sure) / np.float16(len(CLASSES))
    probs = np.stack([np.where(truth == k, sure, rest) for k in range(len(CLASSES) + 1)])
    features = np.empty((N_FEATURES, *(-(-n // 2) for n in truth.shape)), np.float16)
    for plane in features:
        plane[...] = rng.standard_normal(plane.shape, np.float32)
    return Prediction(case, {TRACK: probs}, features)


if __name__ == "__main__":
    make_project(Path(sys.argv[1]))
