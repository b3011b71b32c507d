from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.engine.data import class_centres, make_folds, normalise, prepare_all
from napari_noisylabel.records import IGNORE
from tests.engine.conftest import ORGANS, make_case, prepared


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e12, -3e12), (1e-9, 0.0), (1e-40, 0.0), (4000.0, 1e6)])
def test_intensities_of_any_scale_come_out_alike(scale, shift):
    image = np.random.default_rng(0).gamma(2, 1, (2, 30, 41))
    out = normalise((image * scale + shift).astype(np.float32))
    np.testing.assert_allclose(out.mean((1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(out.std((1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(out, normalise(image.astype(np.float32)), atol=0.02)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9, 3e38, 1e-42])
def test_a_channel_of_one_value_becomes_zero_and_leaves_the_others_alone(value):
    image = np.stack([np.full((30, 41), value), np.random.default_rng(0).normal(size=(30, 41))]).astype(np.float32)
    out = normalise(image)
    assert not out[0].any() and abs(out[1].std() - 1) < 1e-3


def test_metal_and_missing_values_decide_nothing():
    image = np.random.default_rng(0).normal(100, 10, (1, 50, 61)).astype(np.float32)
    spoiled = image.copy()
    spoiled[0, 3, :3] = np.nan, np.inf, -np.inf
    spoiled[0, 4, :3] = 1e30
    out, clean = normalise(spoiled), normalise(image)
    assert np.isfinite(out).all() and np.abs(out).max() < 5
    np.testing.assert_allclose(out[0, 5:], clean[0, 5:], atol=0.1)
    assert out[0, 3, 0] == out[0, 3, 1] == out.min()
    assert not normalise(np.full((1, 4, 5), np.nan, np.float32)).any()


def test_a_few_bright_cells_on_an_empty_picture_stay_visible():
    image = np.zeros((1, 100, 120), np.float32)
    image[0, 10:14, 20:25] = 7
    out = normalise(image)
    assert out[0, 11, 21] > 10 and np.isfinite(out.astype(np.float16)).all()


def test_folds_never_divide_a_group_and_are_about_even(tmp_path):
    groups = [f"p{i % 7}" for i in range(19)] + ["big"] * 6
    cases = [prepared(tmp_path, make_case(f"c{i}", (8, 9), group=g)) for i, g in enumerate(groups)]
    folds = make_folds(cases, 3, seed=1)
    assert {len({folds[c.id] for c in cases if c.group == g}) for g in set(groups)} == {1}
    assert sorted(np.bincount(list(folds.values())))[0] >= 6
    assert folds == make_folds(cases[::-1], 3, seed=1) != make_folds(cases, 3, seed=2)


def test_a_prepared_case_is_mapped_has_three_axes_and_ignores_a_track_without_labels(tmp_path):
    case = make_case("a", (20, 27))
    del case.labels["organ"]
    own = prepare_all(iter([case]), ORGANS, tmp_path, seed=0)["a"]
    assert isinstance(own.image, np.memmap) and own.image.shape == (1, 1, 20, 27) and own.image.dtype == np.float16
    assert own.spacing == (1.0, 1.5, 1.0) and (own.labels["organ"] == IGNORE).all() and own.centres["organ"] == {}
    assert own.as_given(own.labels["organ"]).shape == (20, 27)


def test_centres_lie_in_their_class_and_are_few():
    labels = np.random.default_rng(0).integers(0, 3, (3, 60, 71)).astype(np.uint8)
    centres = class_centres(labels, 4, np.random.default_rng(1))
    assert sorted(centres) == [1, 2] and len(centres[1]) == 2000
    assert all((labels[tuple(c.T)] == k).all() for k, c in centres.items())
