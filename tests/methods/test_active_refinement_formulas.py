from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_noisylabel.methods import active_refinement_formulas as formulas


def some_values(n: int = 50, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses, variances and given classes of which the last is rare."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    return torch.from_numpy(rng.exponential(1, n)), torch.from_numpy(rng.exponential(1, n)), torch.from_numpy(classes)


# ---------------------------------------------------------------- gradients


def test_the_gradient_of_the_given_row_is_that_of_automatic_differentiation():
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4).double()
    features, labels = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    probs = layer(features).softmax(1).detach()
    given = formulas.given_gradients(probs.gather(1, labels[:, None]).squeeze(1), features)
    every = formulas.all_gradients(probs, labels, features)
    for i, label in enumerate(labels.tolist()):
        layer.zero_grad()
        F.cross_entropy(layer(features[i : i + 1]), labels[i : i + 1]).backward()
        whole = torch.cat([layer.bias.grad[:, None], layer.weight.grad], 1)
        assert torch.allclose(given[i], whole[label], atol=1e-6)
        assert torch.allclose(every[i], whole, atol=1e-6)


def test_the_variance_of_gradients_is_a_mean_of_population_standard_deviations():
    history = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 7, 4)))
    slow = [np.mean([np.sqrt(((h - h.mean()) ** 2).sum() / 5) for h in history[:, i].numpy().T]) for i in range(7)]
    assert formulas.variance_of_gradients(history).numpy() == pytest.approx(slow)


def test_an_example_that_never_changes_has_no_variance():
    assert float(formulas.variance_of_gradients(torch.ones(5, 1, 3))) == 0


def test_within_its_class_no_class_is_larger_than_another():
    _, vog, classes = some_values()
    vog = vog * (1 + 5.0 * classes)  # rare classes have larger gradients
    scored = formulas.within_class(vog, classes)
    for k in range(3):
        own = scored[classes == k]
        assert float(own.mean()) == pytest.approx(0, abs=1e-9) and float(own.std(correction=0)) == pytest.approx(1)


def test_what_is_not_known_yet_has_no_say_within_its_class():
    values = torch.tensor([1.0, 3.0, torch.inf])
    assert formulas.within_class(values, torch.zeros(3)).tolist() == [-1.0, 1.0, torch.inf]


# ---------------------------------------------------------------- selection


def test_the_forget_rate_rises_in_a_line_and_stays():
    assert [formulas.forget_rate(e, 0.45, 10) for e in (0, 1, 9, 30)] == pytest.approx([0, 0.05, 0.45, 0.45])
    assert formulas.forget_rate(0, 0.45, 1) == 0.45


@pytest.mark.parametrize("n", [1, 7, 64, 256])
def test_as_many_are_kept_as_published(n):
    for rate in (0.0, 0.1, 0.2, 0.3, 0.4, 0.8):
        assert formulas.n_kept(n, rate) == int(round((1 - rate) * n, 6))


def test_a_forget_rate_of_nothing_keeps_everything():
    loss, vog, classes = some_values()
    assert formulas.choose(loss, vog, classes, 0.0, 0.0, per_class=False).all()
    assert formulas.choose(loss, vog, classes, 0.0, 0.0, per_class=True).all()


def test_without_a_share_for_the_variance_it_is_co_teaching():
    loss, vog, classes = some_values()
    kept = formulas.choose(loss, vog, classes, 0.3, 0.0, per_class=False)
    assert set(np.flatnonzero(kept)) == set(np.argsort(loss.numpy())[:35])


def test_small_losses_and_steady_gradients_are_two_parts_that_share_nothing():
    loss, vog, _ = some_values()
    small, steady = formulas.propose(loss, vog, 35, 0.2)
    assert not (small & steady).any()
    assert small.sum() == 28 and steady.sum() == 7
    rest = np.argsort(loss.numpy())[28:]
    assert set(np.flatnonzero(steady)) == set(rest[np.argsort(vog.numpy()[rest])[:7]])


def test_where_no_variance_is_known_the_smaller_loss_decides():
    loss, _, _ = some_values()
    small, steady = formulas.propose(loss, torch.full_like(loss, torch.inf), 35, 0.2)
    assert set(np.flatnonzero(small | steady)) == set(np.argsort(loss.numpy())[:35])


def test_per_class_each_class_keeps_its_share_and_together_a_hard_class_loses_all():
    loss, vog, classes = some_values()
    loss = loss + 10.0 * (classes == 2)  # what is rare is hard
    together = formulas.choose(loss, vog, classes, 0.3, 0.0, per_class=False)
    apart = formulas.choose(loss, vog, classes, 0.3, 0.0, per_class=True)
    assert not together[classes == 2].any()
    for k in range(3):
        assert int(apart[classes == k].sum()) == int(round(0.7 * int((classes == k).sum()), 6) // 1)


def test_background_forgets_as_if_it_were_as_large_as_the_foreground():
    loss, vog, classes = some_values()
    foreground = int((classes > 0).sum())
    kept = formulas.choose(loss, vog, classes, 0.2, 0.0, per_class=True, background=1.0)
    assert int((~kept)[classes == 0].sum()) == foreground - formulas.n_kept(foreground, 0.2)


def test_the_estimated_rate_is_the_share_that_both_peers_doubt_within_bounds():
    p = torch.tensor([0.9, 0.1, 0.8, 0.4])
    assert formulas.estimated_rate(p, torch.tensor([5.0, 1.0, 3.0, 1.0])) == pytest.approx(0.2)
    assert formulas.estimated_rate(torch.ones(3), torch.ones(3)) == formulas.LEAST_RATE
    assert formulas.estimated_rate(torch.zeros(3), torch.ones(3)) == formulas.MOST_RATE


def test_overlap_is_intersection_over_union():
    a, b = torch.tensor([True, True, False]), torch.tensor([False, True, True])
    assert formulas.overlap(a, b) == pytest.approx(1 / 3)
    assert formulas.overlap(a & ~a, b & ~b) is None


def test_a_rank_is_one_half_where_the_selection_cuts_and_the_rate_on_average():
    rank = torch.linspace(0, 1, 10001)
    likelihood = formulas.rank_likelihood(rank, 0.2)
    assert float(likelihood[8000]) == pytest.approx(0.5, abs=1e-3)
    assert float(likelihood.mean()) == pytest.approx(0.2, abs=1e-3)
