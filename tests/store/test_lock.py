"""One program writes; others are told which, and may read."""

from __future__ import annotations

import json
import os
import socket

import psutil
import pytest

from napari_noisylabel.errors import ProjectLocked
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.lock import Holder, is_gone, read_holder

HOLD = """
import sys, time
from pathlib import Path
from napari_noisylabel.store import ProjectStore
store = ProjectStore.open(Path(sys.argv[1]))
print("open", flush=True)
time.sleep(60)
"""


def set_holder(folder, **changes):
    path = folder / "project.lock"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def held(store, folder, start_python):
    store.close()
    process = start_python(HOLD, folder)
    assert process.stdout.readline() == "open\n"
    return process


def test_a_second_writer_is_refused_and_told_who_it_is(held, folder):
    with pytest.raises(ProjectLocked, match=f"process {held.pid} on {socket.gethostname()}, since 20.* read-only"):
        ProjectStore.open(folder)


def test_reading_is_allowed_meanwhile(held, folder):
    with ProjectStore.open(folder, read_only=True) as reader:
        assert len(reader.cases()) == 2


def test_the_lock_of_a_killed_program_is_taken_over(held, folder):
    held.kill()  # not waited for: a zombie holds nothing
    psutil.wait_procs([psutil.Process(held.pid)], timeout=0.2)
    with ProjectStore.open(folder) as store:
        assert read_holder(folder).pid == os.getpid() and not store.read_only


def test_a_later_process_with_the_same_number_holds_nothing(store, folder):
    set_holder(folder, birth="before the last boot", token="x")
    with ProjectStore.open(folder) as second:
        assert not second.read_only


def test_the_lock_of_another_host_is_left_alone(store, folder):
    set_holder(folder, host="far-away", pid=1, token="x", since="2020-01-02T03:04:05+00:00")
    with pytest.raises(ProjectLocked, match=r"process 1 on far-away, since 2020.* \(\d+ days ago\)"):
        ProjectStore.open(folder)


def test_a_stolen_lock_stops_the_program_that_had_it(store, folder, make_event):
    with ProjectStore.open(folder, steal_lock=True) as thief:
        thief.append(make_event([1]))
        with pytest.raises(ProjectLocked, match="may no longer write"):
            store.append(make_event([2]))
        store.close()
        assert read_holder(folder) is not None  # closing gives back one's own lock only
        assert len(thief.events()) == 1


def test_closing_gives_the_lock_back(store, folder):
    store.close()
    store.close()
    assert not (folder / "project.lock").exists()
    ProjectStore.open(folder).close()


def test_one_program_cannot_open_a_project_twice_for_writing(store, folder):
    with pytest.raises(ProjectLocked, match=f"process {os.getpid()}"):
        ProjectStore.open(folder)
    assert not store.events()


def test_a_damaged_lock_file_is_no_lock(store, folder):
    (folder / "project.lock").write_text("{")
    ProjectStore.open(folder).close()


def test_this_process_is_not_gone_and_one_that_never_was_is(store, folder):
    assert not is_gone(read_holder(folder))
    assert is_gone(Holder(socket.gethostname(), 2**22 + 5, "x", "now", "t"))
