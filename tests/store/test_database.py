"""Kill, fill the disk, take WAL away: no decision is lost, none is half applied."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from napari_noisylabel.errors import DiskFull, ReadOnlyProject
from napari_noisylabel.records import RegionState
from napari_noisylabel.store import ProjectStore, database

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, limits or users")

REVIEW = """
import sys
from pathlib import Path
from napari_noisylabel.records import Event, RegionState, Verdict
from napari_noisylabel.store import ProjectStore, undoing
with ProjectStore.open(Path(sys.argv[1])) as store:
    print("ready", flush=True)
    for count, region in enumerate(store.regions(states=[RegionState.OPEN])):
        runs = store.region_runs(region.id)
        event = Event(0, "", "ann", Verdict.ACCEPTED, region.case, region.track, runs, region.run, region.id)
        print(store.append(event).number, flush=True)
        if count % 3 == 2:
            print(store.append(undoing(store.undo_target(), "ann")).number, flush=True)
print("end", flush=True)
"""


def review_until_killed(start_python, folder, seconds: float) -> int:
    """The last event that a reviewing process said was stored before it was killed."""
    process = start_python(REVIEW, folder)
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.kill()
    return max((int(line) for line in process.communicate()[0].split() if line.isdigit()), default=0)


@posix
def test_a_kill_loses_no_decision_and_leaves_none_half_applied(store, folder, propose, given, start_python):
    propose(*([voxel] for voxel in range(given.size)))
    store.close()
    for seconds in random.Random(2).choices([0.0, 0.01, 0.02, 0.05], k=5):
        with ProjectStore.open(folder) as before:
            known = before.label_version
        told = review_until_killed(start_python, folder, seconds)
        with ProjectStore.open(folder) as after:
            assert max(known, told) <= after.label_version
            accepted = {r.id for r in after.regions(states=[RegionState.ACCEPTED])}
            assert accepted == {event.region for event in after.active_events()}
            assert after.corrected("case-1", "organ", given).sum() == len(accepted)
            assert after._database.rows("PRAGMA integrity_check") == [("ok",)]


def test_a_reader_sees_what_is_stored_while_the_writer_goes_on(store, folder, make_event, given):
    with ProjectStore.open(folder, read_only=True) as reader:
        for voxel in range(5):
            store.append(make_event([voxel]))
            assert reader.corrected("case-1", "organ", given).sum() == voxel + 1


def test_a_worker_process_reads_while_the_window_writes(store, folder, make_event, start_python):
    script = """
import sys
from pathlib import Path
from napari_noisylabel.store import ProjectStore
with ProjectStore.open(Path(sys.argv[1]), read_only=True) as store:
    while store.label_version < 20:
        assert len(store.events()) <= store.label_version
print("saw all")
"""
    worker = start_python(script, folder)
    for voxel in range(20):
        store.append(make_event([voxel]))
    assert worker.communicate(timeout=30)[0] == "saw all\n"


def test_the_journal_is_wal_where_the_file_system_grants_it(store):
    assert store.journal == "wal"
    assert store._database.rows("PRAGMA synchronous") == [(2,)]


@pytest.fixture
def no_wal(monkeypatch):
    """SQLite's dot-file locking has no shared memory: it refuses WAL as some shares do."""
    connect = sqlite3.connect

    def refuse(address, **options):
        return connect(address + "&vfs=unix-dotfile", **options)

    monkeypatch.setattr(database.sqlite3, "connect", refuse)


@posix
def test_where_wal_is_refused_a_rollback_journal_serves(folder, tracks, make_case, make_event, given, no_wal):
    with ProjectStore.create(folder, "x", tracks, [make_case()]) as store:
        assert store.journal == "delete"
        store.append(make_event([1, 2]))
        assert store.corrected("case-1", "organ", given).sum() == 2
    with ProjectStore.open(folder, read_only=True) as reader:
        assert reader.label_version == 1


@posix
def test_a_project_in_wal_mode_can_move_to_a_share(store, folder, make_event, request):
    store.append(make_event([1]))
    store.close()
    request.getfixturevalue("no_wal")
    with ProjectStore.open(folder) as moved:
        assert moved.journal == "delete" and moved.append(make_event([2])).number == 2


