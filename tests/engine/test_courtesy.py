"""A worker waits while somebody works in the window, and no longer than it should."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from napari_noisylabel.engine import courtesy
from napari_noisylabel.engine.courtesy import PATIENCE_S, QUIET_S, Courtesy, sign_file
from napari_noisylabel.engine.spec import RunSpec, write_spec
from napari_noisylabel.engine.watch import Watch

SPEC = RunSpec("run-001", "cross-entropy", device="cpu")


class Clock:
    """A clock that only sleeping moves. At each moment of `signs` the window leaves one."""

    def __init__(self, folder: Path) -> None:
        self.now, self.signs, self._file = 100.0, [], sign_file(folder)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.signs and self.signs[0] <= self.now:
            self.signs.pop(0)
            self.sign()

    def sign(self) -> None:
        before = self._file.stat().st_mtime_ns if self._file.exists() else 0
        self._file.touch()
        assert self._file.stat().st_mtime_ns >= before
        if self._file.stat().st_mtime_ns == before:  # the file system's clock has not ticked
            time.sleep(0.01)
            self.sign()


@pytest.fixture
def clock(tmp_path, monkeypatch):
    write_spec(tmp_path, SPEC)
    clock = Clock(tmp_path)
    monkeypatch.setattr(courtesy, "time", clock)
    monkeypatch.setattr(courtesy, "cores", lambda: 2)
    return clock


def waited(clock: Clock, politeness: Courtesy) -> float:
    began = clock.now
    politeness.wait()
    return clock.now - began


def test_a_worker_waits_until_the_window_is_quiet(clock, tmp_path):
    politeness = Courtesy(tmp_path, lambda: False)
    assert waited(clock, politeness) == 0
    clock.sign()
    clock.signs = [clock.now + 0.3, clock.now + 0.6]
    assert waited(clock, politeness) == pytest.approx(0.6 + QUIET_S, abs=0.11)
    assert waited(clock, politeness) == 0


def test_a_worker_waits_no_longer_than_its_patience_and_then_again(clock, tmp_path):
    politeness = Courtesy(tmp_path, lambda: False)
    clock.sign()
    clock.signs = [clock.now + i / 5 for i in range(1, int(15 * PATIENCE_S))]
    assert waited(clock, politeness) == pytest.approx(PATIENCE_S, abs=0.06)
    clock.sleep(0.1)  # a step
    assert waited(clock, politeness) == pytest.approx(PATIENCE_S, abs=0.06)


def test_a_worker_that_is_to_stop_does_not_wait(clock, tmp_path):
    politeness = Courtesy(tmp_path, lambda: clock.now > 100.5)
    clock.sign()
    clock.signs = [clock.now + i / 5 for i in range(1, int(15 * PATIENCE_S))]
    assert waited(clock, politeness) < 0.6


def test_a_sign_from_before_the_worker_counts_for_nothing(clock, tmp_path):
    clock.sign()
    assert waited(clock, Courtesy(tmp_path, lambda: False)) == 0


@pytest.mark.parametrize("spec", [replace(SPEC, device="cuda"), replace(SPEC, engine={"gives_way": False})])
def test_a_worker_on_a_gpu_or_with_the_setting_off_does_not_wait(clock, tmp_path, spec):
    write_spec(tmp_path, spec)
    politeness = Courtesy(tmp_path, lambda: False)
    clock.sign()
    assert waited(clock, politeness) == 0


def test_a_worker_on_many_cores_does_not_wait(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(courtesy, "cores", lambda: courtesy.FEW_CORES + 1)
    politeness = Courtesy(tmp_path, lambda: False)
    clock.sign()
    assert waited(clock, politeness) == 0


def test_the_window_leaves_at_most_ten_signs_a_second_and_none_to_a_filter(tmp_path, monkeypatch):
    touched = []
    monkeypatch.setattr(Path, "touch", lambda path: touched.append(path.name))
    monkeypatch.setattr(Watch, "_started", lambda *_: None)
    for task in ("train", "filter"):
        (tmp_path / "runs" / task).mkdir(parents=True)
        watch = Watch(tmp_path, task, task)
        began = time.monotonic()
        while time.monotonic() - began < 0.35:
            watch.person_at_work()
    assert touched[0] == "in-use" and 3 <= len(touched) <= 5
