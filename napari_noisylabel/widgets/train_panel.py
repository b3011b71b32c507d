"""Train: choose a method, start it in a process of its own, watch it learn."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QProgressBar, QSpinBox, QVBoxLayout, QWidget

from napari_noisylabel.methods import MethodInfo, methods
from napari_noisylabel.records import Report, RunState
from napari_noisylabel.widgets import words
from napari_noisylabel.widgets.forms import SettingsForm, form_layout
from napari_noisylabel.widgets.inner_view import InnerView
from napari_noisylabel.widgets.notices import noticed
from napari_noisylabel.widgets.parts import GAP, KeyButton, heading, note
from napari_noisylabel.widgets.plots import PALETTE, Plot

DEFAULT_METHOD = "self-cleansing"
DEVICES = ("auto", "cpu", "cuda", "mps")
INSTALL = (
    "Training needs torch, which is not installed here. Reviewing and exporting work without it. "
    "To train: <code>pip install 'napari-noisylabel[train]'</code>, then start napari again."
)
FOLLOWED = ("runs", "progress", "cases", "read_only")


def can_train() -> bool:
    """True where the parts that train are installed. Imports nothing."""
    return find_spec("torch") is not None


class TrainPanel(QWidget):
    """Starts and resumes a run, and shows what it reports; `stop_asked` when it should end."""

    stop_asked = Signal()

    def __init__(
        self, workbench: Any, known: Mapping[str, MethodInfo] | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self._session = workbench.session
        self._methods = dict(known) if known is not None else methods()
        self._can_train = can_train()
        self.form: SettingsForm | None = None
        self._build()
        self._lay_out()
        self._connect()
        self._show_form()
        self._show_buttons()
        self._show_curves()

    def start(self) -> None:
        """A new run with what the form says."""
        self._retrain()

    def resume(self) -> None:
        """Go on with the latest interrupted run."""
        run = self._interrupted()
        if run is not None:
            self._retrain(run)

    def _retrain(self, resume: str = "") -> None:
        with noticed():
            self._workbench.retrain(
                self.method.currentData(),
                settings=self.form.values() if self.form is not None else {},
                epochs=self.epochs.value(),
                folds=self.folds.value(),
                seed=self.seed.value(),
                device=self.device.currentText(),
                resume=resume,
            )

    # ------------------------------------------------------------ build, lay out, connect

    def _build(self) -> None:
        self.method = QComboBox()
        for info in self._methods.values():
            self.method.addItem(info.name, info.name)
        self.method.setCurrentIndex(max(0, self.method.findData(DEFAULT_METHOD)))
        self.title = note()
        self.epochs = number(0, 10_000, "by data size", "Passes over the data; by data size unless set")
        self.folds = number(2, 20, "", "Each case is scored by a network that never saw it")
        self.seed = number(0, 2**31 - 1, "", "Same seed, same run")
        self.device = QComboBox()
        self.device.addItems(DEVICES)
        self.start_button = KeyButton("Start", "", "#009E73")
        self.stop_button = KeyButton("Stop", "", "#D55E00")
        self.resume_button = KeyButton("Resume")
        self.progress = QProgressBar()
        self.state = note()
        self.hint = note(INSTALL)
        self.losses = Plot("epoch", "loss")
        self.dice = Plot("epoch", "Dice", legend_below=True)
        self.dice.setYRange(0, 1)
        self.inner = InnerView(self._workbench, self)  # shows itself when there is something, so it has a parent

    def _lay_out(self) -> None:
        self.form_place = QVBoxLayout()
        self.choices = QWidget()  # out of the way of the curves while a run trains
        basics = form_layout()
        for text, widget in (
            ("epochs", self.epochs),
            ("folds", self.folds),
            ("seed", self.seed),
            ("device", self.device),
        ):
            basics.addRow(text, widget)
        buttons = QHBoxLayout()
        for widget in (self.start_button, self.stop_button, self.resume_button):
            buttons.addWidget(widget)
        choices = QVBoxLayout(self.choices)
        choices.setContentsMargins(0, 0, 0, 0)
        choices.setSpacing(GAP)
        for widget in (heading("Method"), self.method, self.title):
            choices.addWidget(widget)
        choices.addLayout(self.form_place)
        choices.addWidget(heading("Run"))
        choices.addLayout(basics)
        layout = QVBoxLayout(self)
        layout.setSpacing(GAP)
        layout.addWidget(self.hint)
        layout.addWidget(self.choices)
        layout.addLayout(buttons)
        for widget in (self.progress, self.state, self.losses, self.dice, self.inner):
            layout.addWidget(widget)
        layout.addStretch(1)

    def _connect(self) -> None:
        self.method.currentIndexChanged.connect(lambda _: self._show_form())
        self.start_button.clicked.connect(lambda: self.start())
        self.resume_button.clicked.connect(lambda: self.resume())
        self.stop_button.clicked.connect(lambda: self.stop_asked.emit())
        for name in FOLLOWED:
            getattr(self._session.events, name).connect(self._show_buttons)
        self._session.events.curve.connect(self._show_curves)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        for name in FOLLOWED:
            getattr(self._session.events, name).disconnect(self._show_buttons)
        self._session.events.curve.disconnect(self._show_curves)
        self.inner.close()  # Qt tells children nothing
        super().closeEvent(event)

    # ------------------------------------------------------------ show

    def _show_form(self) -> None:
        info = self._methods[self.method.currentData()]
        if self.form is not None:
            self.form_place.removeWidget(self.form)
            self.form.deleteLater()
        self.form = SettingsForm(info.settings)
        self.form_place.addWidget(self.form)
        needs = f" Needs {', '.join(info.needs)}." if info.needs else ""
        self.title.setText(f"{info.title}.{needs}")

    def _show_buttons(self) -> None:
        session = self._session
        ready = self._can_train and bool(session.cases) and not session.read_only
        self.hint.setVisible(not self._can_train)
        self.choices.setVisible(not session.is_training)
        self.start_button.setEnabled(ready and not session.is_training)
        self.resume_button.setEnabled(ready and not session.is_training and self._interrupted() is not None)
        self.stop_button.setEnabled(session.is_training)
        self._show_progress(session.progress)

    def _show_progress(self, report: Report | None) -> None:
        done, total = (report.done, report.total) if report is not None else (0, 0)
        self.progress.setVisible(self._session.is_training)
        self.progress.setRange(0, max(total, 1))
        self.progress.setValue(min(done, total))
        self.state.setText(words.training(report, self._session.run))

    def _interrupted(self) -> str | None:
        states = (RunState.INTERRUPTED,)
        return next((run.id for run in reversed(self._session.runs) if run.state in states), None)

    def _show_curves(self) -> None:
        if not self._session.curve:
            self.losses.forget()
            self.dice.forget()
        self.losses.setVisible(bool(self._session.curve))
        self.dice.setVisible(bool(self._session.curve))
        draw(self.losses, self._session.curve, "losses")
        draw(self.dice, self._session.curve, "dice")


def draw(plot: Plot, reports: tuple[Report, ...], field: str) -> None:
    """One curve per quantity and fold, in one colour per quantity, later folds dashed."""
    names = list(dict.fromkeys(name for report in reports for name in getattr(report, field)))
    folds = sorted({report.fold for report in reports})
    for place, name in enumerate(names):
        for fold in folds:
            points = [
                (report.epoch + 1, getattr(report, field)[name])
                for report in reports
                if report.fold == fold and getattr(report, field).get(name) is not None
            ]
            x, y = zip(*points, strict=True) if points else ((), ())
            first = fold == folds[0]
            plot.set_curve(
                f"{name} {fold}",
                x,
                y,
                PALETTE[place % len(PALETTE)],
                dashed=not first,
                label=name.rpartition("/")[2] if first else None,
            )


def number(low: int, high: int, zero_says: str, tip: str) -> QSpinBox:
    """A whole number whose lowest value may stand for "you choose"."""
    box = QSpinBox()
    box.setRange(low, high)
    box.setSpecialValueText(zero_says)
    box.setToolTip(tip)
    return box
