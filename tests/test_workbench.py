import numpy as np
import pytest

from napari_noisylabel import study
from napari_noisylabel.arrays.labels import changed_runs, count, runs_mask
from napari_noisylabel.errors import BadSetting, NothingToDo, SourceChanged, UnknownName
from napari_noisylabel.io.volumes import read_labels
from napari_noisylabel.records import RegionState, RunState, Verdict
from napari_noisylabel.workbench import Workbench
from tests.phantom_files import HELD_OUT, VALUES, case, save_nifti, write_cases


@pytest.fixture
def workbench(trained):
    opened = Workbench()
    opened.open(trained, by="Ada")
    yield opened
    opened.close()


def show(workbench, case_id):
    workbench.show(workbench.load(case_id))
    return workbench.session.view


# ---------------------------------------------------------------- open, score, propose


def test_opening_brings_the_latest_run_its_filter_and_its_queue(workbench):
    session = workbench.session
    assert (session.run.id, session.run.state) == ("run-001", RunState.COMPLETE)
    assert (session.filter.level, session.filter.threshold) == ("voxel", 0.3)
    gains = [r.gain for r in session.queue]
    assert gains == sorted(gains, reverse=True) and gains
    assert HELD_OUT not in {r.case for r in session.queue}


def test_the_epochs_of_the_run_shown_come_back_with_the_project_and_stay_when_it_is_filtered(workbench):
    epochs = [(r.run, r.kind, r.fold, r.epoch) for r in workbench.session.curve]
    assert epochs == [("run-001", "epoch", fold, epoch) for fold in (0, 1) for epoch in (0, 1)]
    workbench.start_propose("voxel", 0.4)
    assert list(workbench.wait())[-1].kind == "done"
    assert len(workbench.session.curve) == 4


def test_a_stricter_threshold_leaves_fewer_voxels_and_no_training(workbench):
    lenient = sum(r.voxels for r in workbench.propose("case", 0.05))
    strict = sum(r.voxels for r in workbench.propose("case", 0.6))
    assert 0 <= strict < lenient
    assert len(workbench.store.runs()) == 1


def test_orders_are_those_of_the_contract(workbench):
    for order, key in {"likelihood": lambda r: -r.likelihood, "size": lambda r: -r.voxels}.items():
        keys = [key(r) for r in workbench.sort(order)]
        assert keys == sorted(keys)
    assert workbench.sort("random", seed=1) == workbench.sort("random", seed=1)
    with pytest.raises(UnknownName, match="gain, likelihood, size, case, random"):
        workbench.sort("colour")


# ---------------------------------------------------------------- review


def test_accepting_a_region_changes_the_labels_shown_and_leaves_a_trace(workbench):
    region = workbench.session.current
    view = show(workbench, region.case)
    event = workbench.review(Verdict.ACCEPTED)
    where = runs_mask(event.runs, view.case.geometry.shape)
    assert (view.corrected["organ"][where] == region.to_class).all()
    assert (view.given["organ"][where] == region.from_class).all()
    assert [(e.verdict, e.by, e.region) for e in workbench.store.events()] == [(Verdict.ACCEPTED, "Ada", region.id)]
    assert region.id not in {r.id for r in workbench.session.queue}


def test_rejecting_changes_no_label_but_verifies_the_voxels(workbench):
    region = workbench.session.current
    event = workbench.review(Verdict.REJECTED)
    verified = workbench.store.verified(region.case, "organ", workbench.store.case(region.case).geometry.shape)
    assert count(changed_runs(event.runs)) == 0
    assert verified.sum() == region.voxels


def test_undo_and_redo_walk_through_the_log_and_give_the_region_back(workbench):
    region = workbench.session.current
    workbench.review(Verdict.ACCEPTED)
    workbench.review(Verdict.UNDONE)
    assert workbench.store.region(region.id).state == RegionState.OPEN
    workbench.review(Verdict.REDONE)
    assert workbench.store.region(region.id).state == RegionState.ACCEPTED
    assert [e.verdict for e in workbench.store.events()] == ["accepted", "undone", "redone"]
    with pytest.raises(NothingToDo):
        workbench.review(Verdict.REDONE)


def test_an_edit_is_one_event_of_what_was_painted(workbench):
    view = show(workbench, workbench.session.current.case)
    painted = view.corrected["organ"].copy()
    painted[2, 3:5, 4:7] = (painted[2, 3:5, 4:7] + 1) % 3
    workbench.review(Verdict.EDITED, labels=painted, track="organ")
    again = Workbench()
    again.open(workbench.store.folder, read_only=True)
    assert np.array_equal(again.load(view.case.id).corrected["organ"], painted)
    again.close()


