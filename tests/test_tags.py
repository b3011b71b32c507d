"""A project of image-level tags without any mask, through the whole way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_noisylabel import cli, study
from napari_noisylabel.arrays.labels import voxel_indices
from napari_noisylabel.engine.source import iterate_cases, labels_of
from napari_noisylabel.errors import BadSetting, NothingToDo
from napari_noisylabel.io.volumes import read_header, read_labels
from napari_noisylabel.records import IGNORE, RegionState, Verdict
from napari_noisylabel.workbench import Workbench
from tests.phantom_files import SHAPE, case, save_nifti, save_png

N = 6
PLAIN = np.random.default_rng(9).normal(0, 0.1, SHAPE).astype(np.float32)


def write_files(folder: Path) -> Path:
    """Six images of which each second shows a bright core, the truth, and what they show as a table."""
    rows = ["case,findings"]
    for i in range(N):
        truth = (case(i)[1] > 0) & (i % 2 == 1)
        save_nifti(PLAIN + 2 * truth.astype(np.float32), folder / "images" / f"case-{i}.nii.gz")
        save_nifti(truth.astype(np.uint8), folder / "truth" / f"case-{i}.nii.gz")
        rows.append(f"case-{i},{'core' if i % 2 else ''}")
    (folder / "tags.csv").write_text("\n".join(rows))
    return folder


def make(folder: Path) -> Path:
    study.make_project(folder / "project", folder / "images", {}, tags=folder / "tags.csv", unlabelled=True)
    return folder / "project"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Files and a project with one short run of multi-sa. Not to be changed."""
    pytest.importorskip("torch")
    folder = write_files(tmp_path_factory.mktemp("tags"))
    workbench = Workbench()
    workbench.open(make(folder))
    workbench.retrain(
        "multi-sa", settings={"images": 6, "background": 0.2}, epochs=4,
        engine={"steps": 8, "lr": 0.01, "batch": 2, "augment": False, "threads": 1},
    )  # fmt: skip
    for report in workbench.wait():
        assert report.kind != "failed", report.message
    workbench.close()
    return folder


@pytest.fixture
def project(template, tmp_path) -> Path:
    shutil.copytree(template, tmp_path / "own")
    return tmp_path / "own" / "project"


@pytest.fixture
def bench(project):
    opened = Workbench()
    opened.open(project, by="Ada")
    yield opened
    opened.close()


