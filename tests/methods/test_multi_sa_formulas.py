"""The formulas against slow references, and the properties that need no training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_noisylabel.methods import multi_sa_formulas as formulas
from napari_noisylabel.methods.multi_sa_activation import activation, look
from napari_noisylabel.methods.multi_sa_network import Classifier, SelfAttention, node_grid, strides
from napari_noisylabel.records import IGNORE

RNG = np.random.default_rng(0)


def some(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))


# ---------------------------------------------------------------- attention


def test_attention_is_the_softmax_of_scaled_products_one_row_per_position():
    q, k = some(2, 3, 5), some(2, 3, 5)
    rows = formulas.attention(q, k)
    for b in range(2):
        for n in range(5):
            energy = np.array([float(q[b, :, n] @ k[b, :, m]) / np.sqrt(3) for m in range(5)])
            expected = np.exp(energy) / np.exp(energy).sum()
            np.testing.assert_allclose(rows[b, n].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("grid", [(4, 6), (3, 4, 5)])
@pytest.mark.parametrize("nodes", [1000, 10])
def test_rows_sum_to_one_and_the_shape_stays(grid, nodes):
    layer = SelfAttention(16, len(grid), nodes)
    features = some(2, 16, *grid)
    out, rows = layer(features)
    assert out.shape == features.shape
    assert rows.shape[1] == rows.shape[2] == np.prod(node_grid(grid, nodes)) <= nodes
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:2]))
    assert torch.equal(out, features)  # gamma starts at 0


def test_at_the_start_only_gamma_learns_and_not_the_queries_keys_and_values():
    layer = SelfAttention(16, 2, 100)
    out, _ = layer(some(2, 16, 5, 4))
    (out * some(2, 16, 5, 4)).sum().backward()
    assert layer.gamma.grad.abs() > 0
    for part in (layer.queries, layer.keys, layer.values):
        assert not part.weight.grad.any()


def test_context_is_what_a_position_attends_to():
    rows = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    out = formulas.attended(torch.zeros(1, 1, 2), torch.tensor([[[2.0, 6.0]]]), rows, 0.5)
    assert out.tolist() == [[[3.0, 2.0]]]


# ---------------------------------------------------------------- class activation


@pytest.mark.parametrize("shape", [(32, 24), (16, 32, 24)])
def test_without_gamma_the_last_layer_alone_is_plain_class_activation(shape):
    torch.manual_seed(0)
    network = Classifier(len(shape), 2, 3, shape, layers=(5,), share=1.0).eval()
    images = some(2, 2, *shape)
    seen = network(images)
    (last,) = network.features(images)
    weights = network.head.weight.flatten(1)
    maps = torch.einsum("fc,bc...->bf...", weights, last)
    torch.testing.assert_close(seen.maps, maps)
    torch.testing.assert_close(seen.scores, maps.flatten(2).mean(-1))
    assert network.gammas == (0.0,)


def test_three_layers_are_stacked_on_one_grid_and_each_has_maps_of_its_own():
    network = Classifier(2, 1, 2, (40, 24), layers=(2, 4, 5), nodes=20)
    seen = network(some(3, 1, 40, 24))
    assert seen.maps.shape[:2] == (3, 2) and [m.shape for m in seen.each] == [seen.maps.shape] * 3
    assert [len(r) for r in seen.rows] == [3] * 3 and seen.scores.shape == (3, 2)
    assert np.prod(seen.nodes) <= 20


def test_a_thin_axis_is_not_halved():
    assert strides((64, 8)) == ((2, 1), (2, 1))
    assert strides((20, 40, 16)) == ((2, 2, 2), (1, 2, 1))


def test_the_score_is_the_mean_of_the_strongest_positions():
    maps = torch.tensor([[[1.0, 5.0, 3.0, -2.0]]])
    assert formulas.presence_score(maps).item() == 7 / 4
    assert formulas.presence_score(maps, 0.5).item() == 4.0
    assert formulas.presence_score(maps, 0.01).item() == 5.0


def test_the_loss_is_the_mean_cross_entropy_of_the_findings_that_count():
    scores, present = some(2, 3), torch.tensor([[1, 0, 1], [0, 0, 1]])
    weight = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 0.0]])
    p = 1 / (1 + np.exp(-scores.numpy().astype(float)))
    each = -np.where(present.numpy(), np.log(p), np.log(1 - p))
    expected = (each * weight.numpy()).sum() / 5
    assert formulas.soft_margin(scores, present, weight).item() == pytest.approx(expected, rel=1e-5)


def test_activation_is_relative_to_the_image_and_absent_classes_have_none():
    maps = torch.tensor([[[-1.0, 2.0, 4.0], [1.0, 9.0, 3.0]]])
    out = formulas.normalised(maps, torch.tensor([[True, False]]))
    assert out.tolist() == [[[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]]


def test_maps_of_layers_are_joined_by_mean_maximum_or_product():
    a, b = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.25, 0.0])
    assert formulas.fused([a, b], "mean").tolist() == [0.5, 0.625, 0.0]
    assert formulas.fused([a, b], "max").tolist() == [1.0, 1.0, 0.0]
    assert formulas.fused([a, b], "product").tolist() == pytest.approx([0.001, 0.5, 0.0])


@pytest.mark.parametrize("fusion", ["product", "mean", "max", "stack"])
def test_a_look_at_a_whole_case_is_the_activation_of_its_image(fusion):
    torch.manual_seed(0)
    network = Classifier(2, 3, 2, (32, 24)).eval()
    image, present = some(3, 32, 24), np.array([True, False])
    found = look(network, image.numpy(), present, (32, 24), fusion=fusion, steps=2)
    expected = activation(network, image[None], torch.from_numpy(present)[None], fusion=fusion, steps=2)
    np.testing.assert_allclose(found.maps, expected[0].detach().numpy(), atol=1e-6)
    assert [m.shape for m in found.each] == [(2, 32, 24)] * 3 and [a.shape for a in found.attention] == [(32, 24)] * 3


def test_slices_of_a_volume_are_looked_at_one_by_one_and_put_back_in_their_place():
    torch.manual_seed(0)
    network = Classifier(2, 1, 1, (32, 24)).eval()
    volume = some(1, 32, 5, 24)
    found = look(network, volume.numpy(), np.array([True]), (32, 24), slice_axis=1)
    scores = network(volume[0].movedim(1, 0)[:, None]).scores[:, 0]
    counts = (scores > 0) | (scores == scores.max())
    assert found.maps.shape == (1, 32, 5, 24)
    assert [bool(found.maps[0, :, i].any()) for i in range(5)] == counts.tolist()


# ---------------------------------------------------------------- spread


def test_no_step_returns_the_activation():
    maps = some(2, 3, 4, 5).clamp_min(0)
    walk = formulas.transition(some(2, 20, 20).softmax(-1))
    assert torch.equal(formulas.spread(maps, walk, 0), maps)


def test_the_area_never_shrinks_and_stops_at_twice_what_it_was():
    torch.manual_seed(0)
    maps = torch.rand(4, 2, 6, 6) ** 4
    walk = formulas.transition((4 * torch.randn(4, 36, 36)).softmax(-1))
    areas = torch.stack([(formulas.spread(maps, walk, r) > 0.3).flatten(2).sum(-1) for r in range(8)])
    assert (areas.diff(dim=0) >= 0).all() and (areas[-1] > areas[0]).any()
    assert (areas[-1] <= 2 * areas[0]).all()


def test_a_position_that_attends_to_the_seed_takes_its_activation():
    maps = torch.tensor([[[1.0, 0.1, 0.0]]])
    walk = torch.tensor([[[1.0, 0.0, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 1.0]]])
    assert formulas.spread(maps, walk, 1).flatten().tolist() == pytest.approx([1.0, 0.8, 0.0])


def test_a_walk_of_power_two_prefers_strong_links():
    rows = torch.tensor([[[0.75, 0.25]]])
    assert formulas.transition(rows).flatten().tolist() == pytest.approx([0.9, 0.1])


# ---------------------------------------------------------------- pseudo-masks


def test_seeds_are_sure_voxels_the_stronger_class_wins_and_the_rest_is_open():
    activation = np.array([[0.9, 0.4, 0.2, 0.01, 0.0], [0.1, 0.6, 0.1, 0.02, 0.0]])
    assert formulas.seeds(activation, 0.3, 0.05).tolist() == [1, 2, IGNORE, 0, 0]


def test_dense_masks_decide_on_every_voxel():
    activation = np.array([[0.9, 0.05], [0.1, 0.0]])
    assert formulas.dense(activation, 4.0).tolist() == [1, 0]
    assert 0.5**4 < 0.5 and formulas.dense(np.array([[0.5], [0.2]]), 0.5).tolist() == [0]


def test_seeds_grow_into_what_touches_them_and_is_surely_of_their_class():
    seeded = np.array([[1, IGNORE, IGNORE, IGNORE, IGNORE, 0]], np.uint8)
    p = np.array([[0.0, 0.9, 0.9, 0.2, 0.9, 0.0]])
    probs = np.stack([1 - p, p])
    assert formulas.grow(seeded, probs).tolist() == [[1, 1, 1, IGNORE, IGNORE, 0]]
    probs[0, 0, 3] = 0.995
    assert formulas.grow(seeded, probs).tolist() == [[1, 1, 1, IGNORE, IGNORE, 0]]  # no background touches it


def test_growth_reaches_across_corners_only_where_asked_to():
    seeded = np.full((3, 3), IGNORE, np.uint8)
    seeded[0, 0] = 1
    probs = np.stack([np.ones((3, 3)), np.zeros((3, 3))])
    probs[:, [0, 1], [0, 1]] = [[0.0, 0.0], [1.0, 1.0]]
    assert formulas.grow(seeded, probs)[1, 1] == 1
    assert formulas.grow(seeded, probs, touching=False)[1, 1] == IGNORE


def test_growth_leaves_seeds_and_its_input_alone():
    seeded = RNG.choice([0, 1, IGNORE], (6, 7)).astype(np.uint8)
    before = seeded.copy()
    probs = RNG.dirichlet((0.2, 0.2), (6, 7)).transpose(2, 0, 1)
    out = formulas.grow(seeded, probs)
    assert (seeded == before).all() and (out[before != IGNORE] == before[before != IGNORE]).all()


def test_recall_and_precision_of_a_mask():
    mask, truth = np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 1], bool)
    assert formulas.coverage(mask, truth) == (0.5, 1 / 3)
    assert np.isnan(formulas.coverage(np.zeros(4, bool), np.zeros(4, bool))).all()
