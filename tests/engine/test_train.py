from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.arrays.metrics import dice
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.train import choose_device, settle
from napari_noisylabel.engine.train import train as train_reports
from napari_noisylabel.errors import BadSetting, InputError, RunFailed, UnknownName
from napari_noisylabel.methods import BUILT_IN
from tests.engine.conftest import (
    ALL,
    ORGANS,
    OVERLAPPING,
    checkpoints,
    interrupted,
    losses,
    make_case,
    make_spec,
    maps,
    same,
    some_cases,
    with_reference,
    working,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("trial_methods")


@pytest.mark.parametrize(
    ("shape", "tracks", "engine"),
    [
        ((20, 27), ORGANS, {}),
        ((5, 20, 27), OVERLAPPING, {"dims": "2.5d"}),
        ((12, 20, 17), OVERLAPPING, {"dims": "3d", "patch": (8, 16, 16)}),
    ],
    ids=["2-D", "2.5-D of two overlapping tracks", "3-D of two overlapping tracks"],
)
def test_every_case_is_measured_on_its_own_grid(train, shape, tracks, engine):
    cases = some_cases(4, shape, tracks, held_out=1)
    folder, reports = train(make_spec(**engine), cases, tracks)
    left = maps(folder, cases, tracks)
    for track in tracks:
        assert left["test-0", f"{track.name}.proposal"].shape == left["a", f"{track.name}.score"].shape == shape
        assert left["b", f"{track.name}.probs"].shape == (track.n_classes, *shape)
    assert left["a", "features"].shape[1:] == tuple(-(-n // 2) for n in shape)
    assert {r.kind for r in reports} >= {"start", "epoch", "phase"} and not (folder / "cache").exists()


def test_a_network_learns_a_phantom_it_has_not_seen(train):
    cases = some_cases(8, held_out=1)
    folder, reports = train(make_spec(epochs=6, steps=8, batch=4, lr=0.01, augment=False), cases)
    found = CaseScores(folder, "test-0").read("organ.proposal")
    assert dice(found == 2, cases[-1].labels["organ"] == 2) > 0.8
    epochs = [r.losses["train"] for r in reports if r.kind == "epoch" and r.fold == 1]
    assert epochs[-1] < 0.6 * epochs[0]


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("method", ALL)
def test_a_run_that_was_cut_off_again_and_again_ends_the_same_to_the_last_bit(train, tmp_path, method):
    cases = with_reference(method, some_cases(4, held_out=1))
    spec = make_spec(method, epochs=4)
    whole, reports = train(spec, cases)

    torn = tmp_path / "torn"
    told = interrupted(torn, [1, 4, 7, 11, 12, 6], spec, cases, ORGANS)

    assert losses(told) == losses(reports) and len(losses(reports)) == 8
    assert same(checkpoints(torn), checkpoints(whole))
    assert same(maps(torn, cases, ORGANS), maps(whole, cases, ORGANS))


@pytest.mark.parametrize("method", ALL)
def test_no_method_changes_what_a_person_has_verified(train, method):
    cases = with_reference(method, some_cases(4, tracks=OVERLAPPING), tracks=OVERLAPPING)
    folder, _ = train(make_spec(method, epochs=2), cases, OVERLAPPING)
    by_id = {c.id: c for c in cases}
    left = working(folder, cases)
    assert len(left) == 8
    for (_, case, track), labels in left.items():
        decided = by_id[case].verified[track]
        if decided is not None:
            np.testing.assert_array_equal(labels[decided], by_id[case].labels[track][decided])
        if method == "trial-stages":
            open_ = np.ones(labels.shape, bool) if decided is None else ~decided
            assert (labels[open_] != by_id[case].labels[track][open_]).any()


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(train):
    cases, spec = some_cases(4), make_spec(epochs=1)
    once, again = train(spec, cases, name="once")[1], train(spec, iter(cases), name="again")[1]
    assert losses(once) == losses(again)
    other = train(type(spec)(**{**spec.__dict__, "seed": 4}), cases, name="other")[1]
    assert losses(other) != losses(once)


def test_a_loss_that_is_no_number_names_the_cases_and_keeps_the_checkpoint(train, tmp_path):
    with pytest.raises(RunFailed, match=r"the loss became nan in fold 0, epoch 2, step 1 \(cases [abcd, ]+\)"):
        train(make_spec("trial-nan"), some_cases(4))
    assert list(checkpoints(tmp_path / "run")) == ["fold-0"] and not (tmp_path / "run" / "cache").exists()


@pytest.mark.parametrize("groups", [("p1", "p1", "p1"), ("p1",)], ids=["one person", "one single case"])
def test_fewer_groups_than_folds_are_refused(train, groups):
    cases = [make_case(f"c{i}", group=g) for i, g in enumerate(groups)] + [make_case("t", held_out=True)]
    with pytest.raises(InputError, match=r"at least one group of cases per fold: 1 group\(s\).*, 2 folds"):
        train(make_spec(), cases)


@pytest.mark.parametrize("method", [m.name for m in BUILT_IN])
def test_a_class_that_one_fold_never_shows_is_no_obstacle(train, method):
    cases = some_cases(4)
    for case in cases[1:]:
        case.labels["organ"][case.labels["organ"] == 2] = 0
    folder, reports = train(make_spec(method, epochs=3), with_reference(method, cases))
    assert all(np.isfinite(r.losses["train"]) for r in reports if r.kind == "epoch")
    assert CaseScores(folder, "a").statistics()["organ"].histogram[2].sum() > 0


def test_a_case_without_labels_of_a_track_teaches_nothing_there_and_is_still_predicted(train):
    cases = some_cases(4, tracks=OVERLAPPING)
    del cases[1].labels["lesion"]
    folder, _ = train(make_spec(epochs=1), cases, OVERLAPPING)
    assert CaseScores(folder, "b").statistics()["lesion"].histogram.sum() == 0
    assert CaseScores(folder, "b").read("lesion.score").max() == 0
    assert CaseScores(folder, "b").read("lesion.proposal").shape == (20, 27)


def test_a_reference_case_trains_in_no_fold_and_is_measured_by_all_networks(train):
    cases = with_reference("trial-reference", some_cases(4))
    folder, reports = train(make_spec("trial-reference"), cases)
    assert {case for _, case, _ in working(folder, cases)} == {"a", "b", "c", "d"}
    shown = [item["text"] for r in reports for item in r.inner]
    assert shown and set(shown) == {"right is right"}
    assert CaseScores(folder, "right").complete and CaseScores(folder, "a").read("organ.doubt").max() == 128


def test_a_method_that_needs_a_verified_case_says_so_before_it_trains(train):
    with pytest.raises(InputError, match="'trial-reference' measures itself on a case that is known to be right"):
        train(make_spec("trial-reference"), some_cases(4))


def test_stopping_gives_the_cache_back_and_leaves_the_checkpoint(tmp_path):
    reports = train_reports(make_spec(epochs=3), some_cases(4), ORGANS, tmp_path)
    for report in reports:
        if report.kind == "epoch":
            break
    reports.close()
    assert not (tmp_path / "cache").exists() and checkpoints(tmp_path)["fold-0"]["epoch"] == 0


def test_epochs_of_zero_are_decided_by_the_data(train, monkeypatch):
    monkeypatch.setattr("napari_noisylabel.engine.train.FOLD_STEPS", 4)
    monkeypatch.setattr("napari_noisylabel.engine.train.default_epochs", lambda plan: 4 // plan.steps)
    _, reports = train(make_spec(epochs=0), some_cases(4))
    assert {r.epochs for r in reports if r.kind == "epoch"} == {2}
    assert [r.epochs for r in reports if r.kind == "start"][-1] == 2


def test_a_held_out_case_changes_nothing_that_is_learnt(train):
    cases = some_cases(4)
    alone, _ = train(make_spec(epochs=1), cases, name="alone")
    beside, _ = train(make_spec(epochs=1), [*cases, make_case("z", held_out=True)], name="beside")
    assert same(checkpoints(alone), checkpoints(beside))


def test_settings_are_settled_once_and_refused_in_words():
    spec = settle(make_spec(precision="auto", threads=0))
    assert spec.engine["precision"] in ("32-true", "bf16-mixed") and spec.engine["threads"] >= 1
    assert settle(spec) == spec
    with pytest.raises(UnknownName, match="there is no method 'no'"):
        settle(make_spec("no"))
    with pytest.raises(BadSetting, match="setting 'lr'"):
        settle(make_spec(lr=-1))
    with pytest.raises(InputError, match="a device is auto, cpu, cuda or mps"):
        choose_device("tpu")
