"""Python's full garbage collections, put off until the person rests.

A full collection visits every object of napari and of the project: 0.12 s of processor time with an empty viewer,
more with a large project, in the middle of whatever call comes next. While the dock is open it is
done between two actions instead, and what has survived one is not visited again (`gc.freeze`) until the dock is
closed; small collections go on as ever.
"""

from __future__ import annotations

import gc

from qtpy.QtCore import QObject, QTimer

REST_MS = 2000
DUE = 10
"""Collections of the middle generation after which a full one is worth its time: Python's own figure."""

AT_LAST = 500
"""And after which it comes whatever the person does, so that memory stays bounded."""


class QuietCollector(QObject):
    """Takes over full collections until `close`; several may be open at a time."""

    _open = 0
    _before = (700, 10, 10)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._closed = False
        if not QuietCollector._open:
            QuietCollector._before = gc.get_threshold()
            gc.set_threshold(*gc.get_threshold()[:2], AT_LAST)
            gc.freeze()  # napari and what it imports: the bulk
        QuietCollector._open += 1
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.timeout.connect(self._collect)
        self._rest.start()

    def person_at_work(self) -> None:
        """Somebody did something: the rest begins anew."""
        if not self._closed:
            self._rest.start()

    def close(self) -> None:
        """Leave full collections to Python again."""
        if self._closed:
            return
        self._closed = True
        self._rest.stop()
        QuietCollector._open -= 1
        if not QuietCollector._open:
            gc.set_threshold(*QuietCollector._before)
            gc.unfreeze()

    def _collect(self) -> None:
        if gc.get_count()[2] > DUE:
            gc.collect()
            gc.freeze()
        self._rest.start()
