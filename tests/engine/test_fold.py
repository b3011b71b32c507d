from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import nn

from napari_noisylabel.engine.fold import Fold, FoldSpec
from napari_noisylabel.engine.patches import PatchPlan
from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.methods.cross_entropy import CrossEntropy
from tests.engine.conftest import ORGANS, prepared, same, some_cases
from tests.engine.trial_methods import Exchange, OwnParameters, Stages

PLAN = PatchPlan(2, (1, 16, 16), 0, 0, 2, 2, False)


def make_fold(tmp_path, method, **engine) -> Fold:
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    settings = EngineSettings(precision="32-true", threads=1, **engine)
    spec = FoldSpec(ORGANS, PLAN, settings, 1, 3, 4, fabric)
    fold = Fold(spec, 0, [prepared(tmp_path, c) for c in some_cases(3)], method)
    fold.start()
    return fold


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def test_restarting_one_network_leaves_the_other_its_average_and_its_optimiser(tmp_path):
    fold = make_fold(tmp_path, Exchange())
    for step in range(2):
        fold.step(step)
    before, average = [weights(n) for n in fold.networks], [weights(n) for n in fold.ema]
    kept = fold.state_dict()["optimizer"]["state"]

    fold.restart(0)

    assert not same(weights(fold.networks[0]), before[0]) and same(weights(fold.networks[1]), before[1])
    assert same(weights(fold.ema[0]), weights(fold.networks[0])) and same(weights(fold.ema[1]), average[1])
    left = fold.state_dict()["optimizer"]["state"]
    assert 0 < len(left) < len(kept)
    assert [g["done"] for g in fold._optimizer.param_groups] == [0, 2]


def test_a_network_out_of_its_stage_is_not_trained(tmp_path):
    fold = make_fold(tmp_path, Stages())
    before = [weights(n) for n in fold.networks]
    fold.step(0)
    assert fold.stage.name == "warm-up" and not same(weights(fold.networks[0]), before[0])
    assert same(weights(fold.networks[1]), before[1])
    fold.epoch = 2
    assert fold.stage.name == "joint" and fold.first_epoch_of_stage


def test_own_parameters_are_trained_at_their_own_rate_and_only_asked_for_at_the_start(tmp_path):
    method = OwnParameters()
    fold = make_fold(tmp_path, method, lr=1e-6)
    before = weights(method.matrices)
    fold.step(0)
    assert max(float((a - b).abs().max()) for a, b in zip(weights(method.matrices), before, strict=True)) > 0.01
    with pytest.raises(RuntimeError, match="in on_run_start"):
        fold.add_parameters([nn.Parameter(torch.zeros(1))], lr=0.1)


def test_a_weights_file_is_where_training_starts_from(tmp_path):
    source = make_fold(tmp_path, CrossEntropy())
    save_file(source.best_network().state_dict(), tmp_path / "weights.safetensors")
    fold = make_fold(tmp_path, Exchange(), weights=str(tmp_path / "weights.safetensors"))
    expected = weights(source.best_network())
    assert same(weights(fold.networks[0]), expected) and same(weights(fold.ema[0]), expected)
    assert not same(weights(fold.networks[1]), expected)


def test_a_step_writes_verified_voxels_back_at_once(tmp_path):
    fold = make_fold(tmp_path, Stages())
    fold.step(0)
    for case in set(fold.batch(0).case_ids):
        decided = fold.verified[case]["organ"]
        if decided is not None:
            assert (fold.working_labels[case]["organ"][decided] == fold.labels[case]["organ"][decided]).all()
            assert (fold.working_labels[case]["organ"] != fold.labels[case]["organ"]).any()


def test_batches_go_through_all_cases_and_repeat_for_the_same_step(tmp_path):
    fold = make_fold(tmp_path, CrossEntropy())
    ids = [fold.batch(step).case_ids for step in range(2)]
    assert {i for pair in ids for i in pair} == {"a", "b", "c"}
    assert torch.equal(fold.batch(1).images, fold.batch(1).images)
