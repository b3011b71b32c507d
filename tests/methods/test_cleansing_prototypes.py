from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.methods.cleansing_prototypes import (
    agreed_features,
    k_means,
    prototype_probs,
    resized,
    unit,
    updated,
)


def around(directions: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` points of unit length near each of the directions, (N, F)."""
    points = np.repeat(directions, n, 0) + 0.1 * rng.normal(size=(len(directions) * n, directions.shape[1]))
    return unit(points.T).T


def test_k_means_finds_the_kinds_of_tissue_of_a_class():
    rng = np.random.default_rng(0)
    directions = unit(rng.normal(size=(3, 8)).T).T
    points = around(directions, 50, rng)
    found = k_means(points, 3)
    assert (found @ directions.T).max(0).min() > 0.99 and sorted((found @ directions.T).argmax(1)) == [0, 1, 2]
    np.testing.assert_array_equal(found, k_means(points, 3))
    order = rng.permutation(len(points))
    assert (k_means(points[order], 3) @ found.T).max(1).min() > 0.999


def test_k_means_ends_where_every_centre_is_the_mean_of_its_points():
    rng = np.random.default_rng(1)
    points = unit(rng.normal(size=(200, 4)).T).T
    found = k_means(points, 4)
    nearest = [max(range(4), key=lambda j: float(found[j] @ p)) for p in points]
    for j in range(4):
        mean = points[np.array(nearest) == j].sum(0)
        np.testing.assert_allclose(found[j], mean / np.linalg.norm(mean), atol=0.05)


def test_fewer_points_than_centres_and_equal_points_are_no_trouble():
    points = np.tile(np.array([[0.6, 0.8]], np.float32), (25, 1))
    np.testing.assert_allclose(k_means(points, 3), np.tile([[0.6, 0.8]], (3, 1)), rtol=1e-6)
    assert k_means(points[:2], 5).shape == (5, 2)


def test_prototypes_of_a_class_with_few_voxels_are_frozen_and_others_move_slowly():
    rng = np.random.default_rng(0)
    directions = unit(rng.normal(size=(2, 6)).T).T
    old = updated(None, around(directions[:1], 40, rng), 1)
    assert updated(old, around(directions[1:], 19, rng), 1) is old
    assert updated(None, around(directions, 5, rng), 1) is None
    moved = updated(old, around(directions[1:], 40, rng), 1)
    assert float(moved[0] @ directions[0]) > float(moved[0] @ directions[1])
    assert not np.allclose(moved, old, atol=0.01) and np.linalg.norm(moved) == pytest.approx(1, rel=1e-5)


def test_voxels_are_compared_with_the_most_similar_prototype_of_each_class_by_their_cosine():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 3, 4))
    prototypes = [unit(rng.normal(size=(n, 5)).T).T for n in (4, 1, 2)]
    found = prototype_probs(features, prototypes, 0.1)
    for p in np.ndindex(3, 4):
        f = features[(slice(None), *p)]
        e = [max(np.exp(f @ m / np.linalg.norm(f) / 0.1) for m in own) for own in prototypes]
        np.testing.assert_allclose(found[(slice(None), *p)], np.array(e) / sum(e), rtol=1e-4)


def test_prototypes_are_made_where_label_and_confident_prediction_agree():
    labels = np.zeros((7, 10), np.uint8)
    labels[:, 5:] = 1
    probs = np.stack([np.where(labels == 0, 0.9, 0.2), np.where(labels == 0, 0.1, 0.8)])
    probs[:, :, 8] = [[0.9], [0.1]]  # disagrees
    probs[:, :4] = 0.5  # not confident
    features = np.random.default_rng(0).normal(size=(3, 4, 5))
    found = agreed_features(features, labels, probs, 0.7)
    vectors = unit(features)
    assert {k: len(v) for k, v in found.items()} == {0: 2 * 3, 1: 2 * 1}  # rows 4 and 6; columns 0, 2, 4 and 6
    np.testing.assert_array_equal(found[1], vectors[:, 2:, 3].T)


def test_coarse_maps_are_interpolated_to_any_shape():
    planes = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    assert resized(planes, (6, 7, 9)).shape == (2, 6, 7, 9)
    np.testing.assert_allclose(resized(np.full((2, 3, 4), 0.25, np.float32), (5, 8)), 0.25)