def test_strokes_survive_a_crash_and_decide_nothing(workbench, trained):
    view = show(workbench, workbench.session.current.case)
    view.corrected["organ"][0, 0, 0] = 2
    workbench.save_draft("organ", view.corrected["organ"])
    workbench.close_project()  # no draft is cleared: as if the program had died
    workbench.open(trained)
    assert show(workbench, view.case.id).corrected["organ"][0, 0, 0] == 2
    assert workbench.session.draft and not workbench.store.events()
    workbench.discard_draft("organ")
    assert workbench.session.view.corrected["organ"][0, 0, 0] == view.given["organ"][0, 0, 0]


def test_a_case_can_be_verified_with_the_labels_of_a_file(workbench, trained):
    file = trained.parent / "truth" / "case-1.nii.gz"
    workbench.review(Verdict.VERIFIED, case="case-1", labels=file)
    labels = workbench.load("case-1").corrected["organ"]
    assert np.array_equal(VALUES[labels], read_labels(file).array)
    assert workbench.store.verified("case-1", "organ", labels.shape).all()
    assert "case-1" not in {r.case for r in workbench.session.queue}


def test_verified_voxels_are_never_proposed_again(workbench):
    region = workbench.session.current
    decided = runs_mask(workbench.review(Verdict.REJECTED).runs, workbench.store.case(region.case).geometry.shape)
    for again in workbench.propose("voxel", 0.2):
        if again.case == region.case:
            assert not (runs_mask(workbench.store.region_runs(again.id), decided.shape) & decided).any()


def test_many_regions_are_decided_on_as_one_or_not_at_all(workbench):
    ids = [r.id for r in workbench.session.queue[:3]]
    with pytest.raises(UnknownName):
        workbench.review_all(Verdict.ACCEPTED, [*ids, 9999])
    assert not workbench.store.events()
    assert [e.region for e in workbench.review_all(Verdict.ACCEPTED, ids)] == ids


# ---------------------------------------------------------------- retrain


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"method": "magic"}, UnknownName),
        ({"settings": {"dice_weight": -1}}, BadSetting),
        ({"engine": {"dims": "4d"}}, BadSetting),
        ({"folds": 1}, BadSetting),
        ({"folds": 6}, NothingToDo),  # there are five groups
        ({"device": "abacus"}, BadSetting),
        ({"resume": "run-001"}, NothingToDo),  # complete
        ({"resume": "run-009"}, UnknownName),
    ],
)
def test_what_cannot_train_is_refused_and_leaves_no_run(workbench, options, error):
    with pytest.raises(error):
        workbench.retrain(**{"method": "cross-entropy", **options})
    assert [run.id for run in workbench.store.runs()] == ["run-001"]


def test_a_source_that_changed_is_not_trained_on(tmp_path):
    write_cases(tmp_path, 2)
    study.make_project(tmp_path / "project", tmp_path / "images", {"organ": tmp_path / "labels"})
    workbench = Workbench()
    workbench.open(tmp_path / "project")
    save_nifti(VALUES[case(42)[1]], tmp_path / "labels" / "case-1.nii.gz")
    with pytest.raises(SourceChanged, match="case-1"):
        workbench.retrain("cross-entropy", epochs=1)
    assert not workbench.store.runs()
    workbench.close()


# ---------------------------------------------------------------- export


def test_an_export_differs_from_the_source_where_events_say_so_and_nowhere_else(workbench, tmp_path):
    events, changed = workbench.accept_all()
    result = workbench.export(tmp_path / "out")
    differing = 0
    for path in result.files:
        given = read_labels(workbench.store.folder.parent / "labels" / path.name)
        written = read_labels(path)
        assert np.allclose(written.geometry.affine, given.geometry.affine) and written.dtype == given.dtype
        differing += np.count_nonzero(written.array != given.array)
    assert differing == changed == sum(count(changed_runs(e.runs)) for e in events) > 0


def test_the_affinity_of_a_voxel_with_itself_is_one(workbench):
    index = (4, 9, 7)
    across = workbench.affinity("case-0", index, axis=0)
    assert across.shape == (20, 16)
    assert across[9, 7] == pytest.approx(1.0, abs=1e-2) and across.min() >= -1.01


def test_after_another_filter_a_case_on_the_screen_gets_its_maps_and_keeps_its_strokes(workbench):
    view = show(workbench, workbench.session.current.case)
    view.corrected["organ"][0, 0, 0] = 2
    workbench.propose("region", 0.5)

    again = show(workbench, view.case.id)

    assert again.corrected["organ"][0, 0, 0] == 2 and again.images[0] is view.images[0]
    assert not np.array_equal(again.likelihood["organ"], view.likelihood["organ"])


def test_a_project_read_aside_is_entered_as_if_it_had_been_opened(workbench, trained):
    queue = workbench.session.queue
    workbench.close_project()
    workbench.enter(workbench.read(trained), by="Ben")
    assert workbench.session.queue == queue and workbench.session.by == "Ben"
