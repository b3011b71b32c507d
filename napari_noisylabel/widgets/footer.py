"""What is in sight whatever the panel: how far the review is, what the worker does, where the mouse is."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QFrame, QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_noisylabel.widgets import words
from napari_noisylabel.widgets.header import FitLabel

FOLLOWED = ("counters", "progress", "run", "read_only", "cases")


class Footer(QWidget):
    """Three lines under the panels; `stop_asked` when the person wants the worker to stop."""

    stop_asked = Signal()

    def __init__(self, workbench: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = workbench.session
        self._reading = ""
        self.counters = FitLabel(15, bold=True)
        self.training = FitLabel(13)
        self.position = FitLabel(13)
        self.bar = QProgressBar()
        self.bar.setFixedHeight(6)
        self.bar.setTextVisible(False)
        self.stop = QPushButton("stop")
        self.stop.setMaximumWidth(60)
        self.stop.setToolTip("Ask the worker to stop; the run can be resumed")
        line = QFrame()
        line.setFrameShape(QFrame.Shape.HLine)
        row = QHBoxLayout()
        row.addWidget(self.training, 1)
        row.addWidget(self.stop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 0, 8, 6)
        layout.setSpacing(4)
        layout.addWidget(line)
        layout.addWidget(self.counters)
        layout.addLayout(row)
        layout.addWidget(self.bar)
        layout.addWidget(self.position)
        self.stop.clicked.connect(lambda: self.stop_asked.emit())
        for name in FOLLOWED:
            getattr(self._session.events, name).connect(self._show)
        self._show()

    def set_reading(self, case_id: str) -> None:
        """A case is being read ("" when it is there)."""
        self._reading = case_id
        self._show()

    def set_position(self, text: str) -> None:
        """Where the mouse is in the patient."""
        self.position.setText(text)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        for name in FOLLOWED:
            getattr(self._session.events, name).disconnect(self._show)
        super().closeEvent(event)

    def _show(self) -> None:
        session, report = self._session, self._session.progress
        self.counters.setText(words.counters(session.counters))
        line = f"opening case {self._reading} …" if self._reading else words.training(report, session.run)
        self.training.setText(line)
        training = session.is_training
        self.stop.setVisible(training)
        self.bar.setVisible(training)
        known = report is not None and report.total > 0
        self.bar.setRange(0, report.total if known else 0)
        self.bar.setValue(report.done if known else 0)
