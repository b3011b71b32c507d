from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from napari_noisylabel.arrays.metrics import auroc, dice
from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.data import CaseArrays, prepare
from napari_noisylabel.engine.fold import Fold, FoldSpec
from napari_noisylabel.engine.patches import PatchPlan
from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.engine.spec import RunSpec
from napari_noisylabel.engine.train import train
from napari_noisylabel.methods.self_cleansing import (
    SelfCleansing,
    cleanse,
    filter_cases,
    joint_loss,
    prototype_probs,
    score_case,
)
from napari_noisylabel.records import IGNORE, Track

TRACK = Track("organ", ("background", "organ"), (0, 1))


def some_probs(rng: np.random.Generator, n_classes: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(rng.dirichlet(np.ones(n_classes) * 0.5, shape), -1, 0)


# ---------------------------------------------------------------- formulas, a second and slow way


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


def test_prototypes_are_compared_by_their_cosine():
    rng = np.random.default_rng(0)
    features, prototypes = rng.normal(size=(5, 3, 4)), rng.normal(size=(3, 5))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    found = prototype_probs(features, prototypes, 0.1)
    for p in np.ndindex(3, 4):
        f = features[(slice(None), *p)]
        e = [np.exp(f @ m / np.linalg.norm(f) / 0.1) for m in prototypes]
        np.testing.assert_allclose(found[(slice(None), *p)], np.array(e) / sum(e), rtol=1e-4)


@pytest.mark.parametrize("with_prototype", [False, True])
def test_pseudo_labels_are_those_of_a_loop(with_prototype):
    rng = np.random.default_rng(0)
    probs, prototype = some_probs(rng, 3, (9, 11)), some_probs(rng, 3, (9, 11)) if with_prototype else None
    labels = rng.choice([0, 1, 2, IGNORE], (9, 11)).astype(np.uint8)
    noisy = np.array([False, False, True])
    found = cleanse(labels, probs, prototype, noisy, 0.7)
    for p in np.ndindex(9, 11):
        here = (slice(None), *p)
        fused = np.sqrt(probs[here] * (probs[here] if prototype is None else prototype[here]))
        fused /= fused.sum()
        best, own = int(fused.argmax()), int(labels[p])
        if own == IGNORE or best == own or 2 not in (own, best):
            assert found[p] == own
        else:
            assert found[p] == (best if fused.max() > 0.7 else IGNORE)


def test_a_case_without_a_noisy_class_keeps_every_label():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, IGNORE], (9, 11)).astype(np.uint8)
    found = cleanse(labels, some_probs(rng, 3, (9, 11)), None, np.zeros(3, bool), 0.5)
    assert found is not labels and (found == labels).all()


def test_the_joint_loss_counts_pseudo_labels_by_the_ramp_and_verified_voxels_fully():
    rng = np.random.default_rng(0)
    labels, working = rng.integers(0, 2, (2, 2, 5, 6))
    labels[0, 0, :3], working[1, 1, :2] = IGNORE, IGNORE
    verified = torch.from_numpy(rng.random((2, 5, 6)) < 0.2)
    working = torch.where(verified, torch.from_numpy(labels), torch.from_numpy(working))
    logits = torch.from_numpy(rng.normal(size=(2, 2, 5, 6)))
    batch = SimpleNamespace(
        labels={"organ": torch.from_numpy(labels)}, working={"organ": working}, verified={"organ": verified},
        weight={"organ": (working != IGNORE).float()},
    )  # fmt: skip
    found = joint_loss(logits, batch, "organ", 0.3, 1.0)

    probs = logits.softmax(1).numpy()
    loss = weights = overlap = size = 0.0
    for b, y, x in np.ndindex(2, 5, 6):
        k = int(working[b, y, x])
        if k == IGNORE:
            continue
        w = 0.3 if k != labels[b, y, x] and not verified[b, y, x] else 1.0
        loss, weights = loss - w * np.log(probs[b, k, y, x]), weights + w
        overlap, size = overlap + w * (k == 1) * probs[b, 1, y, x], size + w * ((k == 1) + probs[b, 1, y, x])
    assert float(found) == pytest.approx(loss / weights + 1 - (2 * overlap + 1) / (size + 1), rel=1e-5)


# ---------------------------------------------------------------- the filter


def test_the_filter_tells_bad_cases_from_good_ones_whatever_their_order():
    rng = np.random.default_rng(0)
    bad = {f"c{i:02}": i % 4 == 0 for i in range(48)}
    scores = {c: np.array([np.nan, rng.lognormal(1.2 if b else -1.0, 0.3), np.nan]) for c, b in bad.items()}
    sizes = {c: np.array([9, int(rng.integers(50, 500)), 0]) for c in bad}
    found = filter_cases(scores, sizes)
    assert found.split == (False, True, False) and found.reasons[2] == "no case shows this class"
    assert [found.weights[c][1] < 0.5 for c in bad] == list(bad.values())
    assert all(np.isnan(w[2]) for w in found.weights.values())
    again = filter_cases({c: scores[c] for c in reversed(scores)}, sizes)
    assert all(again.weights[c][1] == pytest.approx(w[1]) for c, w in found.weights.items())


