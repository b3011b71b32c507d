from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_noisylabel import study
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.errors import BadSetting, NothingToDo, UnknownName
from napari_noisylabel.records import Region, RegionState, Verdict
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.copies import copy_project
from napari_noisylabel.study import rounds as module
from napari_noisylabel.study.rounds import affordable
from napari_noisylabel.study.simulate import DecidedLabels
from napari_noisylabel.workbench import Workbench

pytest.importorskip("torch")

PLAN = study.Plan(rounds=1, budget=3, epochs=1, engine={"steps": 2, "batch": 2, "threads": 1})


@pytest.fixture
def truth(trained):
    return trained.parent / "truth"


def region(case: str, number: int) -> Region:
    return Region(number, "run-001", case, "organ", 0, 1, (0,), (1,), 4, 4.0, 0.9, 1.0, 3.6)


def all_labels(store: ProjectStore) -> dict[str, np.ndarray]:
    return {c.id: labels_of(store, c)["organ"] for c in store.cases() if c.labels}


# ---------------------------------------------------------------- what a budget buys


def test_a_budget_buys_so_many_regions_in_the_order_of_the_queue():
    queue = [region("a", 1), region("b", 2), region("a", 3)]
    assert affordable(queue, 2) == (queue[:2], 2)


def test_opening_a_case_costs_once_per_round():
    queue = [region("a", 1), region("a", 2), region("b", 3), region("a", 4)]
    bought, cost = affordable(queue, 4.5, opening=2)
    assert [r.id for r in bought] == [1, 2] and cost == 4


# ---------------------------------------------------------------- a round


def test_a_round_asks_for_its_budget_and_leaves_the_project_as_it_was(store, truth):
    before, events = all_labels(store), store.label_version
    found = study.simulate_rounds(store, truth, PLAN)
    (one,) = found["rounds"]
    assert one["asked"] == 3 and one["cost"] == 3 and len(found["curve"]) == 4
    assert found["end"] >= found["start"]
    assert store.label_version == events
    for case, labels in all_labels(store).items():
        np.testing.assert_array_equal(labels, before[case])


@pytest.mark.parametrize("oracle", ["verdict", "redraw"])
def test_after_a_round_only_voxels_that_were_bought_have_other_labels(store, truth, tmp_path, oracle):
    workbench = Workbench()
    workbench.open(copy_project(store, tmp_path / "copy", ["run-001"]), by="oracle")
    own = workbench.store
    before = all_labels(own)
    rounds = module._Rounds(workbench, truth, own.tracks, replace(PLAN, oracle=oracle), lambda report: None)
    candidates = [r for r in own.regions(run="run-001", states=[RegionState.OPEN]) if rounds.table.knows(r)]
    rounds._ask(own.run("run-001"), 0, candidates)

    bought = [own.region(e.region) for e in own.events() if e.region]
    changed_state = [r for r in own.regions(run="run-001") if r.state is not RegionState.OPEN]
    assert {r.id for r in bought} <= {r.id for r in changed_state} and len(bought) == 3
    for case, labels in all_labels(own).items():
        may = own.verified(case, "organ", labels.shape)
        untouched = np.ones(labels.shape, bool) if may is None else ~may
        np.testing.assert_array_equal(labels[untouched], before[case][untouched])
    if oracle == "redraw":
        table = DecidedLabels(own, truth, own.tracks)
        for e in own.events():
            if e.verdict is Verdict.EDITED:
                mask = own.verified(e.case, "organ", before[e.case].shape)
                key = ("organ", e.case)
                assert (table._labels[key][mask] == table._truth[key][mask]).all()
    workbench.close()


def test_wrong_labels_fall_from_round_to_round_and_a_second_run_asks_about_other_regions(store, truth):
    engine = {"steps": 4, "lr": 0.01, "threads": 1}  # as the first run, so that it leaves regions, too
    plan = replace(PLAN, rounds=2, oracle="redraw", method="cross-entropy", epochs=2, seed=1, engine=engine)
    found = study.simulate_rounds(store, truth, plan)
    first, second = found["rounds"]
    assert second["run"] != first["run"] and second["cost"] == first["cost"] + second["asked"]
    assert second["wrong_share"] <= first["wrong_share"]
    assert len(found["curve"]) == 1 + first["asked"] + second["asked"]
    assert first["proposal"] is not None


# ---------------------------------------------------------------- what cannot be done


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"budget": 0}, "a round's budget pays for at least one region"),
        ({"budget": 1, "opening": 0.5}, r"at least one region \(1.5\), got 1"),
        ({"rounds": 0}, "at least one round, got 0"),
        ({"order": "gain,random"}, "there is no order 'gain,random'"),
        ({"oracle": "guess"}, "an oracle is verdict or redraw"),
        ({"opening": -1.0}, "opening a case costs 0 or more"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_in_a_sentence(store, truth, values, words):
    with pytest.raises((BadSetting, UnknownName), match=words):
        study.simulate_rounds(store, truth, replace(PLAN, **values))


def test_an_oracle_who_decides_nothing_is_told_so(store, truth, monkeypatch):
    nothing = np.zeros(0, np.int64), np.zeros(0, np.uint8)
    monkeypatch.setattr(DecidedLabels, "look", lambda *_: nothing)
    with pytest.raises(NothingToDo, match="the oracle decided on none of the 3 regions of round 1"):
        study.simulate_rounds(store, truth, PLAN)
