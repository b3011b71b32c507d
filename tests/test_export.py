from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_noisylabel import export
from napari_noisylabel.arrays.labels import encode_indices
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.errors import DiskFull, ExportRefused, NothingToDo, SourceChanged
from napari_noisylabel.export import export_project
from napari_noisylabel.io.cases import make_cases, make_tracks
from napari_noisylabel.io.checks import check_cases
from napari_noisylabel.io.files import file_hash
from napari_noisylabel.io.pairing import find_cases
from napari_noisylabel.records import Event, Run, RunState, Verdict
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.events import undoing

# Turned, flipped, and of three voxel sizes: 1, 2 and 3.5 mm.
AFFINE = np.array([[-0.8, 1.2, 0, 40], [0.6, 1.6, 0, -25], [0, 0, 3.5, 7], [0, 0, 0, 1.0]])
SHAPE = (4, 5, 6)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, np.ndarray]:
    """Label arrays (Z, Y, X) of cases a and b with the values 0, 3 and 9; the files are beside them."""
    rng = np.random.default_rng(0)
    made = {name: rng.choice([0, 3, 9], SHAPE).astype(np.int16) for name in "ab"}
    for name, labels in made.items():
        for folder, array in (("images", rng.normal(size=SHAPE).astype(np.float32)), ("labels", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array.T, AFFINE), tmp_path / folder / f"{name}.nii.gz")
    return made


def make_store(tmp_path: Path, tracks: dict[str, Path]) -> ProjectStore:
    checked = list(check_cases(find_cases(tmp_path / "images", tracks)))
    return ProjectStore.create(tmp_path / "project", "livers", make_tracks(checked), make_cases(checked))


@pytest.fixture
def store(tmp_path: Path, given: dict[str, np.ndarray]) -> Iterator[ProjectStore]:
    with make_store(tmp_path, {"organ": tmp_path / "labels"}) as opened:
        yield opened


def decide(store: ProjectStore, labels: np.ndarray, indices: list[int], to: int, case: str = "a") -> Event:
    """Ann makes voxels of a case class `to`; `labels` hold source values."""
    before = np.searchsorted([0, 3, 9], labels.ravel()[indices]).astype(np.uint8)
    runs = encode_indices(np.array(indices), before, to)
    return store.append(Event(0, "", "ann", Verdict.ACCEPTED, case, "organ", runs, note="seen"))


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).T


