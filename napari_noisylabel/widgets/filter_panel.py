"""Filter: the histogram of scores, the mixture in it, and the threshold that makes regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QComboBox, QGridLayout, QHBoxLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_noisylabel.arrays.likelihood import log_odds
from napari_noisylabel.engine.filter import THRESHOLDS, WEAK_THRESHOLD
from napari_noisylabel.methods import is_weak
from napari_noisylabel.plugin.layers import DEFAULT_THRESHOLD
from napari_noisylabel.records import FilterLevel, MixtureFit
from napari_noisylabel.widgets import words
from napari_noisylabel.widgets.notices import noticed
from napari_noisylabel.widgets.parts import GAP, KeyButton, heading, note
from napari_noisylabel.widgets.plots import Plot, normal

STEPS = 1000
THINNEST = 0.12
"""Width of the thinnest bar in log-odds: about a hundred bars."""

LEVELS = {
    FilterLevel.CASE: "case: badly drawn objects",
    FilterLevel.REGION: "region: which pieces are wrong",
    FilterLevel.VOXEL: "voxel: which voxels are wrong",
}
CLEAN, NOISY = "#56B4E9", "#E69F00"


class FilterPanel(QWidget):
    """Shows how scores become regions; the slider acts at once, the button in the worker."""

    threshold_moved = Signal(float)

    def __init__(self, workbench: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self._session = workbench.session
        self._build()
        self._lay_out()
        self._connect()
        self._show_scores()
        self._show_filter()
        self._show_histogram()

    @property
    def threshold(self) -> float:
        """Where the slider stands, in likelihood units."""
        return self.slider.value() / STEPS

    def _build(self) -> None:
        self.shown_class = QComboBox()
        self.level = QComboBox()
        for level, text in LEVELS.items():
            self.level.addItem(text, level)
        for combo in (self.shown_class, self.level):
            combo.setMinimumContentsLength(8)
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.plot = Plot("log score", "density", height=190)
        self.bars = pg.BarGraphItem(x=[0], height=[0], width=1, brush="#5a6270", pen=None)
        self.plot.addItem(self.bars)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(1, STEPS - 1)
        self.slider.setToolTip("Suspicious from this noise likelihood on")
        self.value = QLabel()
        self.value.setMinimumWidth(48)
        self.counts = note()
        self.fit = note()
        self.apply = KeyButton("Filter again", "", "#009E73")
        self._redraw = QTimer(self, singleShot=True, interval=0)
        """Filter, scores and queue of a run come one after the other: the histogram is drawn once all are there."""

    def _lay_out(self) -> None:
        self.shown = QWidget()  # hidden until there are scores
        top = QGridLayout()
        top.setColumnStretch(1, 1)
        for row, (text, widget) in enumerate((("class", self.shown_class), ("level", self.level))):
            top.addWidget(QLabel(text), row, 0)
            top.addWidget(widget, row, 1)
        sliding = QHBoxLayout()
        sliding.addWidget(QLabel("threshold"))
        sliding.addWidget(self.slider, 1)
        sliding.addWidget(self.value)
        shown = QVBoxLayout(self.shown)
        shown.setContentsMargins(0, 0, 0, 0)
        shown.setSpacing(GAP)
        shown.addLayout(top)
        shown.addWidget(self.plot)
        layout = QVBoxLayout(self)
        layout.setSpacing(GAP)
        layout.addWidget(heading("Which labels are suspicious"))
        layout.addWidget(self.shown)
        layout.addWidget(self.fit)
        layout.addLayout(sliding)
        layout.addWidget(self.counts)
        layout.addWidget(self.apply)
        layout.addStretch(1)

    def _connect(self) -> None:
        self.slider.valueChanged.connect(self._moved)
        self.shown_class.currentIndexChanged.connect(lambda _: self._show_histogram())
        self.level.activated.connect(lambda _: self._take_default())
        self.apply.clicked.connect(lambda: self.filter_again())
        self._redraw.timeout.connect(self._show_histogram)
        self._session.events.scores.connect(self._show_scores)
        self._session.events.filter.connect(self._show_filter)
        self._session.events.queue.connect(self._show_counts)
        for name in ("run", "progress", "read_only"):
            getattr(self._session.events, name).connect(self._show_button)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        self._redraw.stop()
        events = self._session.events
        events.scores.disconnect(self._show_scores)
        events.filter.disconnect(self._show_filter)
        events.queue.disconnect(self._show_counts)
        for name in ("run", "progress", "read_only"):
            getattr(events, name).disconnect(self._show_button)
        super().closeEvent(event)

    def filter_again(self) -> None:
        """Fit and cut again in the worker, with the level and threshold shown."""
        with noticed():
            self._workbench.start_propose(str(self.level.currentData()), self.threshold)

    # ------------------------------------------------------------ show

    def _show_scores(self) -> None:
        chosen = self.shown_class.currentText()
        self.shown_class.blockSignals(True)
        self.shown_class.clear()
        scores = self._session.scores
        for track in self._session.tracks if scores is not None else ():
            for index in range(len(scores.counts.get(track.name, ()))):
                prefix = f"{track.name}: " if len(self._session.tracks) > 1 else ""
                self.shown_class.addItem(prefix + track.classes[index], (track.name, index))
        known = self.shown_class.findText(chosen)
        self.shown_class.setCurrentIndex(known if known >= 0 else min(1, self.shown_class.count() - 1))
        self.shown_class.blockSignals(False)
        self._redraw.start()
        self._show_counts()
        self._show_button()

    def _show_filter(self) -> None:
        fit = self._session.filter
        self.slider.blockSignals(True)
        self.slider.setValue(round(STEPS * (fit.threshold if fit is not None else DEFAULT_THRESHOLD)))
        self.slider.blockSignals(False)
        if fit is not None:
            self.level.setCurrentIndex(self.level.findData(fit.level))
        self.value.setText(words.percent(self.threshold))
        self._redraw.start()
        self._show_counts()

    def _show_histogram(self) -> None:
        self._redraw.stop()
        self.plot.forget()
        scores, chosen = self._session.scores, self.shown_class.currentData()
        self.shown.setVisible(scores is not None)
        if scores is None or chosen is None:
            self.bars.setOpts(x=[0], height=[0], width=1)
            self.fit.setText("No scores yet: train a network first, it scores every case it has not seen.")
            return
        track, index = chosen
        level = self._session.filter.level if self._session.filter is not None else FilterLevel.VOXEL
        if level is FilterLevel.CASE and index:  # the background is no object
            x, density = log_densities(scores.excess[track][:, index], 0.05)
            self.plot.setLabel("bottom", "log distance of objects (0: tolerated)")
        elif level is FilterLevel.REGION:
            mine = [r for r in self._session.queue if r.track == track and r.from_class == index]
            score, voxels = (np.array([getattr(r, name) for r in mine], float) for name in ("score", "voxels"))
            x, density = log_densities(score * np.sqrt(voxels), 1e-3)
            self.plot.setLabel("bottom", "log score of regions")
        else:
            x, density = voxel_densities(scores.edges, scores.counts[track][index])
            self.plot.setLabel("bottom", "voxel score, log odds of wrong")
        self.bars.setOpts(x=x[:-1] + np.diff(x) / 2, height=density, width=np.diff(x))
        fits = self._session.filter.fits.get(track, ()) if self._session.filter is not None else ()
        self.fit.setText(fit_words(fits[index], level) if index < len(fits) else "No mixture was fitted.")
        if index < len(fits):
            self._show_fit(fits[index], np.linspace(x[0], x[-1], 300))

    def _show_fit(self, fit: MixtureFit, x: np.ndarray) -> None:
        for part, (colour, label) in enumerate(((CLEAN, "clean"), (NOISY, "wrong"))):
            if fit.split:
                y = fit.weights[part] * normal(x, fit.means[part], fit.sds[part])
                self.plot.set_curve(label, x, y, colour, label=label)

    def _show_counts(self) -> None:
        scores = self._session.scores
        if scores is None or not scores.likelihood_counts:
            self.counts.setText("")
            return
        above = sum(voxels_above(c, self.threshold) for c in scores.likelihood_counts.values())
        open_now = len(self._session.queue)
        noun = "region" if open_now == 1 else "regions"
        self.counts.setText(
            f"<b>{words.count(above)} voxels</b> would change from {words.percent(self.threshold)} on. "
            f"The queue has {words.count(open_now)} {noun} of the last filter."
        )

    def _show_button(self) -> None:
        session = self._session
        self.apply.setEnabled(session.scores is not None and not session.read_only and not session.is_training)

    def _take_default(self) -> None:
        run = self._session.run
        weak = run is not None and is_weak(run.method)
        self.slider.setValue(round(STEPS * (WEAK_THRESHOLD if weak else THRESHOLDS[self.level.currentData()])))

    def _moved(self) -> None:
        self.value.setText(words.percent(self.threshold))
        self._show_counts()
        self.threshold_moved.emit(self.threshold)


def voxels_above(likelihood_counts: np.ndarray, threshold: float) -> int:
    """Voxels whose uint8 likelihood is at least `threshold` in [0, 1]."""
    return int(np.asarray(likelihood_counts)[int(np.ceil(255 * threshold)) :].sum())


def voxel_densities(edges: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin edges in log-odds, as the mixture has them, and a density that integrates to 1.

    The two lowest bins are left out, as the fit leaves them out: millions of easy voxels.
    """
    x = log_odds(edges[2:])
    keep = [0]
    for i, value in enumerate(x):
        if value - x[keep[-1]] >= THINNEST:
            keep.append(i)
    return x[keep], density(np.add.reduceat(np.asarray(counts[2:], dtype=np.float64), keep[:-1]), x[keep])


