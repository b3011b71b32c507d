"""Phantoms: every class is there, told apart by its grey value, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.errors import BadSetting, ShapeMismatch


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("shape", "spacing"), [((24, 37), (1.0, 0.5)), ((10, 24, 31), (3.0, 1.0, 1.0))])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_every_class_is_there_in_a_2d_and_a_3d_phantom(shape, spacing, n_classes, rng):
    image, labels = phantom(shape, spacing, n_classes, rng)
    assert image.shape == (1, *shape) and image.dtype == np.float32
    assert labels.shape == shape and labels.dtype == np.uint8
    assert sorted(np.unique(labels)) == list(range(n_classes))


def test_classes_differ_in_mean_grey_value_in_the_order_of_their_numbers(rng):
    image, labels = phantom((48, 65), (1.0, 1.0), 4, rng, texture=0.02)
    means = [float(image[0][labels == c].mean()) for c in range(4)]
    assert means == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=0.05)


def test_a_threshold_half_way_finds_most_of_the_truth(rng):
    image, labels = phantom((16, 40, 33), (2.0, 1.0, 1.0), 2, rng)
    assert ((image[0] > 0.5) == (labels == 1)).mean() > 0.98


def test_without_texture_and_noise_the_image_is_the_truth(rng):
    image, labels = phantom((20, 30), (1.0, 1.0), 3, rng, texture=0, noise=0)
    assert np.array_equal(np.rint(image[0] * 2), labels)


def test_the_same_seed_makes_the_same_phantom_and_another_seed_another():
    a, b, c = (phantom((20, 31), (1.0, 1.0), 3, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
    assert not np.array_equal(a[1], c[1])


def test_a_tiny_phantom_still_holds_every_class(rng):
    assert set(np.unique(phantom((5, 8), (1.0, 1.0), 4, rng)[1])) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("shape", "spacing", "n_classes", "error"),
    [
        ((8, 9), (1.0,), 2, ShapeMismatch),
        ((8, 9), (1.0, 0.0), 2, ShapeMismatch),
        ((80,), (1.0,), 2, BadSetting),
        ((8, 9), (1.0, 1.0), 1, BadSetting),
        ((3, 3), (1.0, 1.0), 3, BadSetting),
    ],
)
def test_what_cannot_be_a_phantom_is_refused(shape, spacing, n_classes, error, rng):
    with pytest.raises(error):
        phantom(shape, spacing, n_classes, rng)
