"""Brings the wanted case to the screen: read aside, shown on the main thread, the latest wish wins."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_noisylabel.records import CaseView
from napari_noisylabel.widgets.notices import aside, noticed


class CaseLoader(QObject):
    """One reading at a time; `busy` tells the id being read, or "" when done."""

    busy = Signal(str)

    def __init__(self, workbench: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self._reading = ""
        self._wanted = ""

    @property
    def is_reading(self) -> bool:
        """True while a case is read."""
        return bool(self._reading)

    def request(self, case_id: str) -> None:
        """Show `case_id` as soon as it is read."""
        self._wanted = case_id
        if not self._reading:
            self._read()

    def forget(self) -> None:
        """Show nothing of what is being read."""
        self._wanted = ""

    def _read(self) -> None:
        self._reading = self._wanted
        self.busy.emit(self._reading)
        aside(self._workbench.load, self._reading, done=self._done, failed=self._failed)

    def _done(self, view: CaseView) -> None:
        if self._next(view.case.id):
            with noticed():
                self._workbench.show(view)

    def _failed(self, _: BaseException) -> None:
        self._next(self._reading)

    def _next(self, read: str) -> bool:
        """Whether `read` is still wanted; if another case is, start reading that."""
        self._reading = ""
        if self._wanted and self._wanted != read:
            self._read()
            return False
        self.busy.emit("")
        wanted, self._wanted = self._wanted == read, ""
        return wanted
