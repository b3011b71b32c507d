from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_noisylabel.methods.adele_formulas import (
    Opinion,
    Rule,
    confidence_gate,
    correct,
    moves,
    opinion,
    overlap_counts,
    put_back,
    rescaled_axes,
    resized,
    scale_divergence,
    scaled_size,
)
from napari_noisylabel.records import IGNORE

# ---------------------------------------------------------------- scales


def test_in_plane_are_the_two_axes_with_the_finest_voxels():
    assert rescaled_axes((3.0, 1.0, 1.0), "in-plane") == (1, 2)
    assert rescaled_axes((0.8, 2.5, 0.7), "in-plane") == (0, 2)
    assert rescaled_axes((1.0, 1.0, 1.0), "in-plane") == (1, 2)
    assert rescaled_axes((3.0, 1.0, 1.0), "all") == (0, 1, 2) and rescaled_axes((2.0, 1.0), "in-plane") == (0, 1)


def test_sizes_are_multiples_of_the_factor_and_other_axes_stay():
    assert scaled_size((40, 56, 48), 0.7, 8, (1, 2)) == (40, 40, 32)
    assert scaled_size((40, 56, 48), 1.5, 8, (1, 2)) == (40, 80, 72)
    assert scaled_size((256, 192), 1.5, 32, (0, 1)) == (384, 288)
    assert scaled_size((40, 56), 1.0, 8, (0, 1)) == (40, 56)


def test_no_image_becomes_a_single_voxel_at_the_bottom_of_the_network():
    assert scaled_size((8, 8), 0.7, 8, (0, 1)) == (8, 16)
    assert scaled_size((16, 16), 0.25, 8, (0, 1)) == (8, 16)
    assert scaled_size((8, 16, 16), 0.5, 8, (0, 1)) == (8, 8, 16)


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7)])
def test_resizing_puts_corners_upon_corners(shape):
    values = torch.arange(float(np.prod(shape))).view(1, 1, *shape)
    larger = resized(values, [2 * n - 1 for n in shape])
    torch.testing.assert_close(larger[(0, 0, *[slice(None, None, 2)] * len(shape))], values[0, 0])
    assert resized(values, shape) is values


# ---------------------------------------------------------------- consistency


def slow_divergence(logits: list[np.ndarray], at: tuple[int, ...]) -> tuple[float, list[float]]:
    """Sum of KL(p_k || q) at one voxel, and q."""
    probs = []
    for z in logits:
        e = [math.exp(z[(at[0], k, *at[1:])]) for k in range(z.shape[1])]
        probs.append([v / sum(e) for v in e])
    q = [min(max(sum(p[k] for p in probs) / len(probs), 1e-3), 1 - 1e-3) for k in range(len(probs[0]))]
    return sum(p[k] * math.log(p[k] / q[k]) for p in probs for k in range(len(q))), q


def test_consistency_is_the_summed_divergence_from_the_mean_voxel_by_voxel():
    rng = np.random.default_rng(0)
    logits = [rng.normal(0, 4, (3, 4, 5, 6)) for _ in range(3)]
    logits[2] = logits[2][:2]  # a scale that only the first two patches were seen at
    found, mean = scale_divergence([torch.from_numpy(z) for z in logits])
    for at in np.ndindex(3, 5, 6):
        expected, q = slow_divergence(logits if at[0] < 2 else logits[:2], at)
        assert float(found[at]) == pytest.approx(expected, abs=1e-5)
        np.testing.assert_allclose(mean[(at[0], slice(None), *at[1:])], q, rtol=1e-5)


def test_scales_that_agree_cost_nothing_and_gradients_reach_all_of_them():
    z = torch.randn(2, 3, 4, 5)
    assert scale_divergence([z, z.clone(), z.clone()])[0].abs().max() < 0.01  # the clamp alone
    each = [torch.randn(2, 3, 4, 5, requires_grad=True) for _ in range(3)]
    scale_divergence(each)[0].mean().backward()
    assert all(z.grad.abs().sum() > 0 for z in each)


def test_the_gate_opens_for_images_with_a_sure_known_voxel_or_for_sure_voxels():
    mean = torch.full((3, 2, 4, 5), 0.5)
    mean[0, 0, 1, 2] = mean[1, 1, 3, 4] = 0.85
    known = torch.ones(3, 4, 5, dtype=torch.bool)
    known[1, 3, 4] = False
    images = confidence_gate(mean, known, 0.8, "image")
    assert images.flatten(1).mean(1).tolist() == [1, 0, 0]
    voxels = confidence_gate(mean, known, 0.8, "voxel")
    assert voxels.nonzero().tolist() == [[0, 1, 2], [1, 3, 4]]


def test_overlap_is_counted_as_loops_count_it_and_ignored_voxels_nowhere():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 6, 7)), rng.choice([0, 1, 2, IGNORE], (2, 6, 7))
    found = overlap_counts(torch.from_numpy(logits), torch.from_numpy(labels).long())
    expected = np.zeros((3, 3), int)
    for b, y, x in np.ndindex(2, 6, 7):
        if labels[b, y, x] != IGNORE:
            guess = logits[b, :, y, x].argmax()
            expected[1, guess] += 1
            expected[2, labels[b, y, x]] += 1
            expected[0, guess] += guess == labels[b, y, x]
    np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------- correction


