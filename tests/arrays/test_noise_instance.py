"""Instance-dependent noise: rates around eta, errors that follow the features, and the published generator."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.noise_instance import difficulty, draw_rates, instance_probs, local_features
from napari_noisylabel.errors import BadSetting, ShapeMismatch


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image of 8 bit, (1, Y, X), and three classes; bright on the left, dark on the right."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :120]
    labels = np.zeros(y.shape, np.uint8)
    labels[((y - 45) / 30) ** 2 + ((x - 40) / 24) ** 2 <= 1] = 1
    labels[((y - 45) / 26) ** 2 + ((x - 86) / 18) ** 2 <= 1] = 2
    image = 120 - 0.5 * x + 40 * (labels > 0) + rng.normal(0, 8, y.shape)
    return np.clip(image, 0, 255).astype(np.float32)[None], labels


def everywhere(seed: int = 0, **more) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, labels = scene(seed)
    made = corrupt(
        labels, "instance", 0.5, np.random.default_rng(seed), (1.0, 1.3), image=image, reach=0, cell=0, **more
    )
    return image[0], labels, made.labels


def test_rates_are_normal_and_between_0_and_1(rng):
    rates = draw_rates(20_000, 0.2, 0.1, rng)
    assert rates.min() > 0 and rates.max() < 1
    assert rates.mean() == pytest.approx(0.2055, abs=0.003)  # of Normal(0.2, 0.1), cut at 0
    assert draw_rates(20_000, 0.5, 0.1, rng).std() == pytest.approx(0.1, abs=0.003)


def test_probabilities_are_those_of_a_plain_loop(rng):
    scores, labels, rates = rng.normal(size=(50, 4)), rng.integers(0, 4, 50), rng.uniform(0.1, 0.6, 50)
    found = instance_probs(scores, labels, rates)
    for n in range(50):
        a = scores[n].copy()
        a[labels[n]] = -1e6
        p = rates[n] * np.exp(a - a.max()) / np.exp(a - a.max()).sum()
        p[labels[n]] = 1 - rates[n]
        assert np.allclose(found[n], p / p.sum())


@pytest.mark.parametrize("eta", [0.2, 0.4, 0.6])
def test_the_published_settings_err_at_their_rate(eta, rng):
    image, labels = scene()
    made = corrupt(labels, f"as-published-instance-{eta}", None, rng, image=image)
    assert made.errors.mean() == pytest.approx(eta, abs=0.015)
    assert "Ours" in made.parameters["note"]


def test_the_rate_holds_for_cells_near_the_contours_too():
    shares = []
    for seed in range(6):
        image, labels = scene(seed)
        made = corrupt(labels, "instance", 0.5, np.random.default_rng(seed), image=image, eta=0.3)
        shares.append(made.parameters["examples_wrong"] / made.parameters["examples"])
    assert np.mean(shares) == pytest.approx(0.3, abs=0.04)


def test_raw_intensities_give_each_look_one_wrong_class_and_standardised_ones_several():
    spread = {}
    for standardise in (False, True):
        image, labels, out = everywhere(features="window", standardise=standardise, ranked=False, shared=True)
        for c in (0, 1, 2):
            others = [int(((labels == c) & (out == k)).sum()) for k in (0, 1, 2) if k != c]
            spread[standardise, c] = min(others) / sum(others)
    assert max(spread[False, c] for c in (0, 1, 2)) < 0.02
    assert max(spread[True, c] for c in (0, 1, 2)) > 0.1


def test_the_wrong_class_depends_on_the_features_and_not_on_the_case():
    chosen = []
    for seed in (0, 1):
        image, labels, out = everywhere(seed, w_seed=2)
        wrong = (labels == 0) & (out != 0)
        chosen.append([(out[wrong & half] == 1).mean() for half in (image > 90, image <= 90)])
    assert abs(chosen[0][0] - chosen[0][1]) > 0.1
    assert np.allclose(chosen[0], chosen[1], atol=0.06)


def test_errors_are_more_frequent_near_contours_by_rank_only():
    for ranked, more in ((True, 0.05), (False, None)):
        image, labels, out = everywhere(ranked=ranked)
        near = np.abs(list(local_features(image[None], labels, (1.0, 1.3)))[-1]) < 4
        gap = (out != labels)[near].mean() - (out != labels)[~near].mean()
        assert gap > more if more is not None else abs(gap) < 0.03


def test_what_looks_like_another_class_or_is_near_a_contour_is_difficult():
    means, labels = np.array([[0.0], [1], [9], [10], [10]]), np.array([0, 0, 0, 1, 1])
    hard = difficulty(means, labels, np.array([5.0, 5, 5, 5, 1]))
    assert np.argmax(hard) == 2 and hard[4] > hard[3]
    assert np.argmax(difficulty(means, np.zeros(5, int), np.array([5.0, 5, 5, 5, 1]))) == 4


def test_the_signed_distance_is_negative_inside_and_in_mm():
    image, labels = scene()
    found = list(local_features(image, labels, (2.0, 1.0)))
    assert len(found) == 4 and found[-1][45, 40] < -20 and found[-1][0, 0] > 20
    assert found[-1][labels > 0].max() < 0 < found[-1][labels == 0].min()


def test_errors_lie_near_the_contours_and_come_in_cells(rng):
    image, labels = scene()
    errors = corrupt(labels, "instance", 0.5, rng, image=image).errors
    depth = np.abs(list(local_features(image, labels, (1.0, 1.0)))[-1])
    e = errors - errors.mean()
    assert depth[errors].max() < 20
    assert (e[:, 3:] * e[:, :-3]).mean() / e.var() > 0.2


def test_without_an_image_or_with_one_of_another_shape_it_is_refused(rng):
    image, labels = scene()
    with pytest.raises(BadSetting, match="looks at the images.*--images DIR"):
        corrupt(labels, "as-published-instance-0.2", None, rng)
    with pytest.raises(ShapeMismatch, match="differ in shape"):
        corrupt(labels, "instance", 0.5, rng, image=image[0])