def log_densities(values: Sequence[float] | np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Bin edges in logarithms of `values`, none under `least`, NaN left out; and a density that integrates to 1."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    logs = np.log(np.maximum(known, least)) if known.size else np.zeros(1)
    counts, x = np.histogram(logs, bins=min(40, 5 + len(logs) // 5))
    return x, density(counts, x)


def density(counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts as a density that integrates to 1 (0 everywhere without counts)."""
    return counts / np.diff(edges) / max(float(np.sum(counts)), 1.0)


def fit_words(fit: MixtureFit, level: FilterLevel) -> str:
    """What the mixture found, in one or two sentences."""
    if not fit.split:
        reason = fit.reason.removeprefix("no split: ")
        instead = " Objects over a voxel from the networks count as badly drawn." if level is FilterLevel.CASE else ""
        return (f"No clear split: {reason}." if reason else "No clear split.") + instead
    share = words.percent(fit.weights[1])
    if level is FilterLevel.CASE:
        good, bad = np.exp(fit.means)
        return (
            f"{share} of the objects are badly drawn: they lie {bad:.1f} times as far from the networks as a "
            f"careful hand may, the others {good:.1f} times."
        )
    noun = "regions" if level is FilterLevel.REGION else "doubtful voxels"
    return f"{share} of the {noun} are in the upper component."
