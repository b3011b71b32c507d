"""The estimate as a whole, on Gaussian features: the experiments of the specification."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_noisylabel.errors import InputError
from napari_noisylabel.methods.fmi_estimate import Recipe, Sample, estimate

MATRIX = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.15, 0.15, 0.7]])
CLASSES = ("background", "liver", "spleen")
CENTRES = 1.5 * np.array([[1, 0, 0, 1], [0, 1, 0, -1], [0, 0, 1, 0]])
PUBLISHED = Recipe(neighbours="any", lift=False, share=0.4, repeats=0)


def toy(m: int, seed: int, matrix: np.ndarray = MATRIX, scale: float = 1.0, n: int = 3000, cases: int = 10) -> Sample:
    """Three classes, four features that tell them apart and `m` that do not, noisy labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = np.concatenate([scale * CENTRES[y] + rng.normal(size=(n, 4)), rng.normal(size=(n, m))], axis=1)
    noisy = (rng.random((n, 1)) > matrix[y].cumsum(1)).sum(1).clip(max=2)
    return Sample(x, tuple(f"x{i}" for i in range(4 + m)), noisy, np.arange(n) % cases)


def error(found: np.ndarray, matrix: np.ndarray = MATRIX) -> float:
    return float(np.abs(found - matrix).sum() / 3)


def mean_error(m: int, recipe: Recipe) -> tuple[float, float, float]:
    """Error of T and of plain counting, and how much more the informative features weigh; over three seeds."""
    made = [estimate(toy(m, seed), CLASSES, recipe, np.random.default_rng(seed)) for seed in range(3)]
    ratio = np.mean([e.weights[:4].mean() / e.weights[4:].mean() for e in made]) if m else 1.0
    return float(np.mean([error(e.matrix) for e in made])), float(np.mean([error(e.counted) for e in made])), ratio


def test_where_most_features_say_nothing_weights_halve_the_error():
    plain, _, _ = mean_error(100, replace(PUBLISHED, weights="none"))
    weighted, counted, ratio = mean_error(100, PUBLISHED)
    assert weighted <= 0.5 * plain and ratio >= 5
    assert weighted < counted


@pytest.mark.parametrize("m", [0, 20])
def test_the_matrix_is_nearer_to_the_truth_than_counting_on_the_same_features(m):
    for recipe in (PUBLISHED, Recipe(repeats=0, rounds=4)):
        found, counted, _ = mean_error(m, recipe)
        assert found < 0.6 * counted


def test_labels_without_noise_give_nearly_the_identity_where_neighbours_agree():
    sample = toy(0, 0, np.eye(3), scale=3.0)
    for recipe in (PUBLISHED, Recipe(repeats=0)):
        found = estimate(sample, CLASSES, recipe, np.random.default_rng(0))
        assert found.agreement[1] >= 0.95 and np.abs(found.matrix - np.eye(3)).max() < 0.02


def test_voxels_whose_further_neighbours_agree_show_less_noise_that_is_not_there():
    clean = toy(0, 1, np.eye(3), scale=1.3)
    every, pure = (
        estimate(clean, CLASSES, Recipe(pure=share, repeats=0), np.random.default_rng(0)).matrix for share in (1.0, 0.5)
    )
    assert error(pure, np.eye(3)) < 0.5 * error(every, np.eye(3))


def test_labels_that_go_wrong_together_within_a_case_are_not_taken_for_right():
    """Cases with two classes exchanged, in each of which voxels look most like those of the same case."""
    n, cases = 3000, 30
    rng = np.random.default_rng(2)
    y, case = rng.integers(0, 3, n), np.arange(n) % cases
    look = 2 * rng.normal(size=(cases, 6))[case]
    x = np.concatenate([3 * CENTRES[y] + rng.normal(size=(n, 4)), look], axis=1)
    noisy = np.where((case % 5 == 0) & (y > 0), 3 - y, y)
    sample = Sample(x, tuple(f"x{i}" for i in range(10)), noisy, case)
    others, own = (
        estimate(sample, CLASSES, Recipe(neighbours=kind, weights="none", pure=1, repeats=0), rng).matrix
        for kind in ("cases", "any")
    )
    truth = np.array([[1, 0, 0], [0, 0.8, 0.2], [0, 0.2, 0.8]])
    assert error(own, np.eye(3)) < 0.1 and error(others, truth) < 0.6 * error(own, truth)


