from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_noisylabel.methods.cleansing import (
    POOLED,
    cleanse,
    filter_scores,
    fuse,
    joint_loss,
    noisy_posterior,
    score_case,
    size_free,
    soft_loss,
    surprise,
    threshold_of,
    wrong_nats,
)
from napari_noisylabel.records import IGNORE


def some_probs(rng: np.random.Generator, n_classes: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(rng.dirichlet(np.ones(n_classes) * 0.5, shape), -1, 0)


# ---------------------------------------------------------------- score, a second and slow way


def slow_score(probs, labels, spacing, verified) -> list[float]:
    n_classes, (rows, columns) = len(probs), labels.shape
    places = [p for p in np.ndindex(rows, columns) if labels[p] != IGNORE and not verified[p]]
    out = [float("nan")]
    for k in range(1, n_classes):
        shown = [p for p in places if labels[p] == k or probs[(slice(None), *p)].argmax() == k]
        near = [
            p for p in places
            if any(np.hypot((p[0] - q[0]) * spacing[0], (p[1] - q[1]) * spacing[1]) <= 8 * min(spacing) for q in shown)
        ]  # fmt: skip
        if not shown:
            out.append(float("nan"))
            continue
        entropy = np.mean([-np.log(max(probs[(labels[p], *p)], 1e-4)) for p in near])
        overlap = sum(probs[(k, *p)] for p in near if labels[p] == k)
        size = sum(probs[(k, *p)] for p in near) + sum(labels[p] == k for p in near)
        out.append(entropy + 1 - (2 * overlap + 1) / (size + 1))
    return out


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.5, 0.5)])
def test_the_score_of_a_case_is_the_one_computed_with_loops(spacing):
    rng = np.random.default_rng(0)
    labels = np.zeros((14, 23), np.uint8)
    labels[2:6, 3:8], labels[10:12, 18:21], labels[0, :5] = 1, 2, IGNORE
    probs = np.full((4, 14, 23), 0.01)
    probs[0] = 0.97
    probs[:, 2:7, 3:9] = some_probs(rng, 4, (5, 6))
    verified = np.zeros((14, 23), bool)
    verified[9:, 20:] = True
    found = score_case(probs, labels, spacing, verified)
    np.testing.assert_allclose(found, slow_score(probs, labels, spacing, verified), rtol=1e-4)


def test_a_case_that_is_verified_as_a_whole_has_no_score():
    labels = np.eye(7, 9, dtype=np.uint8)
    probs = some_probs(np.random.default_rng(0), 2, (7, 9))
    assert np.isnan(score_case(probs, labels, (1, 1), np.ones((7, 9), bool))).all()


def test_surprise_is_the_score_over_its_mean_when_labels_are_drawn_from_the_network():
    rng = np.random.default_rng(0)
    probs = some_probs(rng, 3, (400,))
    labels = rng.integers(0, 3, 400)
    p = np.clip(probs, 1e-4, 1)
    p /= p.sum(0)

    def score(y):
        loss = np.mean([-np.log(p[y[i], i]) for i in range(400)])
        overlap = sum(p[1, i] for i in range(400) if y[i] == 1)
        return loss + 1 - (2 * overlap + 1) / (p[1].sum() + (y == 1).sum() + 1)

    drawn = [score(np.array([rng.choice(3, p=p[:, i]) for i in range(400)])) for _ in range(100)]
    assert surprise(probs, labels, 1) == pytest.approx(np.log(score(labels) / np.mean(drawn)), abs=0.02)


def test_a_difficult_object_surprises_no_more_than_an_easy_one():
    rng = np.random.default_rng(0)
    found = {}
    for name, doubt in (("easy", 0.02), ("hard", 0.3)):
        inside = np.where(np.arange(3000) < 1000, 1 - doubt, doubt)
        labels = (rng.random(3000) < inside).astype(np.uint8)
        found[name] = [surprise(np.stack([1 - inside, inside]), labels, 1)]
        found[name].append(surprise(np.stack([1 - inside, inside]), 1 - labels, 1))
    assert all(abs(right) < 0.15 and wrong > 0.3 for right, wrong in found.values())


# ---------------------------------------------------------------- the filter


