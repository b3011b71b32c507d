"""Several runs of one project become one: its maps, its weights, its queue, and what it refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from napari_noisylabel.arrays.pooling import pooled
from napari_noisylabel.cli.app import main
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.combine import ENOUGH, Opinions, find_members
from napari_noisylabel.engine.spec import read_spec, write_spec
from napari_noisylabel.errors import BadSetting, NothingToDo
from napari_noisylabel.inner import from_json
from napari_noisylabel.records import RunState, Verdict
from napari_noisylabel.runs import voices
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.workbench import Workbench
from tests.phantom_files import HELD_OUT


def add_member(project, method, change):
    """A complete run like the first one, its probabilities (K, *spatial) changed."""
    with ProjectStore.open(project) as store:
        first = store.run("run-001")
        run = store.add_run(replace(first, id="", method=method))
        folder = store.run_folder(run.id)
        shutil.copytree(store.run_folder("run-001"), folder, dirs_exist_ok=True)
        write_spec(folder, replace(read_spec(folder), run=run.id, method=method))
        for case in store.cases():
            maps = CaseScores(folder, case.id)
            probs = change(maps.require("organ.probs"))
            maps.write("organ.probs", probs)
            maps.write("organ.proposal", probs.argmax(0).astype(np.uint8))
    return run.id


def uncertain(probs):
    """Less sure of everything, of the same classes."""
    return (0.5 * probs + 0.5 * probs.mean(0)).astype(np.uint8)


def mistaken(probs):
    """The classes in another order: surely wrong."""
    return probs[[1, 2, 0]]


@pytest.fixture
def ensemble(trained):
    add_member(trained, "jcas", uncertain)
    add_member(trained, "cores", mistaken)
    workbench = Workbench()
    workbench.open(trained, by="Ada")
    workbench.retrain("ensemble")
    reports = list(workbench.wait())
    yield workbench, reports
    workbench.close()


def test_an_ensemble_takes_the_latest_run_of_each_method_and_gives_one_queue(ensemble):
    workbench, reports = ensemble
    run = workbench.session.run
    assert reports[-1].kind == "done", reports[-1].message
    assert (run.id, run.method, run.state) == ("run-004", "ensemble", RunState.COMPLETE)
    assert run.settings["runs"] == "run-001,run-002,run-003"
    assert reports[-1].kind == "done" and workbench.session.filter is not None
    assert workbench.propose("voxel", 0.05) and all(len(r.votes) == 3 for r in workbench.session.queue)
    assert all(r.votes[0] == 1 or r.for_it for r in workbench.session.queue)


def test_its_probabilities_are_the_weighted_mean_and_the_votes_those_of_each_run(ensemble):
    workbench, reports = ensemble
    shown = {s.name: s for r in reports if r.kind == "epoch" for s in from_json(r.inner)}
    weights = list(shown["weights of organ"].values.values())
    temperatures = list(shown["temperatures of organ"].values.values())
    assert sum(weights) == pytest.approx(1) and weights[2] == min(weights)
    store = workbench.store
    case = next(c for c in store.cases() if not c.held_out)
    maps = [CaseScores(store.run_folder(f"run-00{i}"), case.id) for i in (1, 2, 3, 4)]
    mean = pooled([m.require("organ.probs") / np.float32(255) for m in maps[:3]], temperatures, weights)
    assert np.abs(maps[3].require("organ.probs") - 255 * mean).max() <= 0.51
    proposal = maps[3].require("organ.proposal")
    votes = maps[3].require("organ.votes")
    for m in range(3):
        assert np.array_equal(votes[m] == 1, maps[m].require("organ.proposal") == proposal)
    rejections = [m.require("organ.rejection") for m in maps[:3]]
    share = sum(w * (v == 1) * (r / 255) for w, v, r in zip(weights, votes, rejections, strict=True))
    odds = (share / np.maximum(1 - share, 1e-9)) ** 2
    assert np.abs(maps[3].require("organ.rejection") - 255 * odds / (1 + odds)).max() <= 0.51


def test_decisions_weigh_the_runs_once_there_are_enough(trained):
    add_member(trained, "cores", mistaken)
    workbench = Workbench()
    workbench.open(trained, by="Ada")
    for case in [c.id for c in workbench.store.cases() if c.id != HELD_OUT][:2]:
        workbench.review(Verdict.VERIFIED, case=case, track="organ", labels=trained.parent / "truth" / f"{case}.nii.gz")
    workbench.retrain("ensemble")
    reports = list(workbench.wait())
    workbench.close()
    shown = {s.name: s for r in reports if r.kind == "epoch" for s in from_json(r.inner)}
    assert "by decisions" in shown["evidence of organ"].text
    own, other = shown["weights of organ"].values.values()
    assert own > 0.8 > other and ENOUGH < 4000


def test_equal_weights_can_be_asked_for(trained):
    add_member(trained, "cores", mistaken)
    assert main(["train", str(trained), "--method", "ensemble", "--set", "weights=equal"]) == 0
    with ProjectStore.open(trained, read_only=True) as store:
        assert store.run("run-003").settings == {"runs": "run-001,run-002", "weights": "equal"}


def test_the_queue_on_the_command_line_names_who_agrees(ensemble, capsys):
    workbench, _ = ensemble
    workbench.propose("voxel", 0.05)
    folder = workbench.store.folder
    workbench.close_project()
    assert main(["queue", str(folder), "--json"]) == 0
    assert '"votes"' in (said := capsys.readouterr().out) and '"jcas"' in said
    assert main(["queue", str(folder)]) == 0
    assert "cores" in capsys.readouterr().out.splitlines()[0]


def test_voices_are_methods_and_runs_where_a_method_votes_twice(ensemble):
    workbench, _ = ensemble
    run, runs = workbench.session.run, workbench.store.runs()
    first = runs[0].method
    assert voices(run, runs) == (first, "jcas", "cores")
    twice = [r if r.id != "run-002" else replace(r, method="cores") for r in runs]
    assert voices(run, twice) == (first, "cores run-002", "cores run-003")
    assert voices(runs[0], runs) == () and voices(None, runs) == ()


def test_what_cannot_be_combined_is_refused_in_a_sentence(trained):
    with ProjectStore.open(trained) as store:
        with pytest.raises(NothingToDo, match="at least two complete runs, and there are 1"):
            find_members(store, "")
        with pytest.raises(BadSetting, match="takes each run once, got run-001, run-001"):
            find_members(store, "run-001, run-001")
        store.add_run(replace(store.run("run-001"), id="", state=RunState.INTERRUPTED))
        store.add_run(replace(store.run("run-001"), id="", method="ensemble"))
        with pytest.raises(NothingToDo, match="run-002 is interrupted, without scores"):
            find_members(store, "run-001,run-002")
        with pytest.raises(NothingToDo, match="run-003 is an ensemble itself"):
            find_members(store, "run-001,run-003")


def test_without_any_voxel_all_runs_count_alike():
    from napari_noisylabel.engine.combine import weigh

    found = weigh([], 4, False)
    assert isinstance(found, Opinions) and np.allclose(found.weights, 0.25) and found.evidence == "nothing"
