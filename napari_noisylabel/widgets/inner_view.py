"""What a method shows of itself: its matrices with their standard errors, curves, mixtures and notes."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QCloseEvent, QColor, QFontMetrics, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_noisylabel.inner import InnerState, Matrix, Note
from napari_noisylabel.widgets.inner_model import PLUS_MINUS, cells, drawing, heat, last_report, states
from napari_noisylabel.widgets.notices import noticed
from napari_noisylabel.widgets.parts import GAP, heading, note
from napari_noisylabel.widgets.plots import PALETTE, Plot

ROW_NAME_PX = 104
FOLD_PX = 84
ROWS_SHOWN = 10
LOW_PX, HIGH_PX, PAD_PX = 24, 38, 14
HEAT = (0, 114, 178)


class MatrixTable(QTableWidget):
    """A matrix with its standard errors. Cells break into two lines where the panel is too narrow for one."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._texts: list[list[str]] = []
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setShowGrid(False)
        self.setStyleSheet("QTableView, QHeaderView::section { font-size: 12px; }")
        self.verticalHeader().setMaximumWidth(ROW_NAME_PX)
        self.horizontalHeader().setMinimumSectionSize(24)
        for head in (self.verticalHeader(), self.horizontalHeader()):
            head.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # tooltips have the whole name

    def show_matrix(self, matrix: Matrix) -> None:
        """Draw another matrix."""
        self._texts = []  # cells are made below, and sizes may change meanwhile
        texts, strength = cells(matrix), heat(matrix)
        self.clear()
        self.setRowCount(len(matrix.rows))
        self.setColumnCount(len(matrix.columns))
        self.setVerticalHeaderLabels(matrix.rows)
        self.setHorizontalHeaderLabels(matrix.columns)
        for i, row in enumerate(matrix.rows):
            for j, column in enumerate(matrix.columns):
                item = QTableWidgetItem()
                item.setTextAlignment(int(Qt.AlignmentFlag.AlignCenter))
                item.setToolTip(f"{row}, {column}: {texts[i][j]}")
                if strength is not None:
                    item.setBackground(QColor(*HEAT, round(160 * strength[i, j])))
                self.setItem(i, j, item)
        self._texts = texts
        self._arrange()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """One line per cell if all columns fit so, else two; if even these do not fit, the table scrolls."""
        if not self._texts or not self.columnCount():
            return
        metrics = QFontMetrics(self.font())
        room = self.viewport().width() // self.columnCount()
        widest = widest_line(self._texts, metrics)
        broken = widest > room and any(PLUS_MINUS in text for row in self._texts for text in row)
        shown = [[in_two_lines(text) for text in row] for row in self._texts] if broken else self._texts
        widest = widest_line(shown, metrics)
        for i, row in enumerate(shown):
            for j, text in enumerate(row):
                self.item(i, j).setText(text)
        self.verticalHeader().setDefaultSectionSize(HIGH_PX if broken else LOW_PX)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.horizontalHeader().setDefaultSectionSize(max(room, widest))
        rows = min(self.rowCount(), ROWS_SHOWN) * self.verticalHeader().defaultSectionSize()
        scroll = self.horizontalScrollBar().sizeHint().height() if widest > room else 0
        self.setFixedHeight(rows + self.horizontalHeader().sizeHint().height() + scroll + 4)


class InnerView(QWidget):
    """Shows one state of the method at a time, of one fold; its notes always. Hidden where there is nothing."""

    def __init__(self, workbench: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = workbench.session
        self._states: list[InnerState] = []
        self._build()
        self._lay_out()
        self.fold.currentIndexChanged.connect(lambda _: self._show_states())
        self.what.currentIndexChanged.connect(lambda _: self._show_chosen())
        self._session.events.curve.connect(self._show_folds)
        self._show_folds()

    def _build(self) -> None:
        self.what, self.fold = QComboBox(), QComboBox()
        for combo in (self.what, self.fold):
            combo.setMinimumContentsLength(6)
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.fold.setMaximumWidth(FOLD_PX)
        self.table = MatrixTable()
        self.plot = Plot("", "")
        self.notes = note()
        self.notes.setTextFormat(Qt.TextFormat.PlainText)  # methods of third parties write them

    def _lay_out(self) -> None:
        choosing = QHBoxLayout()
        choosing.addWidget(self.what, 1)
        choosing.addWidget(self.fold)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(GAP)
        layout.addWidget(heading("What the method sees"))
        layout.addLayout(choosing)
        for widget in (self.table, self.plot, self.notes):
            layout.addWidget(widget)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        self._session.events.curve.disconnect(self._show_folds, missing_ok=True)
        super().closeEvent(event)

    # ------------------------------------------------------------ show

    def _show_folds(self) -> None:
        folds = sorted({report.fold for report in self._session.curve if report.inner})
        chosen = self.fold.currentData()
        self._refill(self.fold, [(f"fold {fold + 1}", fold) for fold in folds], chosen)
        self.fold.setVisible(len(folds) > 1)
        self._show_states()

    def _show_states(self) -> None:
        report = last_report(self._session.curve, self.fold.currentData() or 0)
        self._states = []
        with noticed():
            self._states = states(report) if report is not None else []
        self.setVisible(bool(self._states))
        drawn = [(i, s) for i, s in enumerate(self._states) if not isinstance(s, Note)]
        names = [s.name for _, s in drawn]
        kept = self.what.currentText()
        first = next((s.name for _, s in drawn if isinstance(s, Matrix)), "")
        wanted = kept if kept in names else first
        self._refill(self.what, [(s.name, i) for i, s in drawn], next((i for i, s in drawn if s.name == wanted), None))
        self.notes.setText("\n".join(f"{s.name}: {s.text}" for s in self._states if isinstance(s, Note)))
        self.notes.setVisible(bool(self.notes.text()))
        self._show_chosen()

    def _show_chosen(self) -> None:
        chosen = self.what.currentData()
        state = self._states[chosen] if chosen is not None else None
        self.table.setVisible(isinstance(state, Matrix))
        self.plot.setVisible(state is not None and not isinstance(state, Matrix))
        if isinstance(state, Matrix):
            self.table.show_matrix(state)
        elif state is not None and not isinstance(state, Note):
            self._draw(state)

    def _draw(self, state: Any) -> None:
        found = drawing(state, self._session.curve, self.fold.currentData() or 0)
        self.plot.forget()
        self.plot.setLabel("bottom", found.bottom)
        self.plot.setLabel("left", found.left)
        for line in found.lines:
            colour = PALETTE[line.colour % len(PALETTE)]
            self.plot.set_curve(line.name, line.x, line.y, colour, dashed=line.dashed, label=line.name)

    @staticmethod
    def _refill(combo: QComboBox, items: list[tuple[str, int]], chosen: int | None) -> None:
        """Other items, without telling anybody; the one whose data is `chosen` stays chosen."""
        combo.blockSignals(True)
        combo.clear()
        for text, data in items:
            combo.addItem(text, data)
        combo.setCurrentIndex(max(0, combo.findData(chosen)) if items else -1)
        combo.blockSignals(False)


def in_two_lines(text: str) -> str:
    """A value over its standard error."""
    return text.replace(PLUS_MINUS, f"\n{PLUS_MINUS.strip()} ")


def widest_line(texts: list[list[str]], metrics: QFontMetrics) -> int:
    """Pixels that the widest line of all cells needs, with some air."""
    lines = [line for row in texts for text in row for line in text.split("\n")]
    return max((metrics.horizontalAdvance(line) for line in lines), default=0) + PAD_PX
