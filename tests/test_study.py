import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_noisylabel import study
from napari_noisylabel.arrays.labels import voxel_indices
from napari_noisylabel.arrays.metrics import average_precision, dice_per_class
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.source import labels_of
from napari_noisylabel.errors import BadSetting, ExportRefused, NoPairs, NothingToDo, ProjectExists, UnknownName
from napari_noisylabel.io.cases import load_file
from napari_noisylabel.records import RegionState
from napari_noisylabel.store import ProjectStore
from tests.phantom_files import HELD_OUT, SHAPE, VALUES, case, save_nifti, save_png, write_cases


def truth_of(store, case_id):
    found = store.case(case_id)
    return load_file(store.folder.parent / "truth" / f"{case_id}.nii.gz", found, store.tracks[0])


# ---------------------------------------------------------------- make a project


def test_a_plan_writes_nothing_and_names_tracks_classes_and_cases(tmp_path):
    write_cases(tmp_path, 3)
    plan = study.plan_project(tmp_path / "images", {"organ": tmp_path / "labels"}, class_names=("core", "rim"))
    assert plan.tracks[0].values == (0, 3, 7)
    assert [c.id for c in plan.cases] == ["case-0", "case-1", "case-2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "labels"]


def test_a_check_lists_every_broken_case_and_a_project_is_not_made_of_them(tmp_path):
    write_cases(tmp_path, 4)
    for i in (1, 2):
        save_nifti(np.full(SHAPE, 5.0, np.float32), tmp_path / "images" / f"case-{i}.nii.gz")
    plan = study.check_project(tmp_path / "images", {"organ": tmp_path / "labels"})
    assert [p.case for p in plan.problems] == ["case-1", "case-2"]
    with pytest.raises(ValueError, match="further cases: case-2"):
        study.make_project(tmp_path / "project", tmp_path / "images", {"organ": tmp_path / "labels"})
    assert not (tmp_path / "project").exists()


def test_a_project_is_refused_where_one_is_before_any_file_is_read(trained):
    with pytest.raises(ProjectExists):
        study.make_project(trained, trained / "nowhere", {"organ": trained / "nowhere"})


# ---------------------------------------------------------------- evaluate


def test_dice_is_the_mean_over_cases_that_are_not_held_out_then_over_classes(store):
    found = study.evaluate(store, store.folder.parent / "truth")
    rows = [
        dice_per_class(labels_of(store, c)["organ"], truth_of(store, c.id), 3)[1:]
        for c in store.cases()
        if not c.held_out
    ]
    expected = np.nanmean(rows, axis=0)
    assert list(found["labels"]["given"]["dice"].values()) == pytest.approx(expected.tolist())
    assert found["labels"]["given"]["dice_mean"] == pytest.approx(expected.mean())


def test_the_score_is_ranked_over_all_voxels_of_training_cases_together(store):
    found = study.evaluate(store, store.folder.parent / "truth")["likelihood"]
    scores, wrong = [], []
    for c in (c for c in store.cases() if not c.held_out):
        scores.append(CaseScores(store.run_folder("run-001"), c.id).read("organ.score").ravel())
        wrong.append((labels_of(store, c)["organ"] != truth_of(store, c.id)).ravel())
    scores, wrong = np.concatenate(scores), np.concatenate(wrong)
    assert found["average_precision"] == pytest.approx(average_precision(scores.astype(float), wrong))
    assert found["error_rate"] == pytest.approx(wrong.mean())


def test_held_out_figures_are_of_the_proposals_of_held_out_cases(store):
    found = study.evaluate(store, store.folder.parent / "truth")["held_out"]
    proposal = CaseScores(store.run_folder("run-001"), HELD_OUT).read("organ.proposal")
    expected = dice_per_class(proposal, truth_of(store, HELD_OUT), 3)[1:]
    assert found["dice"] == {"core": pytest.approx(expected[0]), "rim": pytest.approx(expected[1])}


def test_truth_files_without_a_case_are_ignored_and_truth_without_any_case_is_refused(store, tmp_path):
    folder = store.folder.parent / "truth"
    before = study.evaluate(store, folder)
    save_nifti(VALUES[case(99)[1]], folder / "stranger.nii.gz")
    assert study.evaluate(store, folder) == before
    save_nifti(VALUES[case(99)[1]], tmp_path / "other" / "stranger.nii.gz")
    with pytest.raises(NoPairs, match="name of a case"):
        study.evaluate(store, tmp_path / "other")


def test_before_the_first_run_the_given_labels_can_be_measured(tmp_path):
    write_cases(tmp_path, 2)
    study.make_project(tmp_path / "project", tmp_path / "images", {"organ": tmp_path / "labels"})
    with ProjectStore.open(tmp_path / "project") as store:
        found = study.evaluate(store, tmp_path / "labels")
    assert found["labels"]["given"]["dice_mean"] == 1.0
    assert found["run"] is None and found["labels"]["proposal"] is None and found["likelihood"] is None


def test_several_tracks_have_a_folder_of_truth_each_and_keys_with_their_name(tmp_path):
    write_cases(tmp_path, 2, "truth/a")
    write_cases(tmp_path, 2, "truth/b")
    tracks = {"a": tmp_path / "truth" / "a", "b": tmp_path / "truth" / "b"}
    study.make_project(tmp_path / "project", tmp_path / "images", tracks, class_names=("core", "rim"))
    with ProjectStore.open(tmp_path / "project") as store:
        both, one = (study.evaluate(store, tmp_path / "truth", track=t)["labels"]["given"] for t in (None, "b"))
    assert list(both["dice"]) == ["a/core", "a/rim", "b/core", "b/rim"]
    assert list(one["dice"]) == ["core", "rim"]


# ---------------------------------------------------------------- simulate


def test_the_simulated_reviewer_accepts_what_lowers_the_error_and_writes_nothing(store):
    before = store.label_version
    found = study.simulate(store, store.folder.parent / "truth", order="size", budget=5)
    open_ones = [r for r in store.regions(states=[RegionState.OPEN]) if r.case != HELD_OUT]
    good = 0
    for region in sorted(open_ones, key=lambda r: (-r.voxels, r.id))[:5]:
        true = truth_of(store, region.case).ravel()[voxel_indices(store.region_runs(region.id))]
        good += (true == region.to_class).sum() > (true == region.from_class).sum()
    assert found["accepted"] == good
    assert store.label_version == before


def test_the_curve_of_a_simulated_review_ends_at_the_dice_of_its_labels(store):
    found = study.simulate(store, store.folder.parent / "truth", order="random")
    given = study.evaluate(store, store.folder.parent / "truth")["labels"]["given"]
    assert found["curve"][0] == pytest.approx(given["dice_mean"])
    assert found["curve"][-1] == found["end"]["dice_mean"] >= found["curve"][0] - 1e-3
    assert len(found["curve"]) == found["seen"] + 1 == found["accepted"] + found["rejected"] + 1


def test_without_regions_there_is_nothing_to_simulate(tmp_path):
    write_cases(tmp_path, 2)
    study.make_project(tmp_path / "project", tmp_path / "images", {"organ": tmp_path / "labels"})
    with ProjectStore.open(tmp_path / "project") as store, pytest.raises(NothingToDo):
        study.simulate(store, tmp_path / "labels")


# ---------------------------------------------------------------- corrupt


def test_corrupt_keeps_name_format_values_and_type_and_tells_the_true_errors(tmp_path):
    write_cases(tmp_path, 2)
    made = study.corrupt_folder(tmp_path / "labels", tmp_path / "out", "boundary")
    for path in (tmp_path / "labels").iterdir():
        true, spoiled = nib.load(path), nib.load(made.labels / path.name)
        wrong = np.asarray(nib.load(made.errors / path.name).dataobj) != 0
        assert spoiled.get_data_dtype() == true.get_data_dtype()
        assert np.array_equal(np.asarray(true.dataobj) != np.asarray(spoiled.dataobj), wrong)
        assert set(np.unique(np.asarray(spoiled.dataobj))) <= {0, 3, 7}


def test_only_the_share_is_spoiled_and_held_out_cases_never(tmp_path):
    write_cases(tmp_path, 6)
    (tmp_path / "split.json").write_text(json.dumps({"train": [f"case-{i}" for i in range(4)], "val": ["case-4"]}))
    (tmp_path / "labels" / "case-5.nii.gz").unlink()
    made = study.corrupt_folder(
        tmp_path / "labels", tmp_path / "out", "missing", share=0.5, split=tmp_path / "split.json"
    )
    record = json.loads((made.errors / "noise.json").read_text())
    assert len(made.spoiled) == 2 and "case-4" not in made.spoiled
    assert {name for name, entry in record.items() if entry["voxels_wrong"]} == set(made.spoiled)
    assert sorted(record) == [f"case-{i}" for i in range(5)]


def test_a_case_is_spoiled_alike_whatever_the_share(tmp_path):
    write_cases(tmp_path, 4)
    all_of_them = study.corrupt_folder(tmp_path / "labels", tmp_path / "all", "markov", seed=3)
    half = study.corrupt_folder(tmp_path / "labels", tmp_path / "half", "markov", seed=3, share=0.5)
    for name in half.spoiled:
        assert (all_of_them.labels / f"{name}.nii.gz").read_bytes() == (half.labels / f"{name}.nii.gz").read_bytes()


def test_png_labels_of_0_and_255_stay_so(tmp_path):
    mask = np.zeros((40, 30), np.uint8)
    mask[8:30, 5:25] = 255
    save_png(mask, tmp_path / "labels" / "a.png")
    made = study.corrupt_folder(tmp_path / "labels", tmp_path / "out", "missing")
    spoiled = np.asarray(Image.open(made.labels / "a.png"))
    assert set(np.unique(spoiled)) == {0, 255} and not np.array_equal(spoiled, mask)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"noise": "fog"}, UnknownName),
        ({"severity": 2}, BadSetting),
        ({"share": -1}, BadSetting),
        ({"settings": {"speed": 3}}, BadSetting),
        ({"settings": {"ball": 7}}, BadSetting),
    ],
)
def test_corrupt_refuses_before_it_writes(tmp_path, options, error):
    write_cases(tmp_path, 1)
    with pytest.raises(error):
        study.corrupt_folder(tmp_path / "labels", tmp_path / "out", **{"noise": "missing", **options})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "labels"]


