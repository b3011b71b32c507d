"""What a project keeps, and who may open it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_noisylabel.arrays.labels import encode_indices
from napari_noisylabel.errors import (
    BadSetting,
    NotAProject,
    NothingToDo,
    ProjectExists,
    ReadOnlyProject,
    ShapeMismatch,
    UnknownName,
)
from napari_noisylabel.records import Filter, FilterLevel, MixtureFit, RunState, SourceFile, Verdict
from napari_noisylabel.store import ProjectStore


def test_a_project_keeps_its_cases_and_tracks_as_they_were(folder, tracks, make_case):
    cases = [make_case("b"), make_case("a", shape=(7, 6))]
    ProjectStore.create(folder, "livers", tracks, cases).close()

    with ProjectStore.open(folder) as store:
        assert (store.name, store.tracks, store.read_only) == ("livers", tracks, False)
        assert store.cases() == tuple(cases)


def test_images_keep_their_channel_order(folder, tracks, make_case):
    files = tuple(SourceFile(Path(f"/data/c_{i:04}.nii"), i, i, "") for i in range(12))
    with ProjectStore.create(folder, "x", tracks, [replace(make_case(), images=files)]) as store:
        assert store.case("case-1").images == files


def test_files_inside_the_project_move_with_it(tmp_path, tracks, make_case):
    ProjectStore.create(tmp_path / "old", "x", tracks, [make_case(folder=tmp_path / "old" / "data")]).close()
    (tmp_path / "old").rename(tmp_path / "new")

    with ProjectStore.open(tmp_path / "new") as store:
        assert store.case("case-1").images[0].path == tmp_path / "new" / "data" / "case-1.nii.gz"


def test_a_path_that_leads_out_of_the_project_is_refused(store, folder):
    with store._database.writing() as connection:
        connection.execute("UPDATE sources SET path = '../../etc/passwd'")
    store.close()
    with pytest.raises(NotAProject, match="must stay inside"):
        ProjectStore.open(folder)


@pytest.mark.parametrize("case_id", ["../x", "", ".hidden", "a/b", "a\\b"])
def test_a_case_id_that_is_no_plain_name_is_refused(folder, tracks, make_case, case_id):
    with pytest.raises(BadSetting, match="plain name"):
        ProjectStore.create(folder, "x", tracks, [make_case(case_id)])


def test_a_case_id_comes_once_and_a_failed_start_can_be_tried_again(folder, tracks, make_case):
    with pytest.raises(BadSetting, match="comes twice"):
        ProjectStore.create(folder, "x", tracks, [make_case(), make_case()])
    with ProjectStore.create(folder, "x", tracks, [make_case()]) as store:
        assert len(store.cases()) == 1


def test_a_folder_with_other_files_or_a_project_is_refused(tmp_path, store, folder, tracks):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ProjectExists, match=r"holds 'photo.jpg'|holds 'project'"):
        ProjectStore.create(tmp_path, "x", tracks, [])
    with pytest.raises(ProjectExists, match="holds a project already"):
        ProjectStore.create(folder, "x", tracks, [])


def test_a_folder_without_project_is_named(tmp_path):
    with pytest.raises(NotAProject, match="holds no project"):
        ProjectStore.open(tmp_path)


def test_damaged_files_are_said_to_be_damaged(store, folder):
    store.close()
    (folder / "project.sqlite").write_bytes(b"x" * 8192)
    with pytest.raises(NotAProject, match="damaged"):
        ProjectStore.open(folder)
    (folder / "project.json").write_text('{"schema": 1,')
    with pytest.raises(NotAProject, match="must be JSON"):
        ProjectStore.open(folder)


def test_names_that_are_not_there_say_what_is(store):
    with pytest.raises(UnknownName, match="no case 'case-9'. It has case-1, case-2"):
        store.case("case-9")
    with pytest.raises(UnknownName, match="no track 'bone'. It has organ, tumour"):
        store.track("bone")
    for ask in (store.run, store.region, store.region_runs, store.event):
        with pytest.raises(UnknownName):
            ask(7)


def test_a_changed_source_is_stored_when_the_person_says_so(store, folder):
    moved = SourceFile(Path("/elsewhere/new.nii.gz"), 5, 6, "ef" * 32)
    store.update_source("case-1", moved, replaces=Path("/data/case-1.nii.gz"))
    store.close()
    with ProjectStore.open(folder) as again:
        assert again.case("case-1").images == (moved,)
        assert again.case("case-2").images[0].size == 1234
        with pytest.raises(UnknownName, match="has no file"):
            again.update_source("case-1", SourceFile(Path("/none"), 1, 1, ""))


def test_runs_are_numbered_and_have_a_folder(store, make_run):
    first, second = (
        store.add_run(make_run()),
        store.add_run(make_run(seed=np.int64(8), settings={"a": np.float32(1)})),
    )
    assert (first.id, second.id, second.seed, first.created[:2]) == ("run-001", "run-002", 8, "20")
    assert store.run_folder("run-002") == store.folder / "runs" / "run-002" and store.run_folder("run-002").is_dir()
    assert store.run("run-001") == first


def test_a_used_run_folder_is_not_used_again(store, make_run):
    (store.folder / "runs" / "run-001").mkdir()
    (store.folder / "runs" / "run-001" / "checkpoint").touch()
    assert store.add_run(make_run()).id == "run-002"


def test_the_latest_complete_run_is_the_youngest_that_ended(store, make_run):
    for _ in range(3):
        store.add_run(make_run())
    assert store.latest_complete_run() is None
    store.set_run("run-001", state=RunState.COMPLETE, finished="now")
    store.set_run("run-002", state="complete", message="well")
    assert store.latest_complete_run().id == "run-002" and store.run("run-002").message == "well"
    with pytest.raises(BadSetting, match="can change"):
        store.set_run("run-001", seed=3)


def test_filters_count_up_per_run(store, make_run):
    for _ in range(2):
        store.add_run(make_run())
    fit = MixtureFit((0.1, 2.0), (0.2, 0.3), (0.9, 0.1), True, "", 1e6)
    asked = Filter("run-001", 0, FilterLevel.REGION, 0.5, {"organ": (fit, fit)}, "strict")

    written = [
        store.add_filter(asked),
        store.add_filter(asked),
        store.add_filter(replace(asked, run="run-002")),
    ]

    assert [f.version for f in written] == [1, 2, 1]
    assert store.latest_filter("run-001") == written[1] and store.latest_filter("run-003") is None


def test_settings_and_drafts_survive_a_reopen(store, folder):
    store.set_setting("contrast", {"window": [40, 400]})
    store.save_draft("case-1", "organ", encode_indices(np.array([3, 4]), 0, 2))
    store.close()
    with ProjectStore.open(folder) as again:
        assert again.get_setting("contrast") == {"window": [40, 400]} and again.get_setting("none", 3) == 3
        assert again.draft("case-1", "organ").lengths.tolist() == [2]
        assert again.draft("case-1", "tumour") is None
        again.clear_draft("case-1", "organ")
        assert again.draft("case-1", "organ") is None


def test_an_edit_ends_its_draft_and_another_verdict_does_not(store, make_event):
    draft = encode_indices(np.array([3, 4]), 0, 2)
    store.save_draft("case-1", "organ", draft)
    store.append(make_event([7]))
    assert store.draft("case-1", "organ") is not None
    store.append(make_event([3, 4], Verdict.EDITED, 0, 2))
    assert store.draft("case-1", "organ") is None


def test_a_project_opened_for_reading_refuses_to_write(store, folder, make_event):
    store.close()
    with ProjectStore.open(folder, read_only=True) as reader:
        assert reader.read_only and len(reader.cases()) == 2
        with pytest.raises(ReadOnlyProject, match="opened for reading"):
            reader.append(make_event([1]))
        with pytest.raises(ReadOnlyProject):
            reader.set_setting("a", 1)


def test_given_labels_on_another_grid_are_refused(store):
    with pytest.raises(ShapeMismatch, match=r"labels \(3, 5, 4\), image \(3, 4, 5\), case 'case-1'"):
        store.corrected("case-1", "organ", np.zeros((3, 5, 4), np.uint8))


def test_changes_of_one_transaction_are_written_together_or_not_at_all(store, folder, make_run, propose):
    propose([1])
    with pytest.raises(UnknownName), store.transaction():
        store.set_run("run-001", state=RunState.COMPLETE)
        store.set_setting("a", 1)
        store.set_run("run-009", state=RunState.COMPLETE)
    assert not store._database.raw.in_transaction
    assert store.run("run-001").state == RunState.RUNNING and store.get_setting("a") is None
    with ProjectStore.open(folder, read_only=True) as reader, store.transaction():
        store.set_setting("a", 1)
        assert (store.get_setting("a"), reader.get_setting("a")) == (1, None)
    assert store.get_setting("a") == 1


def test_a_part_of_a_transaction_that_fails_leaves_the_rest(store, make_event):
    with store.transaction():
        store.append(make_event([1]))
        with pytest.raises(NothingToDo):
            store.append_all([make_event([2]), make_event([3], Verdict.REDONE, target=1)])
        store.set_setting("a", 1)
    assert [event.number for event in store.events()] == [1] and store.get_setting("a") == 1


def test_damaged_cases_are_said_to_be_damaged(store, folder):
    with store._database.writing() as connection:
        connection.execute("UPDATE cases SET geometry = '{}' WHERE id = 'case-2'")
    store.close()
    with pytest.raises(NotAProject, match="is damaged: 'affine'"):
        ProjectStore.open(folder)