def test_wal_is_not_used_on_a_network_share(store, folder, monkeypatch):
    store.close()
    monkeypatch.setattr(database, "is_network", lambda path: True)
    with ProjectStore.open(folder) as again:
        assert again.journal == "delete"


def test_a_full_disk_is_said_and_the_log_stays_whole(store, make_event, given, propose):
    propose([1])
    pages = store._database.raw.execute("PRAGMA page_count").fetchone()[0]
    store._database.raw.execute(f"PRAGMA max_page_count={pages}")
    rng = np.random.default_rng(0)
    with pytest.raises(DiskFull, match="no room left on the device"):
        for _ in range(3000):
            store.append(make_event(np.flatnonzero(rng.random(60) < 0.5), after=rng.integers(1, 3)))
    assert store.events()[-1].number == store.label_version
    store._database.raw.execute("PRAGMA max_page_count=1000000")
    assert store.append(make_event([1], region=1)).number == store.label_version


@posix
def test_a_full_disk_while_the_journal_grows_is_said_too(store, folder, start_python):
    store.close()
    script = """
import resource, sys
from pathlib import Path
from napari_noisylabel.arrays.labels import encode_indices
from napari_noisylabel.errors import DiskFull
from napari_noisylabel.records import Event, Verdict
from napari_noisylabel.store import ProjectStore
import numpy as np
store = ProjectStore.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
told = 0
try:
    while True:
        event = Event(0, "", "ann", Verdict.EDITED, "case-1", "organ", encode_indices(np.arange(9), 0, 1))
        told = store.append(event).number
except DiskFull:
    assert told == store.label_version, (told, store.label_version)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(told, store.append(event).number)
"""
    told, then = map(int, start_python(script, folder).communicate(timeout=60)[0].split())
    assert then == told + 1 and told > 1


def test_a_project_cannot_be_made_on_a_full_disk_and_can_be_once_there_is_room(folder, tracks, make_case, monkeypatch):
    def full(connection):
        raise _sqlite_full()

    with monkeypatch.context() as patched:
        patched.setattr("napari_noisylabel.store.make.migrate", full)
        with pytest.raises(DiskFull):
            ProjectStore.create(folder, "x", tracks, [make_case()])
    assert not folder.exists()
    ProjectStore.create(folder, "x", tracks, [make_case()]).close()


def _sqlite_full() -> sqlite3.OperationalError:
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA max_page_count=1")
    try:
        connection.execute("CREATE TABLE t (x)")
    except sqlite3.OperationalError as error:
        return error
    finally:
        connection.close()
    raise AssertionError("SQLite has found room")


# ---------------------------------------------------------------- a folder that may not be written


def _as_another_user(folder: str, told: multiprocessing.Queue) -> None:
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        ProjectStore.open(Path(folder))
    except ReadOnlyProject as error:
        told.put(str(error))
    with ProjectStore.open(Path(folder), read_only=True) as store:
        told.put([event.number for event in store.events()])


@pytest.fixture
def locked_folder(store, folder, make_event):
    """A copy of a project whose writer was killed, in a folder that may only be read."""
    store.append(make_event([1]))
    store.append(make_event([2]))
    top = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    top.chmod(0o755)
    copy = top / "project"
    shutil.copytree(folder, copy)
    for path in (copy, *copy.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield copy
    for path in (copy, *copy.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(top)


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.parametrize("left", ["wal and index", "wal alone", "nothing"])
def test_a_folder_that_may_not_be_written_can_be_read_with_all_events(locked_folder, store, left):
    locked_folder.chmod(0o755)
    (locked_folder / "project.lock").unlink()
    if left == "wal alone":
        (locked_folder / "project.sqlite-shm").unlink()
    if left == "nothing":
        store.close()
        for path in locked_folder.glob("project.sqlite-*"):
            path.unlink()
        shutil.copyfile(store.folder / "project.sqlite", locked_folder / "project.sqlite")
    locked_folder.chmod(0o555)
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=_as_another_user, args=(str(locked_folder), told))
    process.start()
    assert "may not be written by you. Open the project read-only" in told.get(timeout=20)
    assert told.get(timeout=20) == [1, 2]
    process.join()
