"""What the method is for, on made-up objects of part and body; each of these trains for a while."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.data import CaseArrays
from napari_noisylabel.engine.spec import RunSpec
from napari_noisylabel.engine.train import train
from napari_noisylabel.records import IGNORE, Track
from tests.engine.conftest import working

pytestmark = pytest.mark.slow
STEPS, CASES = 250, 160


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The benchmark, whose figures docs/methods/multi-sa.md repeats."""
    path = Path(__file__).parents[2] / "benchmarks" / "bench_tags.py"
    spec = importlib.util.spec_from_file_location("bench_tags", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    return module


@pytest.fixture(scope="module", params=[0, 1, 2])
def trained(bench, request):
    """Of one seed: the images, and the curves of plain class activation and of multi-sa."""
    data = bench.make_images(CASES, request.param)
    curves = {}
    for name in (bench.BASELINES[0], "several layers and attention (multi-sa)"):
        settings, reading = bench.VARIANTS[name]
        classifier = bench.fit(data, settings, STEPS, request.param)
        curves[name] = bench.curve(bench.read(classifier, data, **reading), data.truth)
    return list(curves.values())


def test_it_finds_ten_points_more_than_class_activation_at_no_less_than_its_precision(bench, trained):
    plain, several = trained
    assert bench.recall_beside(several, plain) >= bench.best(plain).recall + 0.10


def test_its_best_mask_is_far_better_than_that_of_class_activation(bench, trained):
    plain, several = trained
    assert bench.best(several).iou >= bench.best(plain).iou + 0.10


def test_tags_of_other_images_teach_no_place(bench):
    data = bench.make_images(CASES, 0)
    shuffled = data.present[torch.from_numpy(np.random.default_rng(1).permutation(CASES))]
    classifier = bench.fit(data, {}, STEPS // 2, 0, shuffled)
    true = np.stack([data.truth == 1, data.truth == 2], 1)
    everywhere = true[data.present.numpy()].mean()  # the IoU of a mask that is everywhere
    assert bench.best(bench.curve(bench.read(classifier, data), data.truth)).iou < everywhere + 0.10


def test_the_second_stage_is_better_than_the_masks_it_was_trained_on(bench, tmp_path):
    data, track = bench.make_images(48, 0), Track("object", ("background", "bright", "dark"), (0, 1, 2))
    cases = [
        CaseArrays(f"{i:03d}", f"{i:03d}", False, (1.0, 1.0), image, {}, {"object": None},
                   findings={"object": tuple(int(k) + 1 for k in np.flatnonzero(own))})
        for i, (image, own) in enumerate(zip(data.images.numpy(), data.present.numpy(), strict=True))
    ]  # fmt: skip
    engine = {"patch": (64, 64), "batch": 8, "steps": 20, "precision": "32-true", "threads": 1}
    spec = RunSpec("run-001", "multi-sa", {"classifier": 0.6}, engine, folds=1, epochs=20, device="cpu")
    for _ in train(spec, cases, (track,), tmp_path):
        pass
    unknown = [replace(c, labels={"object": np.full(bench.SIZE, IGNORE, np.uint8)}) for c in cases]
    made = {case: labels for (_, case, _), labels in working(tmp_path, unknown).items()}
    pseudo = np.stack([np.where(made[c.id] == IGNORE, 0, made[c.id]) for c in cases])
    found = np.stack([CaseScores(tmp_path, c.id).require("object.proposal") for c in cases])
    assert iou(found, data.truth) > iou(pseudo, data.truth)


def iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """Of both classes, over all voxels together."""
    hit = np.count_nonzero((labels == truth) & (truth > 0))
    return hit / (np.count_nonzero(labels) + np.count_nonzero(truth) - hit)