def test_without_two_humps_all_cases_are_clean():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = {str(i): np.array([np.nan, rng.lognormal(-1, 0.4)]) for i in range(40)}
        found = filter_cases(scores, {c: np.array([0, 100]) for c in scores})
        assert not found.split[1] and all(w[1] == 1 for w in found.weights.values())


def test_small_objects_are_not_noisy_for_being_small():
    rng = np.random.default_rng(0)
    sizes = {str(i): np.array([0, int(n)]) for i, n in enumerate(rng.integers(20, 2000, 90))}
    scores = {c: np.array([np.nan, 20 / n[1] ** 0.5 * rng.lognormal(0, 0.1)]) for c, n in sizes.items()}
    found = filter_cases(scores, sizes)
    assert np.mean([w[1] < 0.5 for w in found.weights.values()]) < 0.1


# ---------------------------------------------------------------- the whole method, on ellipses


def ellipses(noise: str, n: int = 30, share: float = 0.4) -> tuple[list[CaseArrays], list[np.ndarray], list[bool]]:
    """Pictures of one ellipse whose masks are spoiled in every so many cases; and the truth."""
    cases, truths, spoiled = [], [], []
    for i in range(n):
        rng = np.random.default_rng([7, i])
        image, truth = phantom((32, 40), (1.2, 1.0), 2, rng, noise=0.3)
        bad = i % 5 < 5 * share
        labels = corrupt(truth, noise, 1.0, rng, (1.2, 1.0)).labels if bad else truth
        cases.append(CaseArrays(f"{i:02}", f"{i:02}", False, (1.2, 1.0), image, {"organ": labels}, {}))
        truths.append(truth)
        spoiled.append(bad)
    return cases, truths, spoiled


def trained_fold(folder, cases, method, epochs: int) -> Fold:
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    torch.set_num_threads(1)
    engine = EngineSettings(precision="32-true", lr=5e-3, ema=0.9)
    spec = FoldSpec((TRACK,), PatchPlan(2, (1, 32, 40), 0, 0, 6, 10, False), engine, 1, 0, epochs, fabric)
    fold = Fold(spec, 0, [prepare(c, (TRACK,), folder / c.id, 0) for c in cases], method)
    fold.start()
    for fold.epoch in range(epochs):
        method.on_epoch_start(fold)
        for step in range(10):
            fold.step(step)
    return fold


@pytest.mark.parametrize("noise", ["boundary", "missing"])
def test_spoiled_ellipses_are_found_and_repaired_and_clean_ones_kept(tmp_path, noise):
    cases, truths, spoiled = ellipses(noise)
    fold = trained_fold(tmp_path, cases, SelfCleansing(warmup=0.5, refresh=1), epochs=8)

    scores, sizes = {}, {}
    for p in fold.predict():
        labels = fold.labels[p.case]["organ"]
        scores[p.case] = score_case(p.probs["organ"], labels, (1.2, 1.0))
        sizes[p.case] = np.bincount(p.probs["organ"].argmax(0).ravel(), minlength=2)
    clean = np.array([w[1] for w in filter_cases(scores, sizes).weights.values()])
    assert auroc(1 - clean, np.array(spoiled)) > 0.85

    working = [fold.working_labels[c.id]["organ"] for c in cases]
    changed = [(w != c.labels["organ"]).any() for w, c in zip(working, cases, strict=True)]
    assert np.mean(np.array(changed)[np.array(spoiled)]) > 0.7
    pseudo = [(dice(w == 1, t == 1), dice(c.labels["organ"] == 1, t == 1))
              for w, c, t, hit in zip(working, cases, truths, changed, strict=True) if hit]  # fmt: skip
    assert np.mean([a for a, _ in pseudo]) > np.mean([b for _, b in pseudo]) + 0.05
    untouched = [w for w, c, hit in zip(working, cases, changed, strict=True) if not hit]
    assert len(untouched) >= 12


@pytest.mark.slow
def test_it_beats_plain_cross_entropy_on_a_phantom_with_known_noise(tmp_path):
    cases, truths, _ = ellipses("missing", n=40, share=0.6)
    found = {}
    for method in ("cross-entropy", "self-cleansing"):
        engine = {"steps": 12, "batch": 6, "precision": "32-true", "threads": 1, "lr": 5e-3}
        spec = RunSpec("run-001", method, {}, engine, seed=0, folds=2, epochs=12, device="cpu")
        list(train(spec, cases, (TRACK,), tmp_path / method))
        proposals = [CaseScores(tmp_path / method, c.id).read("organ.proposal") for c in cases]
        found[method] = np.mean([dice(p == 1, t == 1) for p, t in zip(proposals, truths, strict=True)])
    assert found["self-cleansing"] > found["cross-entropy"]
