from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.methods import jcas_formulas as jcas
from napari_noisylabel.records import IGNORE


def some_transition(rng: np.random.Generator, n: int, strength: float = 0.5) -> torch.Tensor:
    noise = rng.dirichlet(np.ones(n), n)
    return torch.from_numpy((1 - strength) * np.eye(n) + strength * noise)


def slow_reasoning(logits, embedding, node_logits, nodes) -> np.ndarray:
    """Q' with both affinity matrices written out; all (channels, places)."""
    unit = embedding / np.linalg.norm(embedding, axis=0)
    out = np.empty_like(logits)
    for p in range(logits.shape[1]):
        a = np.array([unit[:, p] @ nodes[:, q] for q in range(nodes.shape[1])])
        inner, outer = a / a.sum(), (1 - a) / (1 - a).sum()
        assert inner.sum() == pytest.approx(1) and outer.sum() == pytest.approx(1)
        out[:, p] = logits[:, p] + 0.5 * (node_logits @ inner - node_logits @ outer)
    return out


# ---------------------------------------------------------------- affinity and reasoning


def test_affinity_is_the_cosine_of_what_is_positive_and_at_least_a_hair_over_zero():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 5))
    a[0, :, 0] = -1
    found = jcas.affinity(*(jcas.unit_embedding(torch.from_numpy(x)) for x in (a, b)))
    for i, p, q in np.ndindex(2, 4, 5):
        x, y = np.maximum(a[i, :, p], 0), np.maximum(b[i, :, q], 0)
        cosine = x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-30)
        assert float(found[i, p, q]) == pytest.approx(max(cosine, 1e-10), rel=1e-6, abs=1e-12)


def test_reasoning_without_the_matrix_is_reasoning_with_it():
    rng = np.random.default_rng(0)
    logits, embedding = rng.normal(size=(2, 3, 30)), rng.random((2, 5, 30))
    node_logits = rng.normal(size=(2, 3, 12))
    nodes = jcas.unit_embedding(torch.from_numpy(rng.normal(size=(2, 5, 12))))
    found = jcas.reasoned(*(torch.from_numpy(x) for x in (logits, embedding, node_logits)), nodes)
    for i in range(2):
        expected = slow_reasoning(logits[i], embedding[i], node_logits[i], nodes[i].numpy())
        np.testing.assert_allclose(found[i].numpy(), expected, atol=2e-4)


def test_the_weights_of_both_sums_add_up_to_one_so_equal_logits_stay_equal():
    rng = np.random.default_rng(0)
    nodes = jcas.unit_embedding(torch.from_numpy(rng.random((1, 4, 50), dtype=np.float32)))
    flat = torch.tensor([3.0, -1.0])[None, :, None].expand(1, 2, 50)
    torch.testing.assert_close(jcas.reasoned(flat, nodes, flat, nodes), flat, atol=1e-3, rtol=0)


def test_reasoning_stays_finite_where_all_nodes_look_alike_or_none_has_an_embedding():
    logits = torch.randn(1, 3, 40)
    for nodes in (torch.full((1, 4, 40), 0.5), torch.zeros(1, 4, 40)):
        own = nodes.clone().requires_grad_()
        found = jcas.reasoned(logits, own, logits, nodes)
        found.square().sum().backward()
        assert found.abs().max() < 10 and own.grad.isfinite().all()


def test_a_right_affinity_takes_isolated_errors_out_of_noisy_logits():
    rng = np.random.default_rng(0)
    _, truth = phantom((32, 37), (1.5, 1.0), 4, rng)
    one_hot = np.eye(4)[truth.ravel()].T
    logits = one_hot + rng.normal(0, 0.6, one_hot.shape)
    before = logits.argmax(0) == truth.ravel()
    assert 0.6 < before.mean() < 0.8
    noisy, nodes = torch.from_numpy(logits)[None], torch.from_numpy(one_hot)[None]
    found = jcas.reasoned(noisy, nodes, noisy, nodes)[0].argmax(0).numpy()
    after = found == truth.ravel()
    assert after.mean() > before.mean() + 0.1 and after[~before].mean() > 0.4 and after[before].mean() > 0.99


# ---------------------------------------------------------------- transition matrices


STARTS = [(4, 0.7366, 0.0878, -1.298), (2, 0.8935, 0.1065, -0.2395)]


@pytest.mark.parametrize(("n", "diagonal", "beside", "volume"), STARTS)
def test_a_transition_matrix_starts_as_in_the_released_code(n, diagonal, beside, volume):
    found = jcas.transition_matrix(torch.full((n, n), -2.0))
    assert float(found[0, 0]) == pytest.approx(diagonal, abs=1e-4)
    assert float(found[0, 1]) == pytest.approx(beside, abs=1e-4)
    assert float(jcas.log_volume(found)) == pytest.approx(volume, abs=1e-3)