@pytest.fixture
def noisylabel(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = cli.main([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# ---------------------------------------------------------------- new, info


def test_a_project_is_made_of_images_and_tags_alone(noisylabel, tmp_path):
    write_files(tmp_path)
    code, out, _ = noisylabel(
        "new", tmp_path / "p", "--images", tmp_path / "images", "--tags", tmp_path / "tags.csv", "--unlabelled",
        "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["tracks"] == [
        {"name": "labels", "classes": ["background", "core"], "values": [0, 1], "ignore": None}
    ]
    code, out, _ = noisylabel("info", tmp_path / "p")
    assert code == 0 and "tags of 6 cases, 6 of them without a mask: core in 3" in out
    info = json.loads(noisylabel("info", tmp_path / "p", "--json")[1])
    assert [c["tags"]["findings"] for c in info["cases"]] == ["", "core"] * 3


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("case,findings\ncase-0,core\nstranger,core", "'stranger' has none"),
        ("case,findings\ncase-0,core\ncase-1,crust", "'crust' of case 'case-1' is none"),
        ("case,findings\ncase-0,\ncase-1,none", "there is no positive case"),
        ("case,age\ncase-0,3", "no such column"),
    ],
)
def test_bad_tags_are_refused_in_one_sentence(noisylabel, tmp_path, table, says):
    write_files(tmp_path)
    (tmp_path / "tags.csv").write_text(table)
    code, out, err = noisylabel(
        "new", tmp_path / "p", "--images", tmp_path / "images", "--tags", tmp_path / "tags.csv", "--classes", "core"
    )
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_without_labels_and_without_tags_there_is_no_project(noisylabel, tmp_path):
    write_files(tmp_path)
    code, _, err = noisylabel("new", tmp_path / "p", "--images", tmp_path / "images", "--unlabelled")
    assert code == 2 and "needs labels" in err


# ---------------------------------------------------------------- what trains


def test_an_empty_mask_is_background_in_review_and_unknown_in_training(bench):
    store = bench.store
    assert not labels_of(store, store.case("case-1"))["labels"].any()
    (found,) = [c for c in iterate_cases(store, store.label_version) if c.id == "case-1"]
    assert found.labels == {} and found.findings == {"labels": (1,)} and not found.held_out
    region = next(r for r in bench.session.queue if r.case == "case-1")
    bench.review(Verdict.ACCEPTED, region.id)
    (found,) = [c for c in iterate_cases(store, store.label_version) if c.id == "case-1"]
    decided = voxel_indices(store.region_runs(region.id))
    expected = np.full(found.image[0].size, IGNORE, np.uint8)
    expected[decided] = region.to_class
    np.testing.assert_array_equal(found.labels["labels"].ravel(), expected)
    assert found.blank == {"labels"}


def test_a_method_that_learns_from_masks_is_refused_where_there_are_none(bench):
    with pytest.raises(NothingToDo, match="'cross-entropy' learns from masks, and no training case has one"):
        bench.retrain("cross-entropy")


@pytest.mark.parametrize(("findings", "says"), [("", "there is no positive case"), ("core", "in all 6 training cases")])
def test_tags_that_tell_nothing_are_refused_before_a_run_is_made(tmp_path, findings, says):
    write_files(tmp_path)
    held_out = json.dumps({"train": [f"case-{i}" for i in range(6)], "test": ["case-7"]})
    (tmp_path / "split.json").write_text(held_out)
    save_nifti(PLAIN, tmp_path / "images" / "case-7.nii.gz")
    rows = [f"case-{i},{findings}" for i in range(6)] + ["case-7,core"]
    (tmp_path / "tags.csv").write_text("\n".join(["case,findings", *rows]))
    study.make_project(
        tmp_path / "project", tmp_path / "images", {}, tags=tmp_path / "tags.csv", split=tmp_path / "split.json"
    )
    bench = Workbench()
    bench.open(tmp_path / "project")
    with pytest.raises(BadSetting, match=says):
        bench.retrain("multi-sa")
    assert bench.store.runs() == ()
    bench.close()


# ---------------------------------------------------------------- the queue is weak


def test_every_region_is_weak_and_of_a_class_that_the_tags_name(bench):
    queue = bench.session.queue
    assert queue and all(r.weak and (r.from_class, r.to_class) == (0, 1) for r in queue)
    assert {r.case for r in queue} <= {"case-1", "case-3", "case-5"}
    assert bench.session.filter.threshold == 0.5
    assert "weak evidence" in bench.session.filter.note


def test_filtering_again_keeps_the_mark(bench):
    for level in ("voxel", "region", "case"):
        assert all(r.weak for r in bench.propose(level, 0.6))


def test_weak_regions_are_never_accepted_in_bulk(noisylabel, project):
    code, out, err = noisylabel("accept", project)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "never accepted in bulk" in err and "--region ID" in err
    queue = json.loads(noisylabel("queue", project, "--json")[1])
    assert all(r["weak"] is True and r["state"] == "open" for r in queue)
    assert "open, weak" in noisylabel("queue", project)[1]
    code, out, _ = noisylabel("accept", project, "--region", queue[0]["region"], "--json")
    assert code == 0 and json.loads(out) == {"accepted": 1, "voxels": queue[0]["voxels"]}


# ---------------------------------------------------------------- review and export


def test_a_case_without_a_mask_is_shown_with_an_empty_one_and_with_its_class_activation(bench):
    view = bench.load("case-1")
    assert view.given["labels"].shape == SHAPE and not view.given["labels"].any()
    assert view.activation["labels"].dtype == np.uint8 and view.activation["labels"].max() > 200
    assert not bench.load("case-0").activation["labels"].any()  # the tags say that there is nothing


def test_only_what_was_decided_on_leaves_on_the_grid_of_the_image(bench, tmp_path):
    region = bench.session.current
    bench.review(Verdict.ACCEPTED)
    result = bench.export(tmp_path / "out")
    (file,) = result.files
    assert file.name == f"{region.case}.nii.gz"
    image = next(c for c in bench.store.cases() if c.id == region.case).images[0].path
    assert read_header(file).geometry == read_header(image).geometry
    assert int((read_labels(file).array == 1).sum()) == region.voxels
    (entry,) = json.loads(result.origin.read_text())["files"]
    assert (entry["given_mask"], entry["events"][0]["weak"]) == (False, True)


def test_a_whole_case_can_be_verified_as_empty_or_by_a_file(bench, template, tmp_path):
    bench.review(Verdict.VERIFIED, case="case-0", track="labels")
    bench.review(Verdict.VERIFIED, case="case-1", track="labels", labels=template / "truth" / "case-1.nii.gz")
    written = {f.name: read_labels(f).array for f in bench.export(tmp_path / "out").files}
    assert not written["case-0.nii.gz"].any()
    assert written["case-1.nii.gz"].sum() == (case(1)[1] > 0).sum()


def test_nothing_leaves_before_anything_was_decided(bench, tmp_path):
    with pytest.raises(NothingToDo, match="no case of this project has labels"):
        bench.export(tmp_path / "out")
    assert len(bench.export(tmp_path / "proposals", what="proposal").files) == N


def test_undo_takes_the_drawn_mask_away_again(bench):
    region = bench.session.current
    bench.review(Verdict.ACCEPTED)
    bench.review(Verdict.UNDONE)
    assert not labels_of(bench.store, bench.store.case(region.case))["labels"].any()
    assert bench.store.region(region.id).state is RegionState.OPEN


def test_evaluate_measures_proposals_against_the_truth(bench, template):
    found = study.evaluate(bench.store, template / "truth")
    assert found["labels"]["given"]["dice_mean"] == 0.0
    assert 0 <= found["labels"]["proposal"]["dice_mean"] <= 1


def test_a_jpeg_without_a_mask_leaves_as_png(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    save_png(rng.integers(0, 255, (40, 30), np.uint8), tmp_path / "images" / "b.png")
    Image.fromarray(rng.integers(0, 255, (40, 30), np.uint8)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "tags.csv").write_text("case,findings\na,polyp\nb,\n")
    study.make_project(tmp_path / "project", tmp_path / "images", {}, tags=tmp_path / "tags.csv")
    bench = Workbench()
    bench.open(tmp_path / "project")
    bench.review(Verdict.VERIFIED, case="a", track="labels")
    (file,) = bench.export(tmp_path / "out").files
    assert file.name == "a.png" and read_labels(file).array.shape == (40, 30)
    bench.close()