def some_case(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of four classes, labels with IGNORE and without class 3 in every other slice, fixed voxels."""
    rng = np.random.default_rng(seed)
    probs = np.moveaxis(rng.dirichlet(np.ones(4) * 0.3, shape), -1, 0).astype(np.float32)
    labels = rng.choice([0, 1, 2, 3, IGNORE], shape, p=[0.4, 0.2, 0.2, 0.1, 0.1]).astype(np.uint8)
    labels[::2][labels[::2] == 3] = 0
    return probs, labels, rng.random(shape) < 0.1


def slow_correct(probs, labels, on, rule, fixed, tau_foreground, tau_background):
    """Voxel by voxel: what the specification's four conditions say."""
    out = labels.copy()
    counts = {"waiting": 0, "absent": 0}
    for p in np.ndindex(labels.shape):
        here = probs[(slice(None), *p)]
        best, label = int(here.argmax()), int(labels[p])
        sure = max(here[1:]) > tau_foreground or here[0] > tau_background
        if label == IGNORE or fixed[p] or not sure or best == label:
            continue
        eligible = best == 0 or on[best]
        if rule.concerns == "both":
            eligible = eligible and (label == 0 or on[label])
        unit = labels if rule.constraint != "slice" else np.take(labels, p[rule.slice_axis], rule.slice_axis)
        if not eligible:
            counts["waiting"] += 1
        elif best != 0 and rule.constraint != "off" and best not in unit:
            counts["absent"] += 1
        else:
            out[p] = best
    return out, counts


@pytest.mark.parametrize("concerns", ["both", "prediction"])
@pytest.mark.parametrize(("constraint", "slice_axis"), [("case", 0), ("slice", 0), ("slice", 2), ("off", 0)])
@pytest.mark.parametrize("taus", [(0.7, 0.7), (0.8, 0.55)])
def test_a_case_is_corrected_as_loops_over_its_voxels_correct_it(concerns, constraint, slice_axis, taus):
    probs, labels, fixed = some_case((4, 7, 9))
    rule = Rule(concerns, constraint, guard=False, slice_axis=slice_axis)
    on = [False, True, False, True]
    found = correct(labels, opinion(probs, *taus), on, rule, fixed)
    expected, counts = slow_correct(probs, labels, on, rule, fixed, *taus)
    np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_array_equal(found.changed, expected != labels)
    assert (found.waiting, found.absent, found.guarded) == (counts["waiting"], counts["absent"], 0)
    assert found.changed.any() and found.waiting > 0 and (found.absent > 0) == (constraint == "slice")


def test_a_limit_of_one_or_no_class_changes_nothing():
    probs, labels, _ = some_case((5, 6, 7))
    probs[0, 0], probs[1:, 0] = 1, 0
    assert not correct(labels, opinion(probs, 1.0, 1.0), [True] * 4, Rule()).changed.any()
    nothing_on = correct(labels, opinion(probs, 0.7, 0.7), [False] * 4, Rule())
    np.testing.assert_array_equal(nothing_on.labels, labels)


def test_a_class_that_the_slice_does_not_show_comes_only_where_the_case_may_lend_it():
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[0, 0, 0] = 1
    said = Opinion(np.ones_like(labels), np.ones(labels.shape, bool), np.ones(labels.shape))
    by_slice = correct(labels, said, [False, True], Rule(constraint="slice", guard=False))
    assert by_slice.labels[0].all() and not by_slice.labels[1].any() and by_slice.absent == 12
    assert correct(labels, said, [False, True], Rule(constraint="case", guard=False)).labels.all()
    flat = correct(labels[1], said._replace(best=said.best[1], sure=said.sure[1]), [False, True], Rule())
    assert flat.absent == 12 and not flat.changed.any()


def test_a_case_that_would_lose_most_of_its_foreground_is_left_alone():
    labels = np.zeros((20, 30), np.uint8)
    labels[:5, :10] = 1
    best = np.zeros_like(labels)
    best[:2, :10] = 1
    said = Opinion(best, np.ones(labels.shape, bool), np.ones(labels.shape))
    kept = correct(labels, said, [False, True], Rule())
    assert not kept.changed.any() and kept.guarded == 30 and (kept.labels == labels).all()
    assert correct(labels, said, [False, True], Rule(guard=False)).changed.sum() == 30
    best[2, :6] = 1  # half of it stays
    assert correct(labels, said._replace(best=best), [False, True], Rule()).changed.sum() == 24


def test_moves_are_counted_by_class_pair():
    _, before, _ = some_case((5, 6))
    _, after, _ = some_case((5, 6), seed=1)
    found = moves(before, after, 4)
    for i, j in np.ndindex(4, 4):
        assert found[i, j] == (0 if i == j else sum((before == i)[p] and (after == j)[p] for p in np.ndindex(5, 6)))


@pytest.mark.parametrize("view", ["", "flip0", "flip12", "turn", "flip1+turn"])
def test_a_patch_is_put_back_where_it_was_cut_from(view):
    rng = np.random.default_rng(0)
    case, index = rng.integers(1, 99, (5, 7, 9)), (-1, 2, 4, 4, 6, 10)
    padded = np.pad(case, 3)
    patch = padded[2:7, 5:9, 7:13]
    axes = tuple(int(a) for part in view.split("+") if part.startswith("flip") for a in part[4:])
    into = np.zeros_like(case)
    done = put_back(into, np.flip(patch, axes) if axes else patch, index, view)
    assert done == ("turn" not in view)
    inside = np.zeros(case.shape, bool)
    inside[:4, 2:6, 4:9] = done
    np.testing.assert_array_equal(into, np.where(inside, case, 0))


def test_a_flat_patch_is_put_back_into_its_slice():
    into, patch = np.zeros((4, 5, 6)), np.arange(1, 13).reshape(4, 3)
    assert put_back(into, patch[:, ::-1], (0, 2, 3, 4, 3, 6), "flip1")
    np.testing.assert_array_equal(into[:, 2, 3:], patch)
    assert (into != 0).sum() == 12