def test_rows_of_a_transition_matrix_sum_to_one_and_no_class_is_rarer_kept_than_lost_to_another():
    for seed in range(20):
        torch.manual_seed(seed)
        found = jcas.transition_matrix(5 * torch.randn(5, 5))
        torch.testing.assert_close(found.sum(1), torch.ones(5))
        assert (found.diagonal()[:, None] >= found - 1e-7).all() and found.diagonal().min() >= 0.2


def test_the_volume_is_the_log_of_the_determinant_and_is_not_pushed_below_its_floor():
    matrix = some_transition(np.random.default_rng(0), 4)
    assert float(jcas.log_volume(matrix)) == pytest.approx(np.log(abs(np.linalg.det(matrix.numpy()))))
    flat = torch.full((3, 3), 20.0, requires_grad=True)
    volume = jcas.log_volume(jcas.transition_matrix(flat))
    volume.backward()
    assert volume.item() == pytest.approx(np.log(1e-4)) and flat.grad.abs().max() == 0


def test_what_a_class_matrix_does_to_pairs_is_what_happens_to_pairs_that_are_drawn():
    rng = np.random.default_rng(0)
    matrix, prior = some_transition(rng, 3, 0.7), np.array([0.6, 0.3, 0.1])
    clean = rng.choice(3, (2, 400_000), p=prior)
    noisy = (rng.random(clean.shape)[..., None] > np.cumsum(matrix.numpy(), 1)[clean]).sum(-1)
    same, same_after = clean[0] == clean[1], noisy[0] == noisy[1]
    found = jcas.pair_transition(matrix, torch.from_numpy(prior)).numpy()
    np.testing.assert_allclose(found[:, 1], [same_after[~same].mean(), same_after[same].mean()], atol=0.005)
    np.testing.assert_allclose(found.sum(1), 1)


def test_without_noise_pairs_keep_their_label():
    found = jcas.pair_transition(torch.eye(4), torch.tensor([0.7, 0.1, 0.1, 0.1]))
    torch.testing.assert_close(found, torch.eye(2))


@pytest.mark.parametrize("prior", [(0.25, 0.25, 0.25, 0.25), (0.84, 0.09, 0.02, 0.05)])
def test_the_released_start_means_the_same_for_pairs_whatever_the_prior(prior):
    found = jcas.pair_transition(jcas.transition_matrix(torch.full((4, 4), -2.0)), torch.tensor(prior))
    np.testing.assert_allclose(found[:, 1], [0.1448, 0.5657], atol=1e-4)


def test_with_a_single_class_there_are_only_same_pairs():
    found = jcas.pair_transition(some_transition(np.random.default_rng(0), 3).float(), torch.tensor([1.0, 0, 0]))
    assert found.isfinite().all() and found[0].tolist() == [1, 0]


