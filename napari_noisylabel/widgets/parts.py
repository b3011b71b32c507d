"""Small parts that several panels are built of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QFontMetrics, QKeyEvent, QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTableView,
    QWidget,
)

GAP = 8


class KeyButton(QPushButton):
    """A large button that shows its key, with a bar in the colour of what it does."""

    def __init__(self, text: str, key: str = "", colour: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.caption, self.key, self._colour = text, key, colour
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # or the canvas would lose its keys
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumHeight(44)
        self.set_caption(text)

    def set_caption(self, text: str) -> None:
        """Change what the button says."""
        self.caption = text
        self.setAccessibleName(text)
        self.setToolTip(f"{text}  ({self.key})" if self.key else text)
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802
        width = QFontMetrics(self._font()).horizontalAdvance(self.caption) + self._badge() + 28
        return QSize(width, 44)

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        return self.sizeHint()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        super().paintEvent(event)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setOpacity(1.0 if self.isEnabled() else 0.35)
        if self._colour:
            painter.fillRect(QRect(0, 0, 4, self.height()), QColor(self._colour))
        colour = self.palette().color(self.foregroundRole())
        painter.setPen(colour)
        painter.setFont(self._font())
        badge = self._badge()
        text = self.rect().adjusted(12, 0, -badge - 8, 0)
        painter.drawText(text, int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft), self.caption)
        if self.key:
            self._paint_key(painter, QRect(self.width() - badge - 6, (self.height() - 24) // 2, badge, 24))

    def _paint_key(self, painter: QPainter, box: QRect) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(0, 0, 0, 70))
        painter.drawRoundedRect(box, 4, 4)
        painter.setPen(self.palette().color(self.foregroundRole()))
        painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), self.key)

    def _badge(self) -> int:
        return max(24, QFontMetrics(self._font()).horizontalAdvance(self.key) + 12) if self.key else 0

    def _font(self) -> QFont:
        font = QFont(self.font())
        font.setPixelSize(15)
        font.setBold(True)
        return font


class QuietTable(QTableView):
    """A table of whole rows that leaves letters to napari, whose keys decide on regions."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSelectionBehavior(QTableView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QTableView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTextElideMode(Qt.TextElideMode.ElideLeft)  # case names differ at their ends
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(24)
        self.horizontalHeader().setHighlightSections(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setStyleSheet("QTableView, QHeaderView::section { font-size: 12px; }")

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        if event.text().isalpha():
            event.ignore()
            return
        super().keyPressEvent(event)


class FolderLine(QWidget):
    """A folder as text, with a button that asks for it."""

    changed = Signal(str)

    def __init__(self, title: str, hint: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._title = title
        self.line = QLineEdit()
        self.line.setPlaceholderText(hint)
        button = QPushButton("…")
        button.setFixedWidth(32)
        button.setToolTip(title)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.line, 1)
        layout.addWidget(button)
        button.clicked.connect(lambda: self._ask())
        self.line.textChanged.connect(self.changed)

    @property
    def path(self) -> Path | None:
        """The folder named, None while the line is empty."""
        text = self.line.text().strip()
        return Path(text).expanduser() if text else None

    def set_path(self, path: Path | str) -> None:
        """Name a folder."""
        self.line.setText(str(path))

    def _ask(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, self._title, self.line.text())
        if folder:
            self.set_path(folder)


def heading(text: str) -> QLabel:
    """The title of a part of a panel."""
    label = QLabel(text)
    font = QFont(label.font())
    font.setBold(True)
    label.setFont(font)
    return label


def note(text: str = "") -> QLabel:
    """A paragraph that wraps."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
    label.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return label


def button(text: str, act: Callable[[], object], tip: str = "") -> QPushButton:
    """A plain button that calls `act` without arguments."""
    made = QPushButton(text)
    made.setMinimumHeight(30)
    made.setToolTip(tip)
    made.clicked.connect(lambda: act())
    return made


def scrolled(panel: QWidget) -> QScrollArea:
    """`panel` in a frame that scrolls when the dock is short, never sideways."""
    area = QScrollArea()
    area.setWidget(panel)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return area