def test_corrupt_never_writes_into_its_source_or_over_files(tmp_path):
    write_cases(tmp_path, 1)
    for out in (tmp_path / "labels", tmp_path / "labels" / "noisy", tmp_path / "images"):
        with pytest.raises(ExportRefused):
            study.corrupt_folder(tmp_path / "labels", out, "missing")


# ---------------------------------------------------------------- demo


def test_the_demo_spoils_a_third_of_its_masks_and_keeps_their_truth(tmp_path):
    project = study.make_demo(tmp_path / "demo")
    record = json.loads((study.data_folder(project) / "demo.json").read_text())
    with ProjectStore.open(project, read_only=True) as store:
        found = study.evaluate(store, study.data_folder(project) / "truth")
        assert len(store.cases()) == 24 and len({c.group for c in store.cases()}) == 12
    assert sorted({r["noise"] for r in record.values()}) == ["class-swap", "missing", "shift"]
    assert len(record) == 8 and 0.8 < found["labels"]["given"]["dice_mean"] < 0.95


def test_the_demo_is_made_once_and_never_over_another_project(tmp_path, trained):
    first = study.make_demo(tmp_path / "demo")
    made = (first / "project.sqlite").stat().st_mtime_ns
    assert study.make_demo(tmp_path / "demo") == first
    assert (first / "project.sqlite").stat().st_mtime_ns == made
    with pytest.raises(ProjectExists):
        study.make_demo(trained)
