"""A worker gives way: while somebody works in the window, it waits between two steps.

On few cores a network and a picture drawn by software are in each other's way, whatever their priorities
(docs/speed.md). So the window touches the file `in-use` in the run's folder while the person works, and the worker
looks at it after each report. Only time passes: a run that gave way gives the same results.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from napari_noisylabel.engine.settings import check_engine, cores
from napari_noisylabel.engine.spec import read_spec

SIGN_EVERY_S = 0.1
LOOK_EVERY_S = 0.05
QUIET_S = 0.4
"""Without a sign for so long the window is idle: longer than a pause between two turns of a wheel."""
PATIENCE_S = 10.0
"""Longest wait in a row, so that a run comes on under a hand that never rests. The step that follows takes some 0.1 s
and slows one or two of the 300 turns that the event loop makes in this time: less than 1 in 100."""
FEW_CORES = 4


def sign_file(folder: Path) -> Path:
    """The file whose time changes while somebody works in the window."""
    return folder / "in-use"


class Courtesy:
    """The worker's side: `wait` after each report. Does nothing with a GPU, on many cores, or where the run says no."""

    def __init__(self, folder: Path, asked_to_stop: Callable[[], bool]) -> None:
        self._folder, self._asked_to_stop = folder, asked_to_stop
        self._seen = self._sign()
        self._busy_until = 0.0

    def wait(self) -> None:
        """Return when the window is idle, when the run is to stop, at the latest after `PATIENCE_S`."""
        limit = time.monotonic() + PATIENCE_S
        while self._is_due and self._in_use() and time.monotonic() < limit and not self._asked_to_stop():
            time.sleep(LOOK_EVERY_S)

    @cached_property
    def _is_due(self) -> bool:
        spec = read_spec(self._folder)  # before its first report the worker has settled it
        return spec.device == "cpu" and cores() <= FEW_CORES and check_engine(spec.engine).gives_way

    def _in_use(self) -> bool:
        """The sign's time is only compared with itself: a server's clock may differ from this machine's."""
        sign, now = self._sign(), time.monotonic()
        if sign != self._seen:
            self._seen, self._busy_until = sign, now + QUIET_S
        return now < self._busy_until

    def _sign(self) -> int:
        try:
            return sign_file(self._folder).stat().st_mtime_ns
        except OSError:
            return 0
