"""Start, watch and stop a worker. The window polls; the command line waits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from napari_noisylabel.engine.courtesy import SIGN_EVERY_S, sign_file
from napari_noisylabel.engine.journal import JournalReader, cut_back, journal_file, stop_file
from napari_noisylabel.records import Report

POLL_S = 0.1
TERMINATE_AFTER_S = 0.8
KILL_AFTER_S = 1.0
LAST = ("done", "stopped", "failed")
WORKER_LOG = "worker.log"
WORKER_PID = "worker.pid"


class Watch:
    """A worker and what it reports. Reports of an earlier life of the run are skipped.

    `task` is "train" or "filter". The worker outlives this object, and `attach` finds it again.
    """

    def __init__(self, project: Path, run_id: str, task: str = "train", *, attach: bool = False) -> None:
        self.run_id, self.task = run_id, task
        self._folder = project / "runs" / run_id
        self._stop_asked = self._signed = 0.0
        self._ended = False
        self._process: psutil.Process | psutil.Popen
        if attach:
            self._process = psutil.Process(_pid(self._folder))
        else:
            self._clear_traces()
            self._process = self._started(project)
        self._reader = JournalReader(journal_file(self._folder, task))

    @classmethod
    def attach(cls, project: Path, run_id: str) -> Watch | None:
        """Watch a training worker that another program, or an earlier life of this one, has started."""
        return cls(project, run_id, attach=True) if worker_is_alive(project / "runs" / run_id) else None

    @property
    def is_alive(self) -> bool:
        """True while the worker's process runs."""
        if isinstance(self._process, psutil.Popen):
            return self._process.poll() is None
        try:
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    @property
    def exit_code(self) -> int | None:
        """How the worker ended: 0, 2 for unusable input, 130 stopped, 1 or a signal otherwise; None before.

        None, too, of a worker that another program has started.
        """
        return self._process.poll() if isinstance(self._process, psutil.Popen) else None

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> list[Report]:
        """What was reported since the last call. The last report is always one of done, stopped, failed.

        A worker that was told to stop and does not is terminated after 0.8 s and killed after 1 s.
        """
        if self._ended:
            return []
        self._press()
        alive = self.is_alive
        reports = self._reader.read()
        if any(r.kind in LAST for r in reports):
            self._ended = True
        elif not alive:
            self._ended = True
            reports.append(self._obituary())
        return reports

    def wait(self) -> Iterator[Report]:
        """All reports until the end, as they come."""
        while not self._ended:
            yield from self.poll()
            if not self._ended:
                time.sleep(POLL_S)
        if isinstance(self._process, psutil.Popen):
            self._process.wait()

    def person_at_work(self) -> None:
        """Tell a training that somebody works in the window, so that it gives way. Quick, to be called often."""
        if self.task == "train" and time.monotonic() - self._signed >= SIGN_EVERY_S:
            self._signed = time.monotonic()
            with suppress(OSError):  # a courtesy, no need
                sign_file(self._folder).touch()

    def stop(self) -> None:
        """Ask the worker to stop; `poll` sees to it that it does."""
        if self.is_alive and not self._stop_asked:
            stop_file(self._folder, self.task).touch()
            self._stop_asked = time.monotonic()

    def stop_now(self) -> None:
        """Stop the worker and wait until it is gone, at most about a second."""
        self.stop()
        while self.is_alive:
            self._press()
            time.sleep(0.02)

    def _clear_traces(self) -> None:
        """Take back what an earlier life of this task left, before the new one says a word."""
        stop_file(self._folder, self.task).unlink(missing_ok=True)
        if self.task == "train":
            cut_back(self._folder)
        else:
            journal_file(self._folder, self.task).unlink(missing_ok=True)

    def _started(self, project: Path) -> psutil.Popen:
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "napari_noisylabel.engine.worker", str(project), self.run_id]
        with open(self._folder / WORKER_LOG, "ab") as log:
            process = psutil.Popen(
                [*command, "--task", self.task], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip
        if self.task == "train":
            (self._folder / WORKER_PID).write_text(str(process.pid), encoding="utf-8")
        return process

    def _press(self) -> None:
        if not self._stop_asked or not self.is_alive:
            return
        waited = time.monotonic() - self._stop_asked
        with suppress(psutil.NoSuchProcess):  # it ended in between
            if waited > KILL_AFTER_S:
                self._process.kill()
            elif waited > TERMINATE_AFTER_S:
                self._process.terminate()

    def _obituary(self) -> Report:
        if self._stop_asked:
            return Report(self.run_id, "stopped", message="stopped; it can be resumed")
        code = getattr(self._process, "returncode", None)
        how = "ended" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return Report(
            self.run_id, "stopped",
            message=f"the worker {how} without a word; the run is interrupted and can be resumed. "
            f"Its output is in {self._folder / WORKER_LOG}.",
        )  # fmt: skip


def last_report(folder: Path) -> Report | None:
    """The last thing that a training worker said, if it said anything."""
    reports = JournalReader(journal_file(folder, "train")).read()
    return reports[-1] if reports else None


def worker_is_alive(folder: Path) -> bool:
    """True if the worker that was last started for this run still works (on this machine)."""
    try:
        process = psutil.Process(_pid(folder))
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and folder.name in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return False


def _pid(folder: Path) -> int:
    return int((folder / WORKER_PID).read_text(encoding="utf-8"))
