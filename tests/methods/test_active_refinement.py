from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_noisylabel.errors import BadSetting
from napari_noisylabel.inner import Curve, Mixtures, from_json, to_json
from napari_noisylabel.methods import active_refinement_formulas as formulas
from napari_noisylabel.methods import method_info
from napari_noisylabel.methods.active_refinement import REFINE, ActiveRefinement
from napari_noisylabel.methods.base import Batch, Evidence
from napari_noisylabel.methods.cross_entropy import CrossEntropy
from napari_noisylabel.methods.peer_units import case_units, cut_units
from napari_noisylabel.records import IGNORE, Track

THREE = Track("organ", ("background", "left", "right"), (0, 1, 2))
SHAPE, FEATURES = (12, 18), 5


class FixedNetwork(torch.nn.Module):
    """A "network" of one logit per voxel and class, and of fixed features."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.planes = torch.nn.Parameter(torch.from_numpy(rng.normal(0, 2, (2, 3, *SHAPE))).float())
        self.features = torch.from_numpy(rng.normal(0, 1, (2, FEATURES, *SHAPE))).float()

    def forward(self, images):
        return SimpleNamespace(logits={"organ": self.planes * 1.0}, features=self.features)


class SomeRun(SimpleNamespace):
    """As much of a fold as the method wants: two cases, each as large as a patch."""

    def attach(self, name, case, track, values):
        self.maps[name, case, track] = np.asarray(values, np.float16)


def some_run(method: ActiveRefinement, epochs: int = 10) -> tuple[SomeRun, Batch]:
    rng = np.random.default_rng(0)
    labels = {c: rng.choice([0, 0, 1, 2, IGNORE], SHAPE, p=[0.3, 0.3, 0.2, 0.15, 0.05]).astype(np.uint8) for c in "ab"}
    verified = {"a": rng.random(SHAPE) < 0.2, "b": None}
    run = SomeRun(
        epoch=0, epochs=epochs, tracks=(THREE,), case_ids=("a", "b"), device=torch.device("cpu"), maps={},
        labels={c: {"organ": v} for c, v in labels.items()}, verified={c: {"organ": v} for c, v in verified.items()},
        spacing={c: (1.5, 1.0) for c in "ab"}, networks=[FixedNetwork(1), FixedNetwork(2)],
        stage=method.stages(epochs)[0], first_epoch_of_stage=True, rng=rng,
    )  # fmt: skip
    method.on_run_start(run)
    known = torch.from_numpy(np.stack([labels[c] for c in "ab"])).long()
    seen = torch.from_numpy(np.stack([verified["a"], np.zeros(SHAPE, bool)])) & (known != IGNORE)
    units = torch.from_numpy(np.stack([run.maps["unit", c, "organ"] for c in "ab"])).float()
    batch = Batch(
        torch.zeros(2, 1, *SHAPE), {"organ": known}, {"organ": known.clone()}, {"organ": seen},
        {"organ": (known != IGNORE).float()}, ("a", "b"), torch.zeros(2, 4), ("", ""), {"unit": {"organ": units}},
    )  # fmt: skip
    return run, batch


def to_epoch(method: ActiveRefinement, run: SomeRun, batch: Batch, epoch: int) -> None:
    """Through whole epochs of one batch, up to the start of `epoch`."""
    for run.epoch in range(epoch + 1):
        stages = method.stages(run.epochs)
        run.stage = stages[0] if run.epoch < stages[0].epochs else stages[-1]
        run.first_epoch_of_stage = run.epoch in (0, stages[0].epochs)
        method.on_epoch_start(run)
        if run.epoch < epoch:
            method.loss(run, batch)
            method.on_epoch_end(run)
            for network in run.networks:
                network.planes.data += 0.3 * torch.randn_like(network.planes)


# ---------------------------------------------------------------- units


def test_units_have_one_label_and_leave_out_what_is_settled_or_ignored():
    rng = np.random.default_rng(0)
    labels, settled = rng.choice([0, 1, IGNORE], (9, 14, 11)).astype(np.uint8), rng.random((9, 14, 11)) < 0.2
    units, classes = cut_units(labels, settled, (3.0, 1.0, 1.0), 4.0, 2000)
    assert ((units == 0) == (settled | (labels == IGNORE))).all()
    for number in range(1, len(classes)):
        where = np.argwhere(units == number)
        assert (labels[units == number] == classes[number]).all()
        assert (np.ptp(where, 0) * (3, 1, 1) <= 4).all()


def test_units_grow_where_there_would_be_too_many():
    labels = np.random.default_rng(0).choice(3, (40, 40)).astype(np.uint8)
    units, classes = cut_units(labels, np.zeros((40, 40), bool), (1.0, 1.0), 1.0, 100)
    assert 10 < len(classes) - 1 <= 100 and units.max() == len(classes) - 1


def test_a_structure_of_a_case_is_one_unit_and_background_none():
    units, classes = case_units(np.array([[0, 2, IGNORE, 1]], np.uint8), np.zeros((1, 4), bool), 3)
    assert units.tolist() == [[0, 2, 0, 1]] and classes.tolist() == [-1, 1, 2]


# ---------------------------------------------------------------- the peers


def test_while_nothing_is_forgotten_each_peer_learns_by_cross_entropy_to_the_last_bit():
    method = ActiveRefinement()
    run, batch = some_run(method)
    method.on_epoch_start(run)
    method.loss(run, batch).backward()
    for network in run.networks:
        found = network.planes.grad.clone()
        network.planes.grad = None
        CrossEntropy(1.0).loss(SimpleNamespace(networks=[network], tracks=(THREE,)), batch).backward()
        assert torch.equal(found, network.planes.grad)


def test_each_peer_is_taught_what_the_other_one_chose():
    method = ActiveRefinement(dice_weight=0.0, share=0.0, forget=0.4)
    run, batch = some_run(method)
    to_epoch(method, run, batch, 5)
    method.loss(run, batch).backward()

    units, own = batch.extra["unit"]["organ"].long(), method._records["organ"]
    index = torch.where(units > 0, units + torch.tensor([0, own._first["b"]])[:, None, None], 0)
    for taught, chooser in ((0, 1), (1, 0)):
        loss = torch.nn.functional.cross_entropy(
            run.networks[chooser].planes.detach(), batch.labels["organ"], reduction="none", ignore_index=IGNORE
        )
        means = torch.stack([loss[index == u].mean() for u in range(1, len(own.classes))])
        kept = formulas.choose(means, means * 0, own.classes[1:], 0.4, 0.0, True, 1.0)
        learnt = run.networks[taught].planes.grad.abs().sum(1) > 0
        expected = torch.cat([torch.tensor([True]), kept])[index] & (batch.labels["organ"] != IGNORE)
        assert torch.equal(learnt, expected) and not kept.all()


def test_verified_voxels_always_train_and_ignored_ones_never():
    method = ActiveRefinement(dice_weight=0.0, forget=0.9)
    run, batch = some_run(method)
    to_epoch(method, run, batch, 6)
    method.loss(run, batch).backward()
    learnt = run.networks[0].planes.grad.abs().sum(1) > 0
    assert learnt[batch.verified["organ"]].all() and not learnt[batch.labels["organ"] == IGNORE].any()
    assert not learnt.all()


def test_the_gradients_of_a_unit_are_the_mean_over_its_voxels():
    method = ActiveRefinement(memory=2)
    run, batch = some_run(method)
    method.on_epoch_start(run)
    method.loss(run, batch)
    method.on_epoch_end(run)
    own, units = method._records["organ"], batch.extra["unit"]["organ"].long()
    logits, features = run.networks[1].planes.detach(), run.networks[1].features
    for number in (1, 3, 8):
        where = units[1] == number
        p = logits[1].softmax(0)[:, where].gather(0, batch.labels["organ"][1][where][None])[0]
        slow = formulas.given_gradients(p, features[1][:, where].T).mean(0)
        row = own._first["b"] + number
        assert torch.allclose(own.history[1, -1, row], slow, atol=1e-5)
        assert float(own.loss[1, row]) == pytest.approx(float(-p.log().mean()), rel=1e-4)


def test_variances_count_once_enough_epochs_are_known():
    method = ActiveRefinement(memory=3)
    run, batch = some_run(method)
    to_epoch(method, run, batch, 2)
    assert method._records["organ"].vog.isinf().all()
    to_epoch(method, run, batch, 3)
    assert method._records["organ"].vog[:, 1:].isfinite().all()


def test_whole_cases_are_ranked_among_all_cases_of_the_fold():
    method = ActiveRefinement(unit="case", forget=0.5, share=0.0)
    run, batch = some_run(method)
    to_epoch(method, run, batch, 5)
    own = method._records["organ"]
    assert own.classes.tolist() == [-1, 1, 2, 1, 2]
    method.loss(run, batch)
    proposed = own._votes[0, 1:].reshape(2, 2)
    assert proposed.sum(0).tolist() == [1, 1]  # of each structure the better case


def test_in_the_second_stage_the_first_network_learns_what_was_judged_clean():
    method = ActiveRefinement(forget=0.4, refine=0.3, dice_weight=0.0)
    run, batch = some_run(method)
    to_epoch(method, run, batch, 7)
    assert run.stage.name == REFINE and run.stage.networks == (0,)
    method.loss(run, batch).backward()
    clean = method._clean["organ"]
    units = batch.extra["unit"]["organ"].long()
    index = torch.where(units > 0, units + torch.tensor([0, method._records["organ"]._first["b"]])[:, None, None], 0)
    learnt = run.networks[0].planes.grad.abs().sum(1) > 0
    assert torch.equal(learnt, clean[index] & (batch.labels["organ"] != IGNORE))
    assert run.networks[1].planes.grad is None and not clean.all()


def test_clean_by_vote_needs_most_votes_and_of_the_last_epoch_one_of_the_first_peer():
    method = ActiveRefinement(memory=2)
    run, _ = some_run(method)
    own = method._records["organ"]
    own.asked[:, 1:4] = 1
    own.votes[:, :, 1], own.votes[1, 0, 2], own.votes[:, 1, 3] = 1, 1, 1
    assert own.clean("vote")[:5].tolist() == [True, True, False, False, True]  # the last was never asked about
    assert own.clean("last")[:4].tolist() == [True, True, True, False]


# ---------------------------------------------------------------- scoring and display


def some_evidence(**fields) -> Evidence:
    rng = np.random.default_rng(1)
    probs = rng.dirichlet([1, 1, 1], SHAPE).transpose(2, 0, 1).astype(np.float16)
    labels = rng.choice([0, 1, 2, IGNORE], SHAPE).astype(np.uint8)
    return Evidence("a", THREE, probs, labels, (1.5, 1.0), **fields)


def test_the_likelihood_by_rank_is_one_value_per_unit_and_0_where_ignored():
    method = ActiveRefinement(likelihood="rank")
    run, batch = some_run(method)
    to_epoch(method, run, batch, 3)
    evidence = some_evidence()
    likelihood = method.noise_likelihood(evidence)
    units, classes = cut_units(evidence.labels, np.zeros(SHAPE, bool), (1.5, 1.0), method.unit_mm, 2000)
    assert (likelihood[evidence.labels == IGNORE] == 0).all() and 0 <= likelihood.min() < likelihood.max() <= 1
    for number in range(1, len(classes)):
        assert np.ptp(likelihood[units == number]) < 1e-6


def test_without_a_forget_rate_it_is_estimated_from_what_both_peers_doubt():
    method = ActiveRefinement(memory=2)
    run, batch = some_run(method)
    to_epoch(method, run, batch, 4)
    own = method._records["organ"]
    foreground = own.classes > 0
    expected = formulas.estimated_rate(own.p_given.mean(0)[foreground], own.voxels[foreground])
    assert method._rate["organ"] == pytest.approx(expected)


def test_by_default_the_likelihood_is_what_all_networks_reject():
    assert ActiveRefinement().noise_likelihood(some_evidence()) is None


def test_the_disagreement_of_passes_is_a_map_in_units_of_the_most_possible():
    method = ActiveRefinement()
    assert method.maps(some_evidence()) == {}
    shown = method.maps(some_evidence(disagreement=np.full(SHAPE, np.log(3), np.float32)))
    assert shown["bald"] == pytest.approx(1)


def test_passes_are_of_both_peers_and_ten_of_them_in_five_views():
    assert ActiveRefinement(passes=1).evaluation_passes() == ((0, ""),)
    assert ActiveRefinement().evaluation_passes() == ((0, ""), (1, ""))
    ten = ActiveRefinement(passes=10).evaluation_passes()
    assert len(set(ten)) == 10 and {peer for peer, _ in ten} == {0, 1}


def test_the_inner_state_shows_losses_variances_shares_and_agreement_and_survives_storage():
    method = ActiveRefinement(memory=2, forget=0.2)
    run, batch = some_run(method)
    to_epoch(method, run, batch, 4)
    shown = method.inner()
    assert from_json(to_json(shown)) == shown
    curves = {s.name: s.values for s in shown if isinstance(s, Curve)}
    assert curves["forget rate of organ"]["forgotten"] == pytest.approx(0.2)
    assert 0 < curves["overlap of the peers' choices of organ"]["intersection over union"] < 1
    assert sum(isinstance(s, Mixtures) for s in shown) == 3


def test_a_copy_with_the_stored_state_goes_on_the_same():
    first, second = ActiveRefinement(memory=2), ActiveRefinement(memory=2)
    run, batch = some_run(first)
    other, _ = some_run(second)
    to_epoch(first, run, batch, 5)
    second.load_state_dict(first.state_dict())
    other.epoch, other.stage, other.networks = 5, run.stage, run.networks
    second.on_epoch_start(other)
    assert torch.equal(first.loss(run, batch), second.loss(other, batch))
    assert to_json(first.inner()) == to_json(second.inner())


@pytest.mark.parametrize("values", [{"forget": 1.0}, {"share": 1.0}, {"memory": 1}, {"unit": "voxel"}, {"passes": 11}])
def test_settings_out_of_range_are_refused_in_one_sentence(values):
    with pytest.raises(BadSetting, match=f"setting '{next(iter(values))}' of method 'active-refinement' is not usable"):
        method_info("active-refinement").check(values)
