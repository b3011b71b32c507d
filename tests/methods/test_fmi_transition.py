from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_noisylabel.arrays.noise_flips import asymmetric_matrix, flipped
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.errors import BadSetting
from napari_noisylabel.inner import Curve, Matrix, Note, from_json, to_json
from napari_noisylabel.methods import fmi_transition, method_info
from napari_noisylabel.methods.base import Batch, Evidence, Prediction
from napari_noisylabel.methods.cross_entropy import CrossEntropy
from napari_noisylabel.methods.fmi_estimate import estimate
from napari_noisylabel.methods.fmi_transition import FmiTransition, true_class
from napari_noisylabel.records import IGNORE, Track

THREE = Track("organ", ("background", "left", "right"), (0, 1, 2))
T = np.array([[0.9, 0.06, 0.04], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7]], np.float32)


def fold(
    n: int = 8, rate: float = 0.25, shape: tuple[int, ...] = (40, 56), seed: int = 0, **fields: object
) -> SimpleNamespace:
    """As much of a run as an estimate wants: phantoms with class-dependent flips, and their `truth`."""
    matrix, labels, truth, images = asymmetric_matrix(3, rate, 0.4, 0.4), {}, {}, {}
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        images[str(i)], truth[str(i)] = phantom(shape, (1.0,) * len(shape), 3, rng, noise=0.3)
        labels[str(i)] = {"organ": flipped(truth[str(i)].astype(int), matrix, rng).astype(np.uint8)}
    own = {
        "epoch": 0, "epochs": 10, "tracks": (THREE,), "case_ids": tuple(labels), "groups": {c: c for c in labels},
        "spacing": dict.fromkeys(labels, (1.0,) * len(shape)), "labels": labels, "truth": truth, "matrix": matrix,
        "verified": {c: {"organ": None} for c in labels}, "image": images.__getitem__,
        "rng": np.random.default_rng(seed), "device": torch.device("cpu"),
    }  # fmt: skip
    return SimpleNamespace(**(own | fields))


def started(run: SimpleNamespace, **settings: object) -> FmiTransition:
    method = FmiTransition(**{"repeats": 0, "rounds": 2, **settings})
    method.on_epoch_start(run)
    return method


def shown(method: FmiTransition) -> dict[str, object]:
    return {item.name: item for item in method.inner()}


# ---------------------------------------------------------------- the estimate in a fold


@pytest.mark.parametrize("shape", [(40, 56), (10, 28, 36)], ids=["2-D", "3-D"])
def test_on_images_the_matrix_is_nearer_to_the_true_one_than_counting(shape):
    run = fold(shape=shape)
    items = shown(started(run, rounds=4))
    found = np.array(items["transition matrix of organ"].values)
    counted = np.array(items["disagreements of neighbours, counted, organ"].values)
    error, plain = (np.abs(m - run.matrix).sum() / 3 for m in (found, counted))
    assert error < 0.2 and error < 0.5 * plain


def test_the_matrix_is_shown_with_its_standard_errors_and_survives_the_journal():
    method = started(fold(), repeats=4)
    items = method.inner()
    assert from_json(to_json(items)) == items
    matrix = shown(method)["transition matrix of organ"]
    assert isinstance(matrix, Matrix) and np.shape(matrix.spread) == (3, 3) and np.min(matrix.spread) >= 0
    assert np.max(matrix.spread) > 0 and np.sum(matrix.values, axis=1) == pytest.approx(1)
    weights = shown(method)["weights of features, organ"]
    assert weights.values[0][0] == pytest.approx(1) and weights.columns == ("weight", "f-mutual information")
    agreed = shown(method)["nearest neighbours with the same label, organ"]
    assert isinstance(agreed, Curve) and 0 < agreed.values["weighted"] <= 1
    assert "frequencies of organ" in shown(method) and "fit of organ" in shown(method)


def test_frequencies_of_true_classes_are_nearer_to_the_truth_than_those_of_labels():
    run = fold()
    given, true, _ = np.array(shown(started(run, rounds=4))["frequencies of organ"].values)
    real = np.bincount(np.concatenate([t.ravel() for t in run.truth.values()]), minlength=3) / 8 / 40 / 56
    assert np.abs(true - real).sum() < 0.5 * np.abs(given - real).sum()


def test_it_is_estimated_once_and_a_resumed_run_takes_it_from_its_state():
    run = fold()
    first = started(run)
    again = FmiTransition()
    again.load_state_dict(first.state_dict())
    before = run.rng.bit_generator.state
    again.on_epoch_start(run)
    assert run.rng.bit_generator.state == before
    assert again.state_dict()["matrices"]["organ"].tobytes() == first.state_dict()["matrices"]["organ"].tobytes()
    assert again.inner()[:-1] == first.inner()[:-1]


