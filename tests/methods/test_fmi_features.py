from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.noise_flips import flipped
from napari_noisylabel.methods import fmi_features
from napari_noisylabel.methods.fmi_features import feature_names, hand_made, places

MATRIX = np.array([[0.8, 0.15, 0.05], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7]])


def organs(shape=(60, 80)) -> np.ndarray:
    """Mostly background, a box of class 1 and a small one of class 2."""
    truth = np.zeros(shape, np.uint8)
    truth[..., 10:34, 12:40] = 1
    truth[..., 40:52, 50:62] = 2
    return truth


@pytest.mark.parametrize(("shape", "spacing"), [((60, 80), (1.5, 1.0)), ((7, 60, 80), (3.0, 1.0, 1.0))])
def test_places_are_free_voxels_taken_once_and_as_many_near_each_class(shape, spacing):
    rng, truth = np.random.default_rng(0), organs(shape)
    free = rng.random(shape) < 0.8
    at = places(truth, free, 3, 300, spacing, rng)
    assert free[tuple(at.T)].all() and len(np.unique(at, axis=0)) == len(at) > 240
    assert np.bincount(truth[tuple(at.T)]).min() > 50


def test_a_places_own_label_has_no_say_so_rare_classes_are_not_made_noisier():
    rng, truth = np.random.default_rng(1), organs()
    found, by_label = np.zeros((3, 3)), np.zeros((3, 3))
    for _ in range(60):
        noisy = flipped(truth.astype(int), MATRIX, rng).astype(np.uint8)
        at = places(noisy, np.ones(truth.shape, bool), 3, 400, (1.0, 1.0), rng)
        np.add.at(found, (truth[tuple(at.T)], noisy[tuple(at.T)]), 1)
        for k in range(3):
            own = rng.choice(np.flatnonzero(noisy == k), 130, replace=False)
            np.add.at(by_label, (truth.ravel()[own], noisy.ravel()[own]), 1)
    rows = found / found.sum(axis=1, keepdims=True)
    assert np.abs(rows - MATRIX).max() < 0.03
    assert np.abs(by_label / by_label.sum(axis=1, keepdims=True) - MATRIX).max() > 0.1


def test_thin_structures_and_classes_that_are_not_there_are_no_obstacle():
    labels = np.zeros((30, 40), np.uint8)
    labels[12, 3:35] = 2
    at = places(labels, np.ones(labels.shape, bool), 4, 90, (1.0, 1.0), np.random.default_rng(2))
    assert 60 <= len(at) <= 92
    nowhere = places(
        np.full((5, 6), 255, np.uint8), np.zeros((5, 6), bool), 3, 50, (1.0, 1.0), np.random.default_rng(3)
    )
    assert nowhere.shape == (0, 2)


@pytest.mark.parametrize("shape", [(12, 17), (6, 12, 17)])
def test_there_is_a_name_for_every_feature_and_positions_run_from_edge_to_edge(shape):
    image = np.random.default_rng(4).normal(size=(2, *shape)).astype(np.float16)
    at = np.array([[0] * len(shape), [n - 1 for n in shape]])
    x, names = hand_made(image, at, (1.0,) * len(shape), 1.0), feature_names(2, len(shape))
    assert x.shape == (2, len(names)) and len(set(names)) == len(names) and np.isfinite(x).all()
    position = x[:, [names.index(f"position {a}") for a in "zyx"[3 - len(shape) :]]]
    assert position == pytest.approx(np.array([-1, 1])[:, None] * (1 - 1 / np.array(shape)), abs=1e-5)
    assert x[:, 0] == pytest.approx(image[(0, *at.T)].astype(np.float32))


def test_scales_are_in_millimetres_whatever_the_voxels():
    """The same picture with pixels of 1 x 1 mm and of 2 x 1 mm has the same mean at the same place."""
    y, x = np.mgrid[:64, :64]
    fine = np.sin(y / 6) + np.cos(x / 5)
    coarse = fine[::2]
    names = feature_names(1, 2)
    a = hand_made(fine[None], np.array([[32, 32]]), (1.0, 1.0), 1.0)[0]
    b = hand_made(coarse[None], np.array([[16, 32]]), (2.0, 1.0), 1.0)[0]
    for name in ("mean, scale 2", "mean, scale 4", "mean before along y", "texture, scale 4"):
        assert a[names.index(name)] == pytest.approx(b[names.index(name)], abs=0.05)


def test_large_volumes_are_averaged_before_they_are_filtered(monkeypatch):
    image = np.random.default_rng(5).normal(size=(1, 9, 31, 40)).cumsum(axis=3).astype(np.float32)
    at = np.array([[8, 30, 39], [4, 10, 20]])
    whole = hand_made(image, at, (1.0, 1.0, 1.0), 2.0)
    monkeypatch.setattr(fmi_features, "LARGE", 4000)
    reduced = hand_made(image, at, (1.0, 1.0, 1.0), 2.0)
    assert fmi_features._reduced(image[0])[0].size <= 4000
    names = feature_names(1, 3)
    assert reduced[:, 0] == pytest.approx(whole[:, 0])
    wide = names.index("mean, scale 4")
    assert reduced[1, wide] == pytest.approx(whole[1, wide], abs=0.3)
