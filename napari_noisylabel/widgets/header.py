"""The largest thing in the dock: what, where and how sure, readable from two metres."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor, QFont, QFontMetrics, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QFrame, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_noisylabel.plugin.colours import class_colour
from napari_noisylabel.records import IGNORE, Case, Filter, Region, Track
from napari_noisylabel.widgets import words

SMALLEST_PX = 13


class FitLabel(QWidget):
    """One line of text as large as `px` allows, smaller where the width does not hold it."""

    def __init__(self, px: int, *, bold: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._px, self._bold, self._text = px, bold, ""
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def text(self) -> str:
        """What is shown."""
        return self._text

    def setText(self, text: str) -> None:  # noqa: N802 (Qt's name)
        self._text = text
        self.setToolTip(text)
        self.setAccessibleName(text)
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802
        return QSize(100, QFontMetrics(self._font(self._px)).height())

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        return QSize(10, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        painter = QPainter(self)
        font = self._fitting(self.width())
        painter.setFont(font)
        painter.setPen(self.palette().color(self.foregroundRole()))
        text = QFontMetrics(font).elidedText(self._text, Qt.TextElideMode.ElideMiddle, self.width())
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), text)

    def _fitting(self, width: int) -> QFont:
        px = self._px
        while px > SMALLEST_PX and QFontMetrics(self._font(px)).horizontalAdvance(self._text) > width:
            px -= 1
        return self._font(px)

    def _font(self, px: int) -> QFont:
        font = QFont(self.font())
        font.setPixelSize(px)
        font.setBold(self._bold)
        return font


class ChangeLabel(FitLabel):
    """A line of text with a disc in the colour of each class; a ring for background, which has none."""

    def __init__(self, px: int, parent: QWidget | None = None) -> None:
        super().__init__(px, bold=True, parent=parent)
        self._classes: tuple[int, ...] = ()

    def set_change(self, text: str, classes: tuple[int, ...]) -> None:
        """Show `text` and, in front of each part that an arrow divides, the disc of a class."""
        self.setText(text)
        self._classes = classes

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        if not self._classes:
            super().paintEvent(event)
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        font = self._fitting(self.width() - len(self._classes) * self._disc_room())
        painter.setFont(font)
        metrics, x = QFontMetrics(font), 0
        for part, index in zip(self._text.split(words.ARROW), self._classes, strict=False):
            painter.setPen(ink)
            if x:
                painter.drawText(x, self._baseline(metrics), words.ARROW)
                x += metrics.horizontalAdvance(words.ARROW)
            x = self._paint_disc(painter, x, index, ink)
            painter.setPen(ink)
            room = max(0, self.width() - x)
            painter.drawText(x, self._baseline(metrics), metrics.elidedText(part, Qt.TextElideMode.ElideRight, room))
            x += metrics.horizontalAdvance(part)

    def _paint_disc(self, painter: QPainter, x: int, index: int, ink: QColor) -> int:
        size = self._disc_room() - 8
        colour = QColor.fromRgbF(*map(float, class_colour(index))) if 0 < index < IGNORE else None
        painter.setPen(QPen(colour or ink, 2))
        painter.setBrush(colour if colour is not None else Qt.BrushStyle.NoBrush)
        painter.drawEllipse(x + 2, (self.height() - size) // 2 + 1, size, size)
        return x + self._disc_room()

    def _disc_room(self) -> int:
        return self._px // 2 + 8

    def _baseline(self, metrics: QFontMetrics) -> int:
        return (self.height() + metrics.ascent() - metrics.descent()) // 2


class SureBar(QWidget):
    """How sure, as a bar."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._share = 0.0
        self.setFixedHeight(10)

    def set_share(self, share: float) -> None:
        """Fill `share` of the bar, in [0, 1]."""
        self._share = min(max(share, 0.0), 1.0)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        rect = self.rect()
        painter.setBrush(QColor(128, 128, 128, 70))
        painter.drawRoundedRect(rect, 5, 5)
        if self._share > 0:
            painter.setBrush(QColor("#E8792B"))
            painter.drawRoundedRect(rect.adjusted(0, 0, -round(rect.width() * (1 - self._share)), 0), 5, 5)


class RegionHeader(QFrame):
    """Shows one region in large letters, and one line on why it is in the queue."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.where = FitLabel(15)
        self.what = ChangeLabel(32)
        self.sure = FitLabel(26, bold=True)
        self.size_line = FitLabel(18)
        self.bar = SureBar()
        self.why = QLabel()
        self.why.setWordWrap(True)
        self.why.setMinimumHeight(3 * QFontMetrics(self.why.font()).lineSpacing())
        self.why.setAlignment(Qt.AlignmentFlag.AlignTop)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.where, self.what, self.sure, self.bar, self.size_line, self.why):
            layout.addWidget(widget)

    def show_region(
        self,
        region: Region | None,
        name: str,
        cases: tuple[Case, ...],
        track: Track | None,
        fit: Filter | None,
        voices: Sequence[str] = (),
        from_tags: bool = False,
    ) -> None:
        """Show `region`, or that there is none; `voices` are the runs that an ensemble combines.

        `from_tags`: the run learnt from tags, so that a weak region is one of tags.
        """
        for widget in (self.sure, self.bar, self.size_line):
            widget.setVisible(region is not None)
        if region is None:
            self._show_nothing(name, bool(cases), fit)
            return
        self.where.setText(words.where(region, name, cases))
        self.what.set_change(words.change(region, track), (region.from_class, region.to_class))
        self.sure.setText(words.sure(region))
        self.bar.set_share(region.likelihood)
        self.size_line.setText(words.size(region))
        self.why.setText(words.why(region, track, fit, voices, from_tags))

    def _show_nothing(self, name: str, has_cases: bool, fit: Filter | None) -> None:
        self.where.setText(name)
        self.what.set_change("Queue is empty" if has_cases else "No project open", ())
        self.why.setText(words.next_step(has_cases, fit is not None))