def test_the_filter_tells_bad_objects_from_good_ones_whatever_their_order():
    rng = np.random.default_rng(0)
    bad = np.arange(48) % 4 == 0
    scores = np.where(bad, rng.normal(1.2, 0.3, 48), rng.normal(-1, 0.3, 48))
    found = filter_scores(scores, np.ones(48, int), 3)
    assert found.fits["1"].split and found.reasons == (
        "background has no score",
        found.fits["1"].reason,
        found.reasons[2],
    )
    assert found.reasons[2] == "no case shows this class"
    assert ((found.noisy > 0.5) == bad).all()
    again = filter_scores(scores[::-1], np.ones(48, int), 3)
    np.testing.assert_array_equal(again.noisy[::-1], found.noisy)


@pytest.mark.parametrize("draw", ["normal", "gumbel"])
def test_of_clean_objects_over_95_percent_stay_clean_even_where_classes_are_pooled(draw):
    rng = np.random.default_rng(0)
    found = [filter_scores(getattr(rng, draw)(size=68), 1 + np.arange(68) % 2, 3, pool=True) for _ in range(40)]
    assert np.mean([(f.noisy <= 0.5).mean() for f in found]) > 0.95
    assert min((f.noisy <= 0.5).mean() for f in found) >= 0.2  # the lowest fifth, whatever the fit says
    if draw == "normal":
        assert not any(f.fits[POOLED].split for f in found)


def test_classes_with_too_few_objects_each_are_judged_together():
    alone, agreed = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        bad, classes = rng.random(68) < 0.38, 1 + np.arange(68) % 2
        scores = np.where(bad, rng.normal(1.06, 0.32, 68), rng.normal(0.36, 0.13, 68))
        apart, together = (filter_scores(scores, classes, 3, pool=pool) for pool in (False, True))
        alone.append(((apart.noisy > 0.5) == bad).mean())
        agreed.append(((together.noisy > 0.5) == bad).mean())
        assert (POOLED in together.fits) == (not all(fit.split for fit in apart.fits.values()))
    assert np.mean(agreed) > 0.9 > np.mean(alone)


def test_the_threshold_is_where_the_posterior_passes_what_tau_leaves():
    rng = np.random.default_rng(0)
    fit = filter_scores(np.concatenate([rng.normal(0, 1, 700), rng.normal(5, 1, 300)]), np.ones(1000, int), 2).fits["1"]
    for tau in (0.3, 0.5, 0.9):
        at = threshold_of(fit, tau)
        below, above = noisy_posterior({"1": fit}, np.array([at - 0.01, at + 0.01]), np.array([1, 1]))
        assert below <= 1 - tau < above
    assert threshold_of(filter_scores(np.zeros(30), np.ones(30, int), 2).fits["1"], 0.5) is None


def test_small_objects_are_not_noisy_for_being_small():
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 2000, 90)
    scores = size_free(20 / sizes**0.5 * rng.lognormal(0, 0.1, 90), sizes)
    assert (filter_scores(scores, np.ones(90, int), 2).noisy > 0.5).mean() < 0.1


# ---------------------------------------------------------------- cleansing


@pytest.mark.parametrize("with_prototype", [False, True])
def test_pseudo_labels_are_those_of_a_loop(with_prototype):
    rng = np.random.default_rng(0)
    probs, prototype = some_probs(rng, 3, (9, 11)), some_probs(rng, 3, (9, 11)) if with_prototype else None
    labels = rng.choice([0, 1, 2, IGNORE], (9, 11)).astype(np.uint8)
    concerned = rng.random((9, 11)) < 0.7
    found = cleanse(labels, fuse(probs, prototype), concerned, 0.7)
    for p in np.ndindex(9, 11):
        here = (slice(None), *p)
        fused = np.sqrt(probs[here] * (probs[here] if prototype is None else prototype[here]))
        fused /= fused.sum()
        best, own = int(fused.argmax()), int(labels[p])
        if own == IGNORE or best == own or not concerned[p]:
            assert found[p] == own
        else:
            assert found[p] == (best if fused.max() > 0.7 else IGNORE)


def test_a_clean_case_keeps_every_label():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, IGNORE], (9, 11)).astype(np.uint8)
    found = cleanse(labels, some_probs(rng, 3, (9, 11)), np.zeros((9, 11), bool), 0.5)
    assert found is not labels and (found == labels).all()


