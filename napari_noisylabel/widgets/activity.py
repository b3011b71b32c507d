"""A run's progress in napari's activity dock."""

from __future__ import annotations

import time

from napari.utils import progress

from napari_noisylabel.records import Report

EVERY_S = 1.0
"""napari handles all waiting events each time a bar moves, so it moves seldom."""


class Activity:
    """One bar while a worker runs."""

    def __init__(self) -> None:
        self._bar: progress | None = None
        self._moved = 0.0

    def show(self, report: Report | None, running: bool) -> None:
        """Start, move or end the bar."""
        if report is None or not running:
            self.close()
            return
        if time.monotonic() - self._moved < EVERY_S:
            return
        self._moved = time.monotonic()
        if self._bar is None:
            self._bar = progress(total=max(report.total, 1), desc=f"noisy labels {report.run}")
        self._bar.total = max(report.total, 1)
        self._bar.update(max(0, report.done - self._bar.n))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._moved = 0.0
