"""What the method is for, on made-up objects of part and body; each of these trains for a while."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

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
def seed(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def trained(bench, seed):
    """The images of a seed, multi-sa's classifier of them, and the curves of plain class activation and of multi-sa."""
    data, curves = bench.make_images(CASES, seed), []
    for name in (bench.BASELINES[0], bench.MULTI_SA):
        settings, reading = bench.VARIANTS[name]
        classifier = bench.fit(data, settings, STEPS, seed)
        curves.append(bench.curve(bench.read(classifier, data, **reading), data.truth))
    return SimpleNamespace(data=data, classifier=classifier, plain=curves[0], several=curves[1])


@pytest.fixture(scope="module")
def taught(bench, seed, trained):
    """What a segmentation network makes of each kind of pseudo-masks."""
    unseen = bench.make_images(CASES, bench.UNSEEN + seed)
    return {k: bench.second_stage(trained.classifier, trained.data, unseen, k, STEPS, seed) for k in bench.PSEUDO}


def test_it_finds_ten_points_more_than_class_activation_at_no_less_than_its_precision(bench, trained):
    assert bench.recall_beside(trained.several, trained.plain) >= bench.best(trained.plain).recall + 0.10


def test_its_best_mask_is_far_better_than_that_of_class_activation(bench, trained):
    assert bench.best(trained.several).iou >= bench.best(trained.plain).iou + 0.10


def test_taught_by_dense_masks_the_second_network_equals_them_and_is_better_on_unseen_images(taught):
    dense = taught["dense"]
    assert dense.network >= dense.masks - 0.005
    assert dense.unseen_network > dense.unseen_masks


def test_taught_by_seeds_the_second_network_loses_less_than_five_points_to_them(taught):
    seeds = taught["seeds"]
    assert seeds.network >= seeds.masks - 0.05
    assert seeds.unseen_network >= seeds.unseen_masks - 0.05


def test_tags_of_other_images_teach_no_place(bench, seed, trained):
    misled = bench.fit(trained.data, {}, STEPS, seed, bench.shuffled(trained.data.present, seed))
    found = bench.best(bench.curve(bench.read(misled, trained.data), trained.data.truth))
    assert found.iou <= bench.chance(trained.data) + 0.05