# ---------------------------------------------------------------- loss


def some_batch(rng: np.random.Generator):
    """Labels, pseudo labels and verified voxels of two patches, and logits for them."""
    labels, working = rng.integers(0, 2, (2, 2, 5, 6))
    labels[0, 0, :3], working[1, 1, :2] = IGNORE, IGNORE
    verified = torch.from_numpy(rng.random((2, 5, 6)) < 0.2) & torch.from_numpy(labels != IGNORE)
    working = torch.where(verified, torch.from_numpy(labels), torch.from_numpy(working))
    batch = SimpleNamespace(
        labels={"organ": torch.from_numpy(labels)}, working={"organ": working}, verified={"organ": verified},
        weight={"organ": (working != IGNORE).float()},
    )  # fmt: skip
    return batch, torch.from_numpy(rng.normal(size=(2, 2, 5, 6)))


def slow_loss(logits, labels, weights) -> tuple[float, float]:
    """Cross-entropy plus 1 - soft Dice of the weighted voxels, and the sum of the weights."""
    probs = logits.softmax(1).numpy()
    loss = total = overlap = size = 0.0
    for b, y, x in np.ndindex(labels.shape):
        k, w = int(labels[b, y, x]), float(weights[b, y, x])
        if k != IGNORE:
            loss, total = loss - w * np.log(probs[b, k, y, x]), total + w
            overlap, size = overlap + w * (k == 1) * probs[b, 1, y, x], size + w * ((k == 1) + probs[b, 1, y, x])
    return loss / total + 1 - (2 * overlap + 1) / (size + 1), total


def test_the_joint_loss_counts_pseudo_labels_by_the_ramp_and_verified_voxels_fully():
    batch, logits = some_batch(np.random.default_rng(0))
    labels, working, verified = batch.labels["organ"], batch.working["organ"], batch.verified["organ"]
    weights = torch.where((working != labels) & ~verified, 0.3, 1.0)
    assert float(joint_loss(logits, batch, "organ", 0.3, 1.0)) == pytest.approx(
        slow_loss(logits, working, weights)[0], rel=1e-5
    )


def test_the_soft_loss_shares_each_voxel_between_its_label_and_its_pseudo_label():
    rng = np.random.default_rng(0)
    batch, logits = some_batch(rng)
    clean = torch.from_numpy(rng.random((2, 5, 6)))
    w = torch.where(batch.verified["organ"], 1.0, clean)
    by_label, n_label = slow_loss(logits, batch.labels["organ"], w)
    by_pseudo, n_pseudo = slow_loss(logits, batch.working["organ"], 0.3 * (1 - w))
    wanted = (by_label * n_label + by_pseudo * n_pseudo) / (n_label + n_pseudo)
    assert float(soft_loss(logits, batch, "organ", clean, 0.3, 1.0)) == pytest.approx(wanted, rel=1e-5)


def test_the_soft_loss_of_labels_that_are_surely_clean_is_that_of_plain_training():
    batch, logits = some_batch(np.random.default_rng(0))
    plain = slow_loss(logits, batch.labels["organ"], torch.ones((2, 5, 6)))[0]
    assert float(soft_loss(logits, batch, "organ", torch.ones((2, 5, 6)), 1.0, 1.0)) == pytest.approx(plain, rel=1e-5)


# ---------------------------------------------------------------- the score of a voxel


def test_a_witness_for_a_clean_object_divides_the_odds_of_an_error_by_twenty():
    p = np.array([[0.001, 0.2, 0.7], [0.99, 0.5, 1.0]])
    one, two = np.array([[0.0, 0.5, 1.0], [0.0, 1.0, 0.0]]), np.ones((2, 3))
    odds = np.exp(-3 * (1 - one)) * (1 - p) / p
    np.testing.assert_allclose(wrong_nats(-np.log(p), [one, two]), -np.log(1 / (1 + odds)), rtol=1e-5)
    np.testing.assert_allclose(wrong_nats(-np.log(p), []), -np.log(p), rtol=1e-6, atol=1e-7)
    assert np.exp(3) == pytest.approx(20, abs=0.1)
