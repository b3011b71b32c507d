from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_noisylabel.methods.cores_formulas import (
    MAX_LOSS,
    beta_at,
    class_losses,
    consistency,
    foreground_box,
    label_loss,
    local_opinion,
    prior_of,
    probs_score,
    regulariser,
    sieve_score,
    strong_view,
)
from napari_noisylabel.records import IGNORE


def scores(logits: list[float]) -> list[float]:
    """s of a voxel with these logits, for each class as its label."""
    planes = torch.tensor(logits, dtype=torch.float64).reshape(1, -1, 1, 1).repeat(1, 1, 1, len(logits))
    labels = torch.arange(len(logits)).reshape(1, 1, -1)
    return sieve_score(class_losses(planes.log_softmax(1)), labels).flatten().tolist()


# ---------------------------------------------------------------- the sieve


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([2, 0, 0], [-1.3333, 0.6667, 0.6667]),
        ([5, 0, 0], [-3.3333, 1.6667, 1.6667]),
    ],
)
def test_the_score_of_simple_logits_is_the_one_worked_out_by_hand(logits, expected):
    assert scores(logits) == pytest.approx(expected, abs=1e-4)


def test_the_score_is_the_mean_logit_minus_that_of_the_label():
    logits = np.random.default_rng(0).normal(0, 3, 5)
    assert scores(logits.tolist()) == pytest.approx(logits.mean() - logits)


def test_the_score_knows_no_common_part_of_logits_and_sums_to_zero_over_classes():
    logits = np.random.default_rng(0).normal(0, 3, 4)
    assert scores((logits + 7.5).tolist()) == pytest.approx(scores(logits.tolist()))
    assert sum(scores(logits.tolist())) == pytest.approx(0, abs=1e-9)


def test_of_two_classes_the_sieve_keeps_the_better_one():
    for z in (-3.0, -0.1, 0.1, 3.0):
        assert [s <= 0 for s in scores([z, 0.0])] == [z > 0, z < 0]


def test_a_label_is_kept_where_it_is_more_probable_than_the_geometric_mean_of_all():
    probs = np.random.default_rng(0).dirichlet([0.5] * 3, (7, 9)).transpose(2, 0, 1)
    labels = np.random.default_rng(1).choice([0, 1, 2, IGNORE], (7, 9)).astype(np.uint8)
    found = probs_score(probs, labels)
    for p in np.ndindex(7, 9):
        here = probs[(slice(None), *p)] + 1e-8
        geometric = np.prod(here) ** (1 / 3)
        assert found[p] == pytest.approx(0 if labels[p] == IGNORE else np.log(geometric / here[labels[p]]), abs=1e-4)


def test_a_case_and_a_batch_are_scored_alike():
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (1, 3, 6, 7)))
    labels = np.random.default_rng(1).choice([0, 1, 2, IGNORE], (6, 7)).astype(np.uint8)
    batch = sieve_score(class_losses(logits.log_softmax(1)), torch.from_numpy(labels[None].astype(np.int64)))
    np.testing.assert_allclose(probs_score(logits.softmax(1)[0].numpy(), labels), batch[0].numpy(), atol=1e-4)


def test_losses_end_where_a_probability_is_as_small_as_what_the_publication_adds_to_it():
    logits = torch.tensor([[60.0, 0.0]]).reshape(1, 2, 1)
    assert class_losses(logits.log_softmax(1)).flatten().tolist() == [0.0, pytest.approx(MAX_LOSS)]
    assert pytest.approx(18.4, abs=0.03) == MAX_LOSS


# ---------------------------------------------------------------- regulariser, schedule, prior


def test_the_gradient_is_the_one_worked_out_by_hand_and_that_of_finite_differences():
    rng = np.random.default_rng(0)
    z, prior, beta, y = rng.normal(0, 1, 4), rng.dirichlet(np.ones(4)), 1.7, 2

    def loss(values: np.ndarray) -> torch.Tensor:
        logits = torch.as_tensor(values).reshape(1, 4, 1)
        log_probs = logits.log_softmax(1)
        own = regulariser(class_losses(log_probs), torch.from_numpy(prior), beta)
        return (label_loss(log_probs, torch.tensor([[y]])) + own).sum()

    p = np.exp(z) / np.exp(z).sum()
    expected = p - np.eye(4)[y] - beta * (p - prior)
    step = 1e-5 * np.eye(4)
    assert [(loss(z + e) - loss(z - e)).item() / 2e-5 for e in step] == pytest.approx(expected.tolist(), abs=1e-6)
    leaf = torch.tensor(z, requires_grad=True)
    loss(leaf).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), expected, atol=1e-9)


def test_without_a_weight_the_loss_of_the_label_is_cross_entropy_to_the_last_bit():
    logits, labels = torch.randn(2, 3, 5, 7) * 4, torch.randint(0, 3, (2, 5, 7))
    labels[0, 0] = IGNORE
    expected = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
    assert torch.equal(label_loss(logits.log_softmax(1), labels), expected)