def test_the_standard_errors_over_halves_of_the_cases_are_those_of_repeating_the_whole():
    recipe = Recipe(rounds=2, repeats=6)
    found = [estimate(toy(2, seed, n=900), CLASSES, recipe, np.random.default_rng(seed)) for seed in range(6)]
    told = np.mean([e.spread for e in found])
    true = np.std([e.matrix for e in found], axis=0, ddof=1).mean()
    assert 0.5 < told / true < 2.5
    for cases in (5, 3):  # one left out at a time; halves of the voxels
        assert estimate(toy(2, 0, n=900, cases=cases), CLASSES, recipe, np.random.default_rng(0)).spread.min() > 0


def test_a_class_with_few_voxels_keeps_its_row_and_is_named():
    sample = toy(0, 3)
    rare = np.flatnonzero(sample.labels == 2)[20:]
    kept = np.setdiff1d(np.arange(len(sample.labels)), rare)
    sample = Sample(sample.features[kept], sample.names, sample.labels[kept], sample.cases[kept])
    found = estimate(sample, CLASSES, Recipe(repeats=0), np.random.default_rng(0))
    assert found.matrix[2].tolist() == [0, 0, 1] and found.matrix[:, 2].tolist() == [0, 0, 1]
    assert any("'spleen' has 20 sampled voxels, under 30: its labels count as right" in note for note in found.notes)


def test_a_feature_with_one_value_is_left_out_and_named():
    sample = toy(1, 4)
    sample.features[:, 1] = 7
    found = estimate(sample, CLASSES, Recipe(repeats=0, rounds=1), np.random.default_rng(0))
    assert found.columns == ("x0", "x2", "x3", "x4")
    assert "feature 'x1' has one value everywhere and is left out" in found.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones((3000, 4))}, "none of 4 does: the images have one value everywhere. Look at the images"),
        ({"cases": np.zeros(3000, int)}, r"neighbours must come from other cases.*1 case\(s\). Add cases"),
        (
            {"labels": np.zeros(3000, int)},
            "two classes with 30 sampled voxels each.*3000 of 'background', 0 of 'liver'",
        ),
        (
            {"features": np.random.default_rng(0).normal(size=(3000, 4))},
            r"neighbours in other cases have the same label in 3\d%, and any two voxels have it in 3\d%",
        ),
    ],
    ids=["constant features", "one case", "one class", "features that tell nothing"],
)
def test_what_cannot_be_estimated_is_said_in_a_sentence(change, message):
    with pytest.raises(InputError, match=message):
        estimate(replace(toy(0, 5), **change), CLASSES, Recipe(), np.random.default_rng(0))


def test_features_that_tell_little_raise_a_warning():
    found = estimate(toy(0, 6, scale=0.7), CLASSES, Recipe(repeats=0, rounds=1), np.random.default_rng(0))
    assert any("of the nearest neighbours in other cases have the same label" in note for note in found.notes)


def test_the_same_seed_gives_the_same_matrix():
    recipe = Recipe(rounds=2, repeats=2)
    one, other = (estimate(toy(0, 7), CLASSES, recipe, np.random.default_rng(1)) for _ in range(2))
    assert one.matrix.tobytes() == other.matrix.tobytes() and one.spread.tobytes() == other.spread.tobytes()


@pytest.mark.parametrize("setting", [{"space": "decoupled"}, {"weights": "kl"}, {"solver": "adam"}])
def test_other_choices_of_the_papers_find_the_matrix_too(setting):
    found = estimate(toy(4, 8), CLASSES, Recipe(repeats=0, rounds=4, **setting), np.random.default_rng(0))
    assert error(found.matrix) < 0.6 * error(found.counted)
