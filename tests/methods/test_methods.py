from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic.fields import FieldInfo

from napari_noisylabel import methods
from napari_noisylabel.errors import BadSetting, MissingPart, UnknownName
from napari_noisylabel.methods import BUILT_IN, MethodInfo, method_info
from napari_noisylabel.methods.base import Evidence, Method
from napari_noisylabel.methods.losses import segmentation_loss, soft_dice_loss
from napari_noisylabel.methods.settings import CrossEntropySettings
from napari_noisylabel.records import IGNORE, Track


@pytest.mark.parametrize("info", BUILT_IN, ids=[i.name for i in BUILT_IN])
def test_a_method_is_made_from_its_own_default_settings(info):
    made = info.make(info.check({}))
    assert isinstance(made, Method) and made.name == info.name and made.title == info.title
    kept = getattr(made, "settings", made)  # as they came, or as fields of its own
    assert {k: getattr(kept, k) for k in info.settings.model_fields} == info.check({}).model_dump()


def test_unknown_methods_and_settings_are_refused_in_words():
    with pytest.raises(UnknownName, match="there is no method 'no'. The methods are: cross-entropy, self-cleansing"):
        method_info("no")
    with pytest.raises(BadSetting, match="setting 'warm' of method 'self-cleansing' is not usable"):
        method_info("self-cleansing").check({"warm": 1})
    with pytest.raises(BadSetting, match="setting 'tau'.*got 2"):
        method_info("self-cleansing").check({"tau": 2})


def limits(field: FieldInfo) -> tuple[list[float], list[float]]:
    """The values just below and just above what a numeric setting takes."""
    names = ("ge", "gt", "le", "lt")
    kept = {name: getattr(limit, name) for limit in field.metadata for name in names if hasattr(limit, name)}
    below = [kept["gt"]] if "gt" in kept else [kept["ge"] - 1e-6] if "ge" in kept else []
    return below, [kept["lt"]] if "lt" in kept else [kept["le"] + 1e-6] if "le" in kept else []


@pytest.mark.parametrize("info", BUILT_IN, ids=[i.name for i in BUILT_IN])
def test_every_number_of_every_method_has_limits_and_what_is_out_of_them_is_refused(info):
    for name, field in info.settings.model_fields.items():
        wrong: list[object] = ["much"]
        if field.annotation in (int, float):
            below, above = limits(field)
            assert below and above, name
            if field.annotation is int:
                below, above = [math.floor(v) for v in below], [math.ceil(v) for v in above]
            wrong += [*below, *above, float("nan"), float("inf")]
        for value in wrong:
            with pytest.raises(BadSetting, match=f"setting '{name}.*' of method '{info.name}' is not usable: .*got"):
                info.check({name: value})


@pytest.mark.parametrize("info", BUILT_IN, ids=[i.name for i in BUILT_IN])
def test_every_preset_is_within_the_limits_and_differs_from_the_defaults(info):
    for preset in info.settings.PRESETS:
        chosen = info.check({"preset": preset})
        assert chosen != info.check({}) and isinstance(info.make(chosen), Method)


def test_a_method_of_a_third_party_is_found_and_takes_no_name_that_is_taken(monkeypatch):
    class Point:
        def __init__(self, name):
            self.name = name

        def load(self):
            return MethodInfo(self.name, "theirs", CrossEntropySettings, "no_such_module:Theirs")

    monkeypatch.setattr(methods, "entry_points", lambda group: [Point("theirs"), Point("cross-entropy")])
    assert list(methods.methods()) == [*(m.name for m in BUILT_IN), "ensemble", "theirs"]
    assert method_info("cross-entropy").title != "theirs"
    with pytest.raises(MissingPart, match="method 'theirs' cannot be loaded"):
        method_info("theirs").make(CrossEntropySettings())


def test_the_list_of_methods_does_not_import_torch():
    code = "import sys, napari_noisylabel.methods as m; m.methods(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_score_is_the_loss_of_the_label_and_the_proposal_the_best_class():
    probs = np.random.default_rng(0).dirichlet([1, 1, 1], (4, 5)).transpose(2, 0, 1).astype(np.float16)
    labels = np.random.default_rng(1).choice([0, 1, 2, IGNORE], (4, 5)).astype(np.uint8)
    track = Track("organ", ("background", "a", "b"), (0, 1, 2))
    evidence = Evidence("a", track, probs, labels, (2.0, 1.0))
    score, proposal = Method().score(evidence), Method().propose(evidence)
    for p in np.ndindex(4, 5):
        here = probs[(slice(None), *p)].astype(float)
        assert score[p] == pytest.approx(0 if labels[p] == IGNORE else -np.log(here[labels[p]]), abs=1e-3)
        assert proposal[p] == here.argmax()


def test_a_patch_of_ignored_voxels_costs_nothing_and_breaks_nothing():
    logits = torch.randn(1, 3, 4, 5, requires_grad=True)
    labels, weight = torch.full((1, 4, 5), IGNORE), torch.zeros(1, 4, 5)
    loss = segmentation_loss(logits, labels, weight)
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(logits.grad).all()


def test_an_absent_class_has_no_dice_to_learn():
    labels = torch.zeros(1, 4, 5, dtype=torch.long)
    labels[0, 1, 2:] = 1
    perfect = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) * 50.0
    assert float(soft_dice_loss(perfect, labels, torch.ones(1, 4, 5))) == pytest.approx(0, abs=1e-5)


def test_a_preset_is_a_set_of_values_that_others_may_change():
    class Settings(CrossEntropySettings):
        PRESETS = {"paper": {"dice_weight": 0.0}}

    info = MethodInfo("theirs", "Theirs", Settings, "nowhere:Theirs")
    assert info.check({"preset": "paper"}).dice_weight == 0
    assert info.check({"preset": "paper", "dice_weight": 0.5}).dice_weight == 0.5
    with pytest.raises(BadSetting, match="method 'theirs' has no preset 'papers'. Its presets: paper"):
        info.check({"preset": "papers"})
