"""The log: what is written stays, in its order, and makes the labels of today."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from napari_noisylabel.arrays.labels import all_voxels, encode_indices, encode_runs, revert_runs
from napari_noisylabel.errors import BadSetting, NothingToDo, ShapeMismatch, UnknownName
from napari_noisylabel.records import Event, Verdict
from napari_noisylabel.store import ProjectStore, redoing, undoing


def undo(store: ProjectStore) -> Event:
    return store.append(undoing(store.undo_target(), "ann"))


def redo(store: ProjectStore) -> Event:
    return store.append(redoing(store.redo_target(), "ann"))


def test_events_survive_a_reopen(store, folder, make_event, given):
    written = store.append(make_event([3, 4, 9], note="doubtful"))
    store.close()
    with ProjectStore.open(folder) as again:
        (event,) = again.events()
        assert (event.number, event.time, event.by, event.note) == (1, written.time, "ann", "doubtful")
        assert np.flatnonzero(again.corrected("case-1", "organ", given)).tolist() == [3, 4, 9]
        assert again.label_version == again.last_event().number == 1


def test_given_labels_are_not_written(store, make_event, given):
    given.flags.writeable = False
    store.append(make_event([3]))
    corrected = store.corrected("case-1", "organ", given)
    corrected[0, 0, 0] = 2
    assert given.sum() == 0


def test_events_keep_to_their_case_and_track(store, make_event, given):
    store.append(make_event([1], after=2))
    store.append(make_event([1], case="case-2"))
    store.append(make_event([1], track="tumour"))
    assert store.corrected("case-1", "organ", given).ravel()[1] == 2
    assert store.corrected("case-1", "tumour", given).ravel()[1] == 1
    assert [e.number for e in store.events(case="case-1")] == [1, 3]
    assert [e.number for e in store.events(track="organ")] == [1, 2]


def test_undo_and_redo_are_events_and_survive_a_restart(store, folder, make_event, given):
    store.append(make_event([1]))
    store.append(make_event([1], Verdict.EDITED, 1, 2))
    undo(store)
    store.close()
    with ProjectStore.open(folder) as again:
        assert again.corrected("case-1", "organ", given).ravel()[:3].tolist() == [0, 1, 0]
        assert (again.undo_target().number, again.redo_target().number) == (1, 2)
        redo(again)
        assert again.corrected("case-1", "organ", given).ravel()[:3].tolist() == [0, 2, 0]
        assert [e.verdict for e in again.events()] == ["accepted", "edited", "undone", "redone"]


def test_undo_goes_back_step_by_step_and_redo_forward(store, make_event, given):
    for voxel in (1, 2, 3):
        store.append(make_event([voxel]))
    assert [undo(store).target for _ in range(3)] == [3, 2, 1]
    assert store.undo_target() is None and not store.active_events()
    assert store.corrected("case-1", "organ", given).sum() == 0
    assert [redo(store).target for _ in range(3)] == [1, 2, 3]
    assert store.redo_target() is None and len(store.active_events()) == 3
    assert store.corrected("case-1", "organ", given).sum() == 3


def test_a_new_decision_ends_redo(store, make_event):
    store.append(make_event([1]))
    undo(store)
    store.append(make_event([2]))
    assert store.redo_target() is None and store.undo_target().number == 3


def test_an_undo_out_of_turn_is_refused(store, make_event):
    first = store.append(make_event([1]))
    store.append(make_event([1], before=1, after=2))
    with pytest.raises(NothingToDo, match="event 2 comes before event 1"):
        store.append(undoing(first, "ann"))
    with pytest.raises(NothingToDo, match="nothing to redo"):
        store.append(redoing(first, "ann"))
    with pytest.raises(BadSetting, match="only undo and redo"):
        store.append(make_event([1], target=1))
    assert store.label_version == 2


def test_the_labels_of_any_time_come_back(store, make_event, given):
    store.append(make_event([1]))
    store.append(make_event([1], before=1, after=2))
    undo(store)
    values = [store.corrected("case-1", "organ", given, upto=n).ravel()[1] for n in range(4)]
    assert values == [0, 1, 2, 1]


def test_replay_gives_what_loops_over_voxels_give(store, given):
    rng, slow = np.random.default_rng(3), given.copy()
    for _ in range(40):
        mask, after = rng.random(given.shape) < 0.2, rng.integers(0, 3, given.shape, dtype=np.uint8)
        store.append(Event(0, "", "ann", Verdict.EDITED, "case-1", "organ", encode_runs(mask, slow, after)))
        for index in np.ndindex(*given.shape):
            if mask[index]:
                slow[index] = after[index]
    assert (store.corrected("case-1", "organ", given) == slow).all()
    for _ in range(40):
        undo(store)
    assert (store.corrected("case-1", "organ", given) == given).all()


def test_voxels_decided_on_are_verified_until_undone(store, make_event, given):
    assert store.verified("case-1", "organ", given.shape) is None
    store.append(make_event([1, 2]))
    store.append(make_event([5], Verdict.REJECTED, 0, 0))
    store.append(make_event([9], Verdict.UNSURE, 0, 0))
    assert np.flatnonzero(store.verified("case-1", "organ", given.shape)).tolist() == [1, 2, 5]
    undo(store), undo(store)
    assert np.flatnonzero(store.verified("case-1", "organ", given.shape)).tolist() == [1, 2]
    assert np.flatnonzero(store.verified("case-1", "organ", given.shape, upto=3)).tolist() == [1, 2, 5]
    assert store.verified("case-1", "tumour", given.shape) is None


def test_a_whole_case_marked_as_right_is_verified_everywhere(store, given):
    store.append(Event(0, "", "ann", Verdict.VERIFIED, "case-1", "organ", all_voxels(given)))
    assert store.verified("case-1", "organ", given.shape).all()
    assert store.verified("case-2", "organ", given.shape) is None


def test_an_event_that_does_not_fit_is_refused(store, make_event):
    with pytest.raises(ShapeMismatch, match="'case-1' has 60, the event reaches to 61"):
        store.append(make_event([60]))
    with pytest.raises(UnknownName):
        store.append(make_event([1], case="case-9"))
    with pytest.raises(UnknownName, match="no region 77"):
        store.append(make_event([1], region=77))
    assert store.events() == ()


def test_many_events_are_written_all_or_none(store, make_event):
    with pytest.raises(NothingToDo):
        store.append_all([make_event([1]), make_event([2]), make_event([3], Verdict.REDONE, target=2)])
    assert store.events() == ()
    assert [e.number for e in store.append_all([make_event([1]), make_event([2])])] == [1, 2]


def test_an_event_can_be_neither_changed_nor_deleted(store, make_event):
    store.append(make_event([1]))
    for statement in ("UPDATE events SET by = 'eve'", "DELETE FROM events"):
        with (
            pytest.raises(sqlite3.IntegrityError, match="an event is never"),
            store._database.writing() as connection,
        ):
            connection.execute(statement)


def test_threads_may_append_and_read_at_once(store, make_event, given):
    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(store.corrected, "case-1", "organ", given) for _ in range(20)]
        writes = [pool.submit(store.append, make_event([voxel])) for voxel in range(40)]
        numbers = sorted(write.result().number for write in writes)
        [read.result() for read in reads]
    assert numbers == list(range(1, 41)) and store.corrected("case-1", "organ", given).sum() == 40


def test_undoing_turns_an_event_round():
    event = Event(4, "t", "ann", Verdict.EDITED, "c", "organ", encode_indices(np.array([2]), 1, 2), region=3)
    back, again = undoing(event, "bob"), redoing(event, "bob")
    assert (back.target, back.by, back.region, back.runs.after[0]) == (4, "bob", 3, 1)
    assert (again.target, again.runs.after[0], revert_runs(back.runs).after[0]) == (4, 2, 2)


@pytest.mark.slow
def test_a_case_of_80_million_voxels_is_replayed_in_a_second(folder, tracks, make_case):
    shape = (300, 512, 520)
    given, rng = np.zeros(shape, np.uint8), np.random.default_rng(0)
    with ProjectStore.create(folder, "x", tracks, [make_case(shape=shape)]) as store:
        for _ in range(300):
            indices = np.unique(rng.integers(0, given.size, 2000))
            store.append(Event(0, "", "a", Verdict.EDITED, "case-1", "organ", encode_indices(indices, 0, 1)))
        assert store.corrected("case-1", "organ", given).any()
        assert store.verified("case-1", "organ", shape).any()