def test_verified_and_ignored_voxels_are_no_examples_of_noise():
    run = fold()
    for case, labels in run.labels.items():
        mask = np.zeros(labels["organ"].shape, bool)
        mask[:20] = True
        run.verified[case]["organ"] = mask
        labels["organ"][mask] = run.truth[case][mask]
        labels["organ"][30:] = IGNORE
    method = FmiTransition()
    sample = method._samples(run, np.random.default_rng(0))["organ"]
    row = sample.features[:, method_names().index("position y")]
    inside = (row + 1) / 2 * 40
    assert (inside > 20).all() and (inside < 30).all() and sample.labels.max() < 3


def method_names() -> tuple[str, ...]:
    from napari_noisylabel.methods.fmi_features import feature_names

    return feature_names(1, 2)


def test_slices_of_one_person_are_not_asked_about_each_other():
    run = fold(n=8, groups={str(i): "abcd"[i // 2] for i in range(8)})
    sample = FmiTransition()._samples(run, np.random.default_rng(0))["organ"]
    assert len(np.unique(sample.cases)) == 4
    run = fold(n=3, groups={"0": "a", "1": "a", "2": "b"})  # two persons: then other cases must do
    assert len(np.unique(FmiTransition()._samples(run, np.random.default_rng(0))["organ"].cases)) == 3


def test_features_of_the_network_are_those_of_this_fold_and_taken_once_it_has_learnt_something():
    asked = []

    def predict(features: bool):
        asked.append(features)
        for case in run.case_ids:
            planes = np.stack([run.truth[case][::2, ::2] == k for k in range(3)]).astype(np.float16)
            planes += np.random.default_rng(0).normal(0, 0.1, planes.shape).astype(np.float16)
            yield Prediction(case, {}, planes)

    run = fold(predict=predict)
    method = started(run, features_from="network", wait=0.3)
    assert not asked and "not estimated yet" in method.inner()[0].text
    run.epoch = 3
    method.on_epoch_start(run)
    found = np.array(shown(method)["transition matrix of organ"].values)
    assert asked == [True] and np.abs(found - run.matrix).sum() / 3 < 0.2
    assert shown(method)["weights of features, organ"].rows[0].startswith("channel ")


# ---------------------------------------------------------------- what cannot be used


def notes_of(method: FmiTransition) -> str:
    return " ".join(item.text for item in method.inner() if isinstance(item, Note))


def test_one_case_is_learnt_as_it_is_and_a_note_says_why():
    method = started(fold(n=1))
    assert "labels are learnt as they are, because neighbours must come from other cases" in notes_of(method)
    assert not method.state_dict()["matrices"]


def test_images_with_one_value_say_so():
    run = fold(n=4)
    run.image = lambda case: np.zeros((1, 40, 56), np.float16)
    method = started(run)
    assert "feature 'intensity' has one value everywhere and is left out" in notes_of(method)


def test_labels_that_mean_nothing_are_learnt_as_they_are_and_a_note_says_so():
    run = fold(n=6)
    rng = np.random.default_rng(0)
    for labels in run.labels.values():
        labels["organ"][...] = rng.integers(0, 3, labels["organ"].shape)
    method = started(run)
    assert "as they are, because the features must say something about the labels" in notes_of(method)
    assert not method.state_dict()["matrices"]


def test_a_singular_matrix_is_shown_and_not_used(monkeypatch):
    def singular(*args):
        return replace(estimate(*args), matrix=np.array([[0.9, 0.05, 0.05], [0.1, 0.46, 0.44], [0.1, 0.45, 0.45]]))

    monkeypatch.setattr(fmi_transition, "estimate", singular)
    method = started(fold(n=4))
    assert "learnt as they are, because a transition matrix must tell classes apart" in notes_of(method)
    assert "transition matrix of organ" in shown(method) and not method.state_dict()["matrices"]


def test_presets_and_settings_are_those_that_are_documented():
    info = method_info("fmi-transition")
    released = info.check({"preset": "as-released"})
    assert (released.keep, released.label_bins, released.solver, released.neighbours) == ("last", 2, "adam", "any")
    assert info.check({"preset": "paper"}).keep == "best"
    for wrong in ({"pure": 0}, {"weights": "js"}, {"voxels": 10}):
        with pytest.raises(BadSetting, match=f"setting '{next(iter(wrong))}' of method 'fmi-transition' is not usable"):
            info.check(wrong)


# ---------------------------------------------------------------- the loss


class FixedLogits(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        planes = np.random.default_rng(0).normal(0, 2, (2, 3, 6, 9))
        self.planes = torch.nn.Parameter(torch.from_numpy(planes).float())

    def forward(self, images):
        return SimpleNamespace(logits={"organ": self.planes[: len(images)]})


def some_batch() -> Batch:
    rng = np.random.default_rng(1)
    labels = torch.from_numpy(rng.choice([0, 1, 2, IGNORE], (2, 6, 9)))
    verified = torch.from_numpy(rng.random((2, 6, 9)) < 0.3) & (labels != IGNORE)
    return Batch(
        torch.zeros(2, 1, 6, 9), {"organ": labels}, {"organ": labels.clone()}, {"organ": verified},
        {"organ": (labels != IGNORE).float()}, ("a", "b"), torch.zeros(2, 4), ("", ""),
    )  # fmt: skip


def with_matrix(matrix: np.ndarray, **settings: object) -> FmiTransition:
    method = FmiTransition(**settings)
    method.load_state_dict({"matrices": {"organ": matrix}, "shown": {"organ": to_json([Note("a", "b")])}})
    return method


def run_of() -> SimpleNamespace:
    return SimpleNamespace(networks=[FixedLogits()], tracks=(THREE,))


def test_the_loss_is_the_cross_entropy_of_the_label_seen_through_the_matrix_voxel_by_voxel():
    batch, run = some_batch(), run_of()
    found = with_matrix(T, dice_weight=0.0).loss(run, batch)
    p = run.networks[0].planes.detach().softmax(1).numpy()
    losses = []
    for b, y, x in np.ndindex(2, 6, 9):
        k, here = int(batch.labels["organ"][b, y, x]), p[b, :, y, x]
        if k != IGNORE:
            losses.append(-np.log(here[k] if batch.verified["organ"][b, y, x] else (here @ T)[k]))
    assert float(found.detach()) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
def test_without_a_matrix_it_is_cross_entropy_to_the_last_bit_and_with_the_identity_nearly(dice_weight):
    batch, run = some_batch(), run_of()
    plain = CrossEntropy(dice_weight).loss(run, batch)
    assert torch.equal(FmiTransition(dice_weight=dice_weight).loss(run, batch), plain)
    through = with_matrix(np.eye(3, dtype=np.float32), dice_weight=dice_weight).loss(run, batch)
    assert float(through.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)


def test_the_true_matrix_makes_the_true_probabilities_the_best_answer_to_noisy_labels():
    """Forward correction: the gradient of the expected loss vanishes at the clean posterior."""
    clean = torch.tensor([0.7, 0.2, 0.1])
    logits = clean.log().requires_grad_()
    t = torch.from_numpy(T)
    expected = -((clean @ t) * (logits.softmax(0) @ t).log()).sum()
    expected.backward()
    assert logits.grad.abs().max() < 1e-6


def test_the_share_of_wrong_labels_is_counted_over_voxels_nobody_verified():
    batch, run, method = some_batch(), run_of(), with_matrix(T)
    method.loss(run, batch)
    p, wrong = run.networks[0].planes.detach().softmax(1).numpy(), []
    for b, y, x in np.ndindex(2, 6, 9):
        k, here = int(batch.labels["organ"][b, y, x]), p[b, :, y, x]
        if k != IGNORE and not batch.verified["organ"][b, y, x]:
            wrong.append(1 - here[k] * T[k, k] / (here @ T)[k])
    assert method.inner()[-1].values["organ"] == pytest.approx(np.mean(wrong), rel=1e-4)


# ---------------------------------------------------------------- scoring


def evidence() -> Evidence:
    rng = np.random.default_rng(2)
    probs = rng.dirichlet([0.5] * 3, (7, 9)).transpose(2, 0, 1).astype(np.float16)
    return Evidence("a", THREE, probs, rng.choice([0, 1, 2, IGNORE], (7, 9)).astype(np.uint8), (1.0, 1.0))


def test_the_proposal_is_the_most_probable_true_class_and_the_likelihood_its_doubt_of_the_label():
    case, method = evidence(), with_matrix(T, likelihood="posterior")
    proposal, doubt = method.propose(case), method.noise_likelihood(case)
    for at in np.ndindex(7, 9):
        j, here = int(case.labels[at]), case.probs[(slice(None), *at)].astype(float)
        if j == IGNORE:
            assert proposal[at] == here.argmax() and doubt[at] == 0
            continue
        posterior = here * T[:, j] / (here @ T[:, j])
        assert proposal[at] == posterior.argmax()
        assert doubt[at] == pytest.approx(1 - posterior[j], abs=1e-3)
    np.testing.assert_array_equal(method.maps(case)["posterior"], doubt)


def test_a_voxel_that_all_classes_could_explain_keeps_its_label_if_the_matrix_trusts_it():
    even = np.full((3, 1), 1 / 3, np.float16)
    for k in range(3):
        assert true_class(even, np.array([k]), T).tolist() == [k]


def test_without_a_matrix_proposals_are_the_networks_and_labels_are_never_doubted():
    case, method = evidence(), FmiTransition()
    np.testing.assert_array_equal(method.propose(case), case.probs.argmax(0))
    assert method.noise_likelihood(case) is None and method.maps(case)["posterior"].max() < 1e-6
