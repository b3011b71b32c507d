"""`as-published-NAME` has the parameters that were found, and takes no others."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.arrays.noise import NOISES, PUBLISHED, corrupt
from napari_noisylabel.errors import BadSetting, UnknownName


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def disk(radius: float, shape: tuple[int, int]) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2 <= radius**2).astype(np.uint8)


def bias(moved: np.ndarray, true: np.ndarray) -> float:
    ring = distance(true == 0, (1, 1)) == 1
    return float(((distance(moved == 0, (1, 1)) - distance(moved != 0, (1, 1)))[ring] - 1).mean())


@pytest.mark.parametrize(
    ("name", "steps", "theta"),
    [
        ("markov-jsrt-expand", 180, (0.8, 0.05, 0.2)),
        ("markov-jsrt-shrink-clavicle", 100, (0.2, 0.02, 0.2)),
        ("markov-brats-expand", 80, (0.7, 0.05, 0.0)),
        ("markov-brats-shrink", 80, (0.3, 0.05, 0.0)),
        ("markov-isic-expand", 200, (0.8, 0.05, 0.2)),
    ],
)
def test_a_markov_setting_has_the_parameters_of_its_table(name, steps, theta, rng):
    found = corrupt(disk(20, (70, 80)), f"as-published-{name}", None, rng).parameters
    assert (found["steps"], found["theta1"], found["theta2"], found["theta3"]) == (steps, *theta)
    assert found["severity"] is None and found["noise"] == f"as-published-{name}"


@pytest.mark.parametrize(
    ("name", "radius", "shape", "expected", "sd"),
    [
        ("markov-jsrt-expand", 30, (128, 128), -9.4, 0.6),
        ("markov-jsrt-shrink", 30, (128, 128), 8.5, 1.3),
        ("markov-jsrt-expand-clavicle", 30, (128, 128), -2.3, 0.3),
        ("markov-jsrt-expand", 43.3, (256, 256), -8.95, 1.13),  # as large as a heart
    ],
)
def test_the_published_displacement_is_reproduced(name, radius, shape, expected, sd):
    true = disk(radius, shape)
    made = [corrupt(true, f"as-published-{name}", None, np.random.default_rng(s)).labels for s in range(16)]
    assert abs(np.mean([bias(m, true) for m in made]) - expected) < 2 * sd


def test_processes_of_pictures_run_slice_by_slice_and_those_of_volumes_do_not(rng):
    labels = np.zeros((9, 40, 44), np.uint8)
    labels[3:6, 12:28, 12:30] = 1
    for name, slices in (("dilation-erosion-isic", True), ("segthor", True), ("markov-brats-expand", False)):
        made = corrupt(labels, f"as-published-{name}", None, rng)
        assert made.parameters["per_slice"] is slices
        assert bool(made.labels[[0, 1, 2, 6, 7, 8]].any()) is not slices


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_setting_says_where_it_is_from_and_can_be_written_as_json(name, rng):
    labels = disk(9, (40, 44))
    found = corrupt(labels, name, None, rng, image=labels[None].astype(np.float32)).parameters
    assert json.loads(json.dumps(found))["note"] and set(PUBLISHED[name].settings) <= set(NOISES[PUBLISHED[name].model])
    assert "dice_aimed" not in json.dumps(found)


def test_severity_and_parameters_are_refused_in_one_sentence_with_the_next_step(rng):
    labels = disk(9, (40, 44))
    with pytest.raises(BadSetting, match="severity of its paper, got severity 0.5. Leave it out, or choose .* markov"):
        corrupt(labels, "as-published-markov-jsrt-expand", 0.5, rng)
    with pytest.raises(BadSetting, match="parameters of its paper, got 'steps'"):
        corrupt(labels, "as-published-markov-jsrt-expand", None, rng, steps=3)
    with pytest.raises(UnknownName, match="as-published-fog.*as-published-markov-jsrt-expand"):
        corrupt(labels, "as-published-fog", None, rng)


def test_the_quirk_of_the_released_code_may_be_switched_on(rng):
    assert corrupt(disk(9, (40, 44)), "as-published-segthor", None, rng, spill=True).parameters["spill"] is True