def test_clean_frequencies_are_found_again_from_noisy_ones():
    rng = np.random.default_rng(0)
    matrix, clean = some_transition(rng, 4), torch.from_numpy(rng.dirichlet(np.ones(4)))
    torch.testing.assert_close(jcas.clean_prior(matrix, matrix.T @ clean), clean)
    impossible = jcas.clean_prior(matrix, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    assert impossible.min() >= 0 and float(impossible.sum()) == pytest.approx(1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_tie_draws_the_pair_matrix_to_what_the_class_matrix_implies_and_not_to_its_mirror_image(mirrored):
    implied = jcas.pair_transition(
        some_transition(np.random.default_rng(4), 3, 0.3).float(), torch.tensor([0.6, 0.2, 0.2])
    )
    target = jcas.implied_order(implied, mirrored)
    free = torch.full((2, 2), -2.0, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        ((jcas.transition_matrix(free) - target) ** 2).mean().backward()
        optimizer.step()
    found = jcas.transition_matrix(free.detach())
    other = jcas.implied_order(implied, not mirrored)
    assert (found - target).abs().max() < 0.01 < 0.05 < (found - other).abs().max()


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize("balanced", [False, True])
def test_the_pair_loss_is_the_one_computed_with_loops_and_leaves_out_what_does_not_count(balanced):
    rng = np.random.default_rng(0)
    p, same, counted = rng.random((2, 4, 6)), rng.random((2, 4, 6)) < 0.7, rng.random((2, 4, 6)) < 0.8
    costs: dict[bool, list[float]] = {False: [], True: []}
    for at in zip(*np.nonzero(counted), strict=True):
        q = 1e-4 + (1 - 2e-4) * p[at]
        costs[bool(same[at])].append(-np.log(q if same[at] else 1 - q))
    means = [np.mean(costs[False]), np.mean(costs[True])]
    total, parts = jcas.pair_loss(*(torch.from_numpy(x) for x in (p, same, counted)), balanced)
    assert [float(x) for x in parts] == pytest.approx(means)
    assert float(total) == pytest.approx(np.mean(means if balanced else costs[False] + costs[True]))


def test_a_patch_of_one_class_or_without_any_label_has_a_finite_pair_loss():
    p, yes, no = torch.rand(1, 3, 4), torch.ones(1, 3, 4, dtype=torch.bool), torch.zeros(1, 3, 4, dtype=torch.bool)
    one_class, _ = jcas.pair_loss(p, yes, yes, True)
    assert float(one_class) == pytest.approx(float(jcas.pair_loss(p, yes, yes, False)[0]))
    assert float(jcas.pair_loss(p, yes, no, True)[0]) == 0


def test_a_pair_is_corrected_like_a_voxel_of_two_classes():
    matrix, p = some_transition(np.random.default_rng(0), 2), torch.rand(1, 3, 4, dtype=torch.float64)
    expected = torch.stack([1 - p, p], -1) @ matrix
    torch.testing.assert_close(jcas.corrected_pairs(p, matrix), expected[..., 1])


def test_classes_are_corrected_row_by_row():
    rng = np.random.default_rng(0)
    matrix, probs = some_transition(rng, 3), np.moveaxis(rng.dirichlet(np.ones(3), (2, 4, 5)), -1, 1)
    found = jcas.corrected_classes(torch.from_numpy(probs), matrix)
    for b, y, x in np.ndindex(2, 4, 5):
        np.testing.assert_allclose(found[b, :, y, x].numpy(), probs[b, :, y, x] @ matrix.numpy())


def brute_pair_error(clean: np.ndarray, noisy: np.ndarray) -> tuple[float, float, float]:
    same, after = (a.ravel()[:, None] == a.ravel() for a in (clean, noisy))
    wrong = same != after
    return float(wrong.mean()), float(wrong[~same].mean()), float(wrong[same].mean())


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_share_of_wrong_pairs_is_that_of_all_pairs_of_a_label_map(n_classes):
    rng = np.random.default_rng(0)
    _, clean = phantom((32, 29), (1.5, 1.0), n_classes, rng)
    noisy = np.where(rng.random(clean.shape) < 0.2, rng.integers(0, n_classes, clean.shape), clean)
    joint = np.zeros((n_classes, n_classes))
    np.add.at(joint, (clean.ravel(), noisy.ravel()), 1 / clean.size)
    assert jcas.pair_error(joint) == pytest.approx(brute_pair_error(clean, noisy))
    if n_classes == 2:
        e = 1 - np.trace(joint)
        assert jcas.pair_error(joint)[0] == pytest.approx(2 * e * (1 - e))
        assert jcas.pair_error(joint)[0] > e


@pytest.mark.parametrize(("n", "expected"), [(2, 0.420), (3, 0.310), (4, 0.240), (8, 0.124)])
def test_balanced_classes_with_uniform_flips_have_the_known_share_of_wrong_pairs(n, expected):
    joint = (0.7 * np.eye(n) + 0.3 / (n - 1) * (1 - np.eye(n))) / n
    assert jcas.pair_error(joint)[0] == pytest.approx(expected, abs=5e-4)


def test_with_much_background_pairs_go_wrong_more_often_than_voxels():
    prior = np.array([0.8398, 0.0889, 0.0201, 0.0512])
    for e, expected in ((0.1, 0.151), (0.3, 0.389), (0.5, 0.541)):
        joint = prior[:, None] * ((1 - e) * np.eye(4) + e / 3 * (1 - np.eye(4)))
        assert jcas.pair_error(joint)[0] == pytest.approx(expected, abs=5e-4) and expected > e


def test_the_posterior_weighs_the_networks_opinion_against_the_label():
    rng = np.random.default_rng(0)
    matrix, probs = some_transition(rng, 3).numpy(), np.moveaxis(rng.dirichlet(np.ones(3), (4, 7)), -1, 0)
    labels = rng.choice([0, 1, 2, IGNORE], (4, 7)).astype(np.uint8)
    found = jcas.posterior_wrong(probs, labels, matrix)
    for at in np.ndindex(4, 7):
        y = labels[at]
        joint = [probs[(i, *at)] * matrix[i, y] for i in range(3)] if y != IGNORE else []
        expected = 1 - joint[y] / sum(joint) if y != IGNORE else 0
        assert found[at] == pytest.approx(expected, abs=1e-5)
