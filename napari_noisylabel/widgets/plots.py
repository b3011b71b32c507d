"""pyqtgraph plots in napari's dark theme."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from napari_noisylabel.plugin.colours import CLASS_COLOURS

BACKGROUND, INK, GRID = "#1e2126", "#c8ccd2", 0.15
PALETTE = CLASS_COLOURS


class Plot(pg.PlotWidget):
    """A quiet plot: no menu, no buttons, the mouse leaves it alone."""

    def __init__(
        self,
        bottom: str,
        left: str,
        height: int = 150,
        legend_below: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent, background=BACKGROUND)
        self.setFixedHeight(height)
        item = self.getPlotItem()
        item.setMenuEnabled(False)
        item.hideButtons()
        item.setMouseEnabled(False, False)
        item.showGrid(x=False, y=True, alpha=GRID)
        for side, text in (("bottom", bottom), ("left", left)):
            axis = item.getAxis(side)
            axis.setPen(INK)
            axis.setTextPen(INK)
            axis.setLabel(text)
            axis.enableAutoSIPrefix(False)
        item.getAxis("left").setWidth(46)
        item.getAxis("bottom").setHeight(40)
        item.layout.setContentsMargins(2, 6, 10, 2)
        self._curves: dict[str, pg.PlotDataItem] = {}
        self.legend = item.addLegend(
            offset=(-4, -4 if legend_below else 4),
            labelTextColor=INK,
            labelTextSize="8pt",
            verSpacing=-4,
            brush=(30, 33, 38, 160),
        )

    def set_curve(
        self,
        name: str,
        x: Sequence[float] | np.ndarray,
        y: Sequence[float] | np.ndarray,
        colour: str,
        *,
        dashed: bool = False,
        label: str | None = None,
    ) -> None:
        """Draw the curve `name`, new or moved; one without `label` is not in the legend."""
        if name not in self._curves:
            style = Qt.PenStyle.DashLine if dashed else Qt.PenStyle.SolidLine
            pen = pg.mkPen(colour, width=2, style=style)
            self._curves[name] = self.plot(pen=pen, name=label)
        self._curves[name].setData(np.asarray(x, dtype=float), np.asarray(y, dtype=float))

    def curve(self, name: str) -> pg.PlotDataItem | None:
        """The curve `name`, if it was drawn."""
        return self._curves.get(name)

    def forget(self) -> None:
        """Take all curves away."""
        for curve in self._curves.values():
            self.removeItem(curve)
        self.legend.clear()
        self._curves = {}


def normal(x: np.ndarray, mean: float, sd: float) -> np.ndarray:
    """Density of a Gaussian."""
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
