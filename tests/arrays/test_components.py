"""Components of equal values, numbered alike with and without cc3d."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from napari_noisylabel.arrays import components as components_module
from napari_noisylabel.arrays.components import label_components
from napari_noisylabel.errors import BadLabels, BadSetting


@pytest.fixture(params=["cc3d", "scipy"], autouse=True)
def library(request, monkeypatch):
    """Every test runs with cc3d and without it."""
    if request.param == "scipy":
        monkeypatch.setattr(components_module, "cc3d", None)
    elif components_module.cc3d is None:
        pytest.skip("cc3d is not installed")
    return request.param


def flood(array: np.ndarray, axes_at_once: int) -> tuple[np.ndarray, int]:
    """Number components voxel by voxel, in C order, with a stack."""
    steps = [s for s in product((-1, 0, 1), repeat=array.ndim) if 0 < np.abs(s).sum() <= axes_at_once]
    found, n = np.zeros(array.shape, int), 0
    for seed in np.ndindex(array.shape):
        if array[seed] == 0 or found[seed]:
            continue
        n += 1
        found[seed], stack = n, [seed]
        while stack:
            here = stack.pop()
            for there in (tuple(np.add(here, s).tolist()) for s in steps):
                inside = all(0 <= i < size for i, size in zip(there, array.shape, strict=True))
                if inside and not found[there] and array[there] == array[here]:
                    found[there] = n
                    stack.append(there)
    return found, n


@pytest.mark.parametrize("connectivity, axes_at_once", [(6, 1), (18, 2), (26, 3)])
@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 6)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint64])
def test_components_are_those_that_a_flood_finds(connectivity, axes_at_once, shape, dtype):
    rng = np.random.default_rng(connectivity)
    for _ in range(4):
        array = (rng.integers(1, 4, shape) * (rng.random(shape) < 0.6)).astype(dtype)
        components, n = label_components(array, connectivity)
        expected, n_expected = flood(array, axes_at_once)

        assert n == n_expected
        assert np.array_equal(components, expected)


def test_touching_values_are_components_of_their_own():
    components, n = label_components(np.array([[1, 1, 2], [0, 0, 2], [3, 1, 2]], np.uint8))

    assert components.tolist() == [[1, 1, 2], [0, 0, 2], [3, 4, 2]]
    assert (n, components.dtype) == (4, np.uint32)


def test_large_and_negative_values_count_as_values():
    array = np.array([[-5, 0, 70_000], [-5, 0, 70_001]], np.int64)
    components, n = label_components(array)

    assert components.tolist() == [[1, 0, 2], [1, 0, 3]]
    assert n == 3


def test_a_view_is_numbered_in_its_own_order():
    array = np.zeros((3, 4, 5), np.uint8)
    array[0, 0, 4] = array[2, 3, 0] = 1
    components, _ = label_components(array.transpose(2, 0, 1)[::-1])

    assert (components[0, 0, 0], components[4, 2, 3]) == (1, 2)


def test_background_has_no_components():
    components, n = label_components(np.zeros((3, 4, 5), bool))

    assert (n, components.any(), components.dtype) == (0, False, np.uint32)
    assert label_components(np.zeros((0, 4), np.uint8))[0].shape == (0, 4)


def test_in_two_dimensions_the_flat_names_mean_the_same():
    diagonal = np.eye(3, dtype=bool)

    assert [label_components(diagonal, c)[1] for c in (4, 6, 8, 18, 26)] == [3, 3, 1, 1, 1]


def test_what_cannot_be_connected_is_refused():
    with pytest.raises(BadLabels, match="float64"):
        label_components(np.zeros((3, 4)))
    with pytest.raises(BadLabels, match=r"\(2, 3, 4, 5\)"):
        label_components(np.zeros((2, 3, 4, 5), bool))
    for connectivity, shape in ((8, (3, 4, 5)), (7, (3, 4))):
        with pytest.raises(BadSetting, match=f"got {connectivity}"):
            label_components(np.zeros(shape, bool), connectivity)
