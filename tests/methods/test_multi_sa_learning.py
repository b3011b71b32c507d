"""What the method is for, on made-up objects of part and body; each of these trains for a while."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

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