def test_beta_follows_the_published_schedule():
    found = [beta_at(epoch, 100, 2.0, 0.1, 0.4) for epoch in range(100)]
    assert found[:11] == [0.0] * 11 and found[39:] == pytest.approx([2.0] * 61)
    np.testing.assert_allclose(found[10:40], np.linspace(0, 2, 30))


def test_a_short_run_goes_through_the_whole_schedule():
    found = [beta_at(epoch, 10, 1.5, 0.1, 0.4) for epoch in range(10)]
    assert found[:2] == [0, 0] and 0 < found[2] < 1.5 and found[3:] == pytest.approx([1.5] * 7)


def test_the_prior_is_the_frequency_of_what_is_kept_and_balanced_its_share_of_each_class():
    kept, given = torch.tensor([80.0, 5.0, 0.0]), torch.tensor([100.0, 10.0, 0.0])
    assert prior_of(kept, given, balanced=False).tolist() == pytest.approx([80 / 85, 5 / 85, 0])
    assert prior_of(kept, given, balanced=True).tolist() == pytest.approx([0.8 / 1.3, 0.5 / 1.3, 0])
    assert prior_of(0 * kept, given, balanced=True).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("prior", "rare_gains"), [((0.99, 0.01), True), ((0.5, 0.5), False)])
def test_a_prior_of_nearly_all_background_pushes_undecided_voxels_to_the_foreground(prior, rare_gains):
    logits = torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(1, 2, 1).requires_grad_()
    regulariser(class_losses(logits.log_softmax(1)), torch.tensor(prior), 1.0).sum().backward()
    assert (-logits.grad[0, 1, 0] > 0) == rare_gains


@pytest.mark.parametrize("margin", [0, 2])
def test_the_box_around_the_foreground_is_the_one_found_with_loops(margin):
    labels = torch.zeros(3, 9, 13, dtype=torch.long)
    labels[0, 4:6, 3], labels[0, 2, 7:9], labels[1, 8, 12], labels[2, 1, 1] = 1, 2, 1, IGNORE
    found = foreground_box(labels, margin)
    for b in range(3):
        expected = torch.zeros(9, 13, dtype=torch.bool)
        places = [(y, x) for y, x in np.ndindex(9, 13) if labels[b, y, x] in (1, 2)]
        if places:
            (y0, x0), (y1, x1) = np.min(places, 0) - margin, np.max(places, 0) + margin
            expected[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1] = True
        assert torch.equal(found[b], expected)


# ---------------------------------------------------------------- two views


def test_the_consistency_of_two_views_is_their_divergence_where_asked_and_teaches_the_strong_one_only():
    rng = np.random.default_rng(0)
    weak, strong = (torch.from_numpy(rng.normal(0, 2, (2, 3, 4, 5))).float().requires_grad_() for _ in range(2))
    where = torch.from_numpy(rng.random((2, 4, 5)) < 0.4)
    found = consistency(weak, strong, where)
    found.backward()
    p, q = weak.softmax(1).detach().numpy(), strong.softmax(1).detach().numpy()
    each = [
        sum(p[b, k, y, x] * np.log(p[b, k, y, x] / q[b, k, y, x]) for k in range(3))
        for b, y, x in np.ndindex(2, 4, 5) if where[b, y, x]
    ]  # fmt: skip
    assert found.item() == pytest.approx(np.mean(each), rel=1e-4)
    assert weak.grad is None and (strong.grad != 0).any()
    assert consistency(weak, strong, torch.zeros_like(where)).item() == 0


def test_a_strong_view_moves_nothing_and_comes_from_the_generator_alone():
    images = torch.zeros(4, 1, 20, 30)
    images[..., ::3] = 1
    seen = strong_view(images, np.random.default_rng(3), 1.0)
    assert torch.equal(seen, strong_view(images, np.random.default_rng(3), 1.0)) and not torch.equal(seen, images)
    assert strong_view(images, np.random.default_rng(3), 0.0) is images and torch.isfinite(seen).all()
    for before, after in zip(images[:, 0], seen[:, 0], strict=True):
        left = after != 0
        assert 0.7 < left.float().mean() < 1  # a box is cut out ...
        assert after[left & (before == 1)].mean() > after[left & (before == 0)].mean() + 0.3  # ... the rest is in place


def test_the_opinion_around_a_voxel_is_the_mean_that_a_gaussian_in_mm_weighs():
    probs = np.random.default_rng(0).dirichlet([0.5] * 3, (7, 9)).transpose(2, 0, 1).astype(np.float16)
    found = local_opinion(probs, (2.0, 1.0), 0.8)
    offsets = [range(-round(4 * s), round(4 * s) + 1) for s in (0.4, 0.8)]
    for y, x in np.ndindex(7, 9):
        total, weights = np.zeros(3), 0.0
        for dy in offsets[0]:
            for dx in offsets[1]:
                w = np.exp(-0.5 * ((dy / 0.4) ** 2 + (dx / 0.8) ** 2))
                total, weights = total + w * probs[:, np.clip(y + dy, 0, 6), np.clip(x + dx, 0, 8)], weights + w
        np.testing.assert_allclose(found[:, y, x], total / weights, rtol=1e-3)
    np.testing.assert_array_equal(local_opinion(probs, (2.0, 1.0), 0.0), probs.astype(np.float32))