def snapshot(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): file_hash(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_was_decided_leaves_in_the_values_type_and_geometry_of_its_source(store, given, tmp_path):
    decide(store, given["a"], [0, 1, 2, 50], 2)
    result = export_project(store, tmp_path / "out", None)
    expected = given["a"].copy()
    expected.ravel()[[0, 1, 2, 50]] = 9
    made, source = nib.load(tmp_path / "out" / "a.nii.gz"), nib.load(tmp_path / "labels" / "a.nii.gz")
    np.testing.assert_array_equal(read(result.files[0]), expected)
    np.testing.assert_array_equal(read(result.files[1]), given["b"])
    np.testing.assert_array_equal(made.affine, source.affine)
    assert made.get_data_dtype() == np.int16 and bytes(made.header.binaryblock) == bytes(source.header.binaryblock)


def test_the_record_of_origin_explains_every_voxel_that_differs(store, given, tmp_path):
    event = decide(store, given["a"], [0, 1, 2, 50], 2)
    decide(store, given["a"], [7, 8], 0)
    store.append(undoing(store.undo_target(), "bob"))
    result = export_project(store, tmp_path / "out", None)
    origin = json.loads(result.origin.read_text())
    entry = origin["files"][0]
    changed = int((given["a"].ravel()[[0, 1, 2, 50]] != 9).sum())
    assert (read(result.files[0]) != given["a"]).sum() == changed
    first = entry["events"][0]
    assert (first["by"], first["number"], first["voxels"], first["voxels_changed"]) == ("ann", event.number, 4, changed)
    assert [(e["by"], e["verdict"], e["target"]) for e in entry["events"][2:]] == [("bob", "undone", event.number + 1)]
    assert first["time"].startswith("20") and first["note"] == "seen"
    assert entry["sha256"] == file_hash(result.files[0]) and entry["source_sha256"] == file_hash(Path(entry["source"]))
    assert origin["files"][1]["events"] == [] and origin["version"] and origin["written"]


def test_a_voxel_that_no_decision_explains_does_not_leave(store, given, tmp_path, monkeypatch):
    decide(store, given["a"], [0], 2)
    true = store.corrected

    def tampered(*args):
        labels = true(*args)
        labels.ravel()[77] = (labels.ravel()[77] + 1) % 3
        return labels

    monkeypatch.setattr(store, "corrected", tampered)
    with pytest.raises(ExportRefused, match="1 voxels of case 'a' differ from the given labels"):
        export_project(store, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_a_volume_with_another_grid_than_its_source_is_refused(store, tmp_path, monkeypatch):
    def shifted(source, values, out):
        moved = AFFINE.copy()
        moved[0, 3] += 0.5
        nib.save(nib.Nifti1Image(np.asarray(values).T, moved), out)

    monkeypatch.setattr(export, "write_labels", shifted)
    with pytest.raises(ExportRefused, match=r"a.nii.gz would not have the grid of its source: .*0.5 mm"):
        export_project(store, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["labels", "images"])
def test_a_source_folder_is_refused_even_when_overwriting(store, tmp_path, where):
    before = snapshot(tmp_path / where)
    with pytest.raises(ExportRefused, match="holds given files, which are never written"):
        export_project(store, tmp_path / where, None, overwrite=True)
    assert snapshot(tmp_path / where) == before


def test_a_folder_above_two_source_folders_is_refused_too(given, tmp_path):
    (tmp_path / "labels").rename(tmp_path / "x")
    (tmp_path / "given").mkdir()
    for track in ("organ", "tumour"):
        (tmp_path / "given" / track).mkdir()
        for file in (tmp_path / "x").iterdir():
            (tmp_path / "given" / track / file.name).write_bytes(file.read_bytes())
    tracks = {t: tmp_path / "given" / t for t in ("organ", "tumour")}
    with make_store(tmp_path, tracks) as store:
        run = store.add_run(Run("", "m", {}, {}, 0, 2, 1, 0, RunState.COMPLETE, ""))
        before = snapshot(tmp_path / "given")
        for what in ("corrected", "likelihood"):
            with pytest.raises(ExportRefused, match="never written"):
                export_project(store, tmp_path / "given", run, what=what, overwrite=True)
        assert snapshot(tmp_path / "given") == before
        result = export_project(store, tmp_path / "out", None)
        names = sorted(str(f.relative_to(tmp_path / "out")) for f in result.files)
        assert names == ["organ/a.nii.gz", "organ/b.nii.gz", "tumour/a.nii.gz", "tumour/b.nii.gz"]


def test_existing_files_need_overwrite_and_then_are_replaced(store, given, tmp_path):
    export_project(store, tmp_path / "out", None)
    (tmp_path / "out" / "mine.txt").write_text("keep")
    decide(store, given["a"], [0, 1, 2], 1)
    with pytest.raises(ExportRefused, match="3 of the files exist already.*--overwrite"):
        export_project(store, tmp_path / "out", None)
    export_project(store, tmp_path / "out", None, overwrite=True)
    assert (read(tmp_path / "out" / "a.nii.gz").ravel()[:3] == 3).all()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz", "mine.txt", "origin.json"]


def test_all_files_arrive_or_those_before_stay(store, given, tmp_path, monkeypatch):
    export_project(store, tmp_path / "out", None)
    decide(store, given["a"], [0, 1, 2], 1)
    (tmp_path / "out" / "b.nii.gz").unlink()
    (tmp_path / "out" / "b.nii.gz").mkdir()
    (tmp_path / "out" / "b.nii.gz" / "mine.txt").write_text("keep")
    before = snapshot(tmp_path / "out")
    with pytest.raises(ExportRefused, match="Nothing was written"):
        export_project(store, tmp_path / "out", None, overwrite=True)
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("when", ["write_labels", "write_json"])
def test_without_room_nothing_is_left_behind(store, tmp_path, monkeypatch, when):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, when, no_room)
    with pytest.raises(DiskFull, match="Nothing was written"):
        export_project(store, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_a_source_that_has_changed_or_gone_is_said_as_such(store, tmp_path):
    (tmp_path / "labels" / "b.nii.gz").write_bytes((tmp_path / "labels" / "a.nii.gz").read_bytes() + b"\0")
    with pytest.raises(SourceChanged):
        export_project(store, tmp_path / "out", None)
    (tmp_path / "labels" / "b.nii.gz").unlink()
    with pytest.raises(Exception, match="b.nii.gz") as caught:
        export_project(store, tmp_path / "out", None)
    assert not isinstance(caught.value, DiskFull) and not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(store, tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(ExportRefused, match="cannot be written"):
        export_project(store, tmp_path / "out", None)
    assert (tmp_path / "out").read_text() == "not a folder"


@pytest.mark.parametrize("asked", [{"what": "everything"}, {"format": "dicom"}])
def test_unknown_kinds_and_formats_are_refused(store, tmp_path, asked):
    with pytest.raises(ExportRefused, match="corrected, likelihood, proposal in format same, nifti"):
        export_project(store, tmp_path / "out", None, **asked)


def test_likelihood_and_proposal_leave_beside_the_labels_and_need_a_run(store, tmp_path):
    with pytest.raises(NothingToDo, match="none is complete"):
        export_project(store, tmp_path / "out", None, what="likelihood")
    run = store.add_run(Run("", "m", {}, {}, 0, 2, 1, 0, RunState.COMPLETE, ""))
    with pytest.raises(NothingToDo, match="has no proposal of case 'a'"):
        export_project(store, tmp_path / "out", run, what="proposal")
    rng = np.random.default_rng(1)
    stored = {name: rng.integers(0, 3, SHAPE).astype(np.uint8) for name in "ab"}
    for name, proposal in stored.items():
        CaseScores(store.run_folder(run.id), name).write("organ.proposal", proposal)
        CaseScores(store.run_folder(run.id), name).write("organ.likelihood", proposal * 100)
    export_project(store, tmp_path / "out", run, what="proposal")
    export_project(store, tmp_path / "maps", run, what="likelihood")
    np.testing.assert_array_equal(read(tmp_path / "out" / "a_proposal.nii.gz"), np.array([0, 3, 9])[stored["a"]])
    likelihood = nib.load(tmp_path / "maps" / "b_likelihood.nii.gz")
    np.testing.assert_array_equal(likelihood.affine, nib.load(tmp_path / "labels" / "b.nii.gz").affine)
    found = np.asarray(likelihood.dataobj).T
    np.testing.assert_allclose(found / found.max(), stored["b"] / 2, atol=0.01)
    origin = json.loads((tmp_path / "maps" / "origin.json").read_text())
    assert [r["id"] for r in origin["runs"]] == [run.id] and origin["what"] == "likelihood"


def test_pictures_keep_their_depth_and_values_or_become_nifti(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        for folder, array in (("images", rng.integers(0, 255, (9, 13))), ("labels", 255 * (rng.random((9, 13)) > 0.5))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / folder / f"{name}.png")
    with make_store(tmp_path, {"organ": tmp_path / "labels"}) as store:
        same = export_project(store, tmp_path / "same", None).files
        nifti = export_project(store, tmp_path / "nifti", None, format="nifti").files
    source = np.asarray(Image.open(tmp_path / "labels" / "a.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(same[0])), source)
    assert nifti[0].name == "a.nii.gz"
    np.testing.assert_array_equal(read(nifti[0]).squeeze(), source)
