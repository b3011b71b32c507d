"""Distances in mm between voxel centres, alike with and without edt."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays import distance as distance_module
from napari_noisylabel.arrays.distance import distance
from napari_noisylabel.errors import ShapeMismatch


@pytest.fixture(params=["edt", "scipy"], autouse=True)
def library(request, monkeypatch):
    """Every test runs with edt and without it."""
    if request.param == "scipy":
        monkeypatch.setattr(distance_module, "edt", None)
    elif distance_module.edt is None:
        pytest.skip("edt is not installed")
    return request.param


def slow_distance(mask, spacing):
    """From every voxel to every voxel outside."""
    outside = np.argwhere(~mask)
    return np.array([np.linalg.norm((outside - i) * spacing, axis=1).min() for i in np.ndindex(mask.shape)]).reshape(
        mask.shape
    )


@pytest.mark.parametrize("shape, spacing", [((6, 9), (2.5, 0.7)), ((4, 5, 7), (3.0, 0.5, 1.2))])
def test_distances_are_the_shortest_of_all(shape, spacing):
    rng = np.random.default_rng(0)
    for share in (0.3, 0.7, 0.95):
        mask = rng.random(shape) < share
        mask.flat[5] = False
        np.testing.assert_allclose(distance(mask, spacing), slow_distance(mask, spacing), rtol=1e-5)


def test_the_border_of_the_array_is_no_boundary():
    mask = np.array([[0, 1, 1, 1]], bool)

    assert distance(mask, (1, 2)).tolist() == [[0, 2, 4, 6]]
    assert distance(mask, (1, 2)).dtype == np.float32


def test_without_an_outside_every_distance_is_infinite_and_without_an_inside_zero():
    assert np.isposinf(distance(np.ones((2, 3), bool), (1, 1))).all()
    assert not distance(np.zeros((2, 3), bool), (1, 1)).any()
    assert distance(np.zeros((0, 3), bool), (1, 1)).shape == (0, 3)


def test_a_turned_view_gets_the_distances_of_its_own_axes():
    mask = np.zeros((4, 6), bool)
    mask[1:, 2:] = True

    np.testing.assert_allclose(distance(mask.T[::-1], (3, 1)), distance(mask, (1, 3)).T[::-1])


def test_a_spacing_for_other_axes_is_refused():
    with pytest.raises(ShapeMismatch, match=r"got \(1, 2\) for an array of shape \(2, 3, 4\)"):
        distance(np.ones((2, 3, 4), bool), (1, 2))
