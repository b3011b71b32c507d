"""The dock: five panels in the order of the flow, and everything that connects them to napari.

The panels know the workbench and its session, never each other; the layers know the session.
What one has to tell another passes through here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari.viewer
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtGui import QCloseEvent, QShowEvent
from qtpy.QtWidgets import QMessageBox, QTabWidget, QVBoxLayout, QWidget

from napari_noisylabel import study
from napari_noisylabel.plugin.keys import ReviewKeys
from napari_noisylabel.plugin.layers import SessionLayers
from napari_noisylabel.records import RegionState
from napari_noisylabel.session import Stage
from napari_noisylabel.widgets.activity import Activity
from napari_noisylabel.widgets.collector import QuietCollector
from napari_noisylabel.widgets.export_panel import ExportPanel
from napari_noisylabel.widgets.filter_panel import FilterPanel
from napari_noisylabel.widgets.footer import Footer
from napari_noisylabel.widgets.loader import CaseLoader
from napari_noisylabel.widgets.notices import aside, close_binding_notice, noticed, say, skip_binding_notice
from napari_noisylabel.widgets.parts import scrolled
from napari_noisylabel.widgets.project_panel import ProjectPanel
from napari_noisylabel.widgets.review_panel import ReviewPanel
from napari_noisylabel.widgets.train_panel import TrainPanel
from napari_noisylabel.workbench import Workbench

TITLE = "Noisy labels"
POLL_MS = 100
WIDTH_PX = 392  # what the review panel needs, so that no text is cut
TABS = "QTabBar::tab { min-height: 24px; padding: 2px 4px; font-size: 14px; }"
FOLLOWED = ("queue", "cursor", "view", "cases")


def stop_or_leave(parent: QWidget) -> bool:
    """Ask what becomes of a running training: True to stop it, False to let it run on."""
    box = QMessageBox(parent)
    box.setWindowTitle(TITLE)
    box.setText("A training is running.")
    box.setInformativeText("Stopped, it can be resumed. Left alone, it goes on without this window.")
    stop = box.addButton("Stop it", QMessageBox.ButtonRole.DestructiveRole)
    box.addButton("Let it run", QMessageBox.ButtonRole.AcceptRole)
    box.exec()
    return box.clickedButton() is stop


class NoisyLabelDock(QWidget):
    """Finds, shows and decides on suspicious regions; see the six verbs of the workbench."""

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        workbench: Any = None,
        ask_to_stop: Callable[[QWidget], bool] = stop_or_leave,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        skip_binding_notice()
        self.viewer = viewer
        self.workbench = workbench if workbench is not None else Workbench()
        self._session = self.workbench.session
        self._ask_to_stop = ask_to_stop
        self._at = 0  # the region that was gone to last
        self._shut = self._docked = self._polling = False
        self._build()
        self._lay_out()
        self._connect()
        self._show_stage()
        self._follow()

    def open_project(self, folder: Path | str) -> None:
        """Open a project, which is read aside, and turn to the panel that comes next."""
        self.project.open(folder, self._turn_on)

    def _turn_on(self) -> None:
        if self._session.cases:
            self._session.stage = Stage.REVIEW if self._session.queue else Stage.TRAIN

    def show_stage(self, stage: Stage) -> None:
        """Turn to one of the five panels."""
        self._session.stage = stage

    def shut(self) -> None:
        """Give back keys, timers, connections and the project. Safe to call twice."""
        if self._shut:
            return
        self._shut = True
        self._timer.stop()
        self._settle.stop()
        self._redraw.stop()
        self._collector.close()
        if self._journal.isActive():
            self._save_draft()
        self._leave_worker()
        self.loader.forget()
        self._keys.release()
        self._stop_affinity()
        self.viewer.cursor.events.position.disconnect(self._show_position)
        self.viewer.dims.events.current_step.disconnect(self._show_position)
        for events in self._person_events():
            events.disconnect(self._person_at_work)
        self._follow_session(False)
        for panel in (*self.panels.values(), self.footer):
            panel.close()
        self.layers.close()
        self._activity.close()
        self.workbench.close()

    # ------------------------------------------------------------ build, lay out, connect

    def _build(self) -> None:
        self.layers = SessionLayers(self.viewer, self._session, self._stroke)
        self.loader = CaseLoader(self.workbench, self)
        self.project = ProjectPanel(self.workbench, make_project)
        self.train = TrainPanel(self.workbench)
        self.filter = FilterPanel(self.workbench)
        self.review = ReviewPanel(self.workbench)
        self.export = ExportPanel(self.workbench)
        self.panels: dict[Stage, QWidget] = {
            Stage.PROJECT: self.project,
            Stage.TRAIN: self.train,
            Stage.FILTER: self.filter,
            Stage.REVIEW: self.review,
            Stage.EXPORT: self.export,
        }
        self.tabs = QTabWidget()
        self.footer = Footer(self.workbench)
        self._activity = Activity()
        self._collector = QuietCollector(self)
        self._keys = ReviewKeys(self.viewer, self._actions())
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._painted: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # the box of all strokes on
        self._painted_case = ""  # this case
        self._settle, self._journal, self._redraw = QTimer(self), QTimer(self), QTimer(self)
        for soon in (self._settle, self._journal, self._redraw):
            soon.setSingleShot(True)
            soon.setInterval(0)

    def _actions(self) -> dict[str, Callable[[], Any]]:
        review = self.review
        return {
            "accept": review.accept,
            "reject": review.reject,
            "edit": review.edit,
            "skip": review.skip,
            "back": review.back,
            "undo": review.undo,
            "redo": review.redo,
            "unsure": review.unsure,
            "verify": review.verify,
            "overlay": self.layers.toggle_overlays,
            "affinity": review.toggle_affinity,
        }

    def _lay_out(self) -> None:
        self.setMinimumWidth(WIDTH_PX)
        for stage, panel in self.panels.items():
            self.tabs.addTab(scrolled(panel), stage.value.capitalize())
        self.tabs.setDocumentMode(True)  # or the bar is as narrow as its tabs
        self.tabs.tabBar().setExpanding(True)
        self.tabs.setStyleSheet(TABS)
        self.tabs.tabBar().setUsesScrollButtons(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.footer)

    def _connect(self) -> None:
        self._timer.timeout.connect(self._poll)
        self._settle.timeout.connect(self._follow)
        self._journal.timeout.connect(self._save_draft)
        self._redraw.timeout.connect(self.layers.refresh)
        self.tabs.currentChanged.connect(self._tab_changed)
        self.loader.busy.connect(self.footer.set_reading)
        self.project.case_wanted.connect(self._open_case)
        for panel in (self.train, self.footer):
            panel.stop_asked.connect(self.workbench.stop)
        self.filter.threshold_moved.connect(self.layers.set_threshold)
        self.review.painting.connect(self._paint)
        self.review.overlay_toggled.connect(self.layers.toggle_overlays)
        self.review.preset_chosen.connect(self.layers.set_preset)
        self.review.affinity_toggled.connect(self._switch_affinity)
        self.review.stroke_undone.connect(self._undo_stroke)
        self.viewer.cursor.events.position.connect(self._show_position)
        self.viewer.dims.events.current_step.connect(self._show_position)
        for events in self._person_events():
            events.connect(self._person_at_work)
        self._follow_session(True)
        self._timer.start()

    def _follow_session(self, on: bool) -> None:
        events = self._session.events
        pairs = [(getattr(events, name), self._changed) for name in FOLLOWED]
        pairs += [(events.stage, self._show_stage), (events.notice, self._show_notice)]
        pairs += [(events.progress, self._show_activity), (events.filter, self._read_again)]
        pairs += [(getattr(events, name), self._decided) for name in ("queue", "counters", "draft")]
        for signal, slot in pairs:
            (signal.connect if on else signal.disconnect)(slot)

    # ------------------------------------------------------------ Qt tells

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        window = self.window()
        if window is not self:
            window.installEventFilter(self)
            QTimer.singleShot(0, lambda: close_binding_notice(window))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        # napari destroys its docks with the window and tells them nothing
        if event.type() == QEvent.Type.Hide and not event.spontaneous() and watched is self.window():
            self.shut()
        return super().eventFilter(watched, event)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ParentChange:
            # the cross of a dock takes the widget out of it, without closing it
            if self._docked and self.parent() is None:
                self.shut()
                self.deleteLater()
            self._docked = self.parent() is not None
        return super().event(event)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        self.shut()
        super().closeEvent(event)

    # ------------------------------------------------------------ the session tells

    def _changed(self) -> None:
        if not self._shut:
            self._settle.start()  # several changes of one decision are one look
            self._person_at_work()

    def _decided(self) -> None:
        if not self._shut and not self._session.draft:  # napari draws strokes itself, and can take them back
            self._redraw.start()

    def _read_again(self) -> None:
        """Another filter or run: the case on the screen has other maps now."""
        if self._session.view is not None and self._session.filter is not None:
            self.loader.request(self._session.view.case.id)

    def _follow(self) -> None:
        """Go to the region under review, opening its case; unless the person opened another one meanwhile."""
        if self._shut:
            return
        view, region = self._session.view, self._session.current
        if region is None:
            if view is None and self._session.cases and not self.loader.is_reading:
                self.loader.request(self._session.cases[0].id)
        elif view is None or (view.case.id != region.case and self._at != region.id):
            self.loader.request(region.case)
        else:
            self.layers.go_to(region)
        self._at = region.id if region is not None else 0
        self._show_position()

    def _show_stage(self) -> None:
        self.tabs.setCurrentIndex(list(self.panels).index(self._session.stage))

    def _tab_changed(self, index: int) -> None:
        self._session.stage = list(self.panels)[index]

    def _show_notice(self) -> None:
        if self._session.notice:
            say(self._session.notice)

    def _show_activity(self) -> None:
        self._activity.show(self._session.progress, self._session.is_training)

    def _show_position(self, _: Any = None) -> None:
        position = list(self.viewer.cursor.position)
        for axis in self.viewer.dims.not_displayed:
            if axis < len(position):
                position[axis] = self.viewer.dims.point[axis]
        self.footer.set_position(self.layers.status(position))

    # ------------------------------------------------------------ the panels ask

    def _open_case(self, case_id: str) -> None:
        first = next(
            (
                i
                for i, region in enumerate(self._session.queue)
                if region.case == case_id and region.state is RegionState.OPEN
            ),
            None,
        )
        with noticed():
            if first is not None and first != self._session.cursor:
                self.workbench.select(first)
            else:
                self.loader.request(case_id)

    def _paint(self, to_class: int | None) -> None:
        if to_class is None:
            self.layers.stop_painting()
            return
        self.layers.start_painting(to_class)

    def _stroke(self, low: tuple[int, ...], high: tuple[int, ...]) -> None:
        case = self._session.view.case.id if self._session.view is not None else ""
        if case != self._painted_case:
            self._painted_case, self._painted = case, (low, high)
        self._painted = (
            tuple(min(a, b) for a, b in zip(self._painted[0], low, strict=True)),
            tuple(max(a, b) for a, b in zip(self._painted[1], high, strict=True)),
        )
        self._journal.start()  # napari tells of polygons and fills before it has painted them

    def _save_draft(self) -> None:
        self._journal.stop()
        view, track = self._session.view, self._session.track
        if view is not None and track in view.corrected:
            with noticed():
                box = self._painted if view.case.id == self._painted_case else None
                self.workbench.save_draft(track, view.corrected[track], box)

    def _undo_stroke(self) -> None:
        layer = self.layers.corrected
        if layer is not None:
            layer.undo()
            self._save_draft()

    def _switch_affinity(self, on: bool) -> None:
        if on:
            self.viewer.mouse_drag_callbacks.append(self._clicked_voxel)
            self.layers.stop_painting()
        else:
            self._stop_affinity()
            self.layers.hide_affinity()

    def _stop_affinity(self) -> None:
        if self._clicked_voxel in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._clicked_voxel)

    def _clicked_voxel(self, viewer: Any, event: Any) -> None:
        index = self.layers.voxel_at(event.position)
        if index is None or self._session.view is None:
            return
        case, axis = self._session.view.case.id, self.layers.slice_axis
        aside(
            self.workbench.affinity,
            case,
            index,
            axis=axis,
            done=lambda values: self._show_affinity(case, values, index, axis),
        )

    def _show_affinity(self, case: str, values: Any, index: tuple[int, ...], axis: int) -> None:
        if not self._shut and self._session.view is not None and self._session.view.case.id == case:
            self.layers.show_affinity(values, index, axis)

    # ------------------------------------------------------------ the worker

    def _poll(self) -> None:
        if self._polling:  # napari's progress bars handle events, this timer's too
            return
        self._polling = True
        try:
            with noticed():
                self.workbench.poll()
        finally:
            self._polling = False

    def _person_events(self) -> tuple[Any, ...]:
        """What napari tells of when a person steps, turns, zooms, pans, paints or moves over the picture."""
        viewer = self.viewer
        return viewer.dims.events.current_step, viewer.cursor.events.position, viewer.scene.camera.events

    def _person_at_work(self, _: Any = None) -> None:
        self._collector.person_at_work()
        watch = self.workbench.watch
        if watch is not None and self._session.is_training:
            watch.person_at_work()

    def _leave_worker(self) -> None:
        watch = self.workbench.watch
        if watch is not None and watch.is_alive and self._ask_to_stop(self):
            watch.stop_now()  # at most a second, and the window is going


# ---------------------------------------------------------------- commands of the manifest


def find_dock(viewer: napari.viewer.Viewer) -> NoisyLabelDock:
    """The dock of `viewer`, added if it has none."""
    for widget in viewer.window.dock_widgets.values():
        if isinstance(widget, NoisyLabelDock):
            return widget
    dock = NoisyLabelDock(viewer)
    viewer.window.add_dock_widget(dock, name=TITLE, area="right")
    return dock


def show_project(viewer: napari.viewer.Viewer) -> None:
    """Show the Project panel."""
    find_dock(viewer).show_stage(Stage.PROJECT)


def show_train(viewer: napari.viewer.Viewer) -> None:
    """Show the Train panel."""
    find_dock(viewer).show_stage(Stage.TRAIN)


def show_filter(viewer: napari.viewer.Viewer) -> None:
    """Show the Filter panel."""
    find_dock(viewer).show_stage(Stage.FILTER)


def show_review(viewer: napari.viewer.Viewer) -> None:
    """Show the Review panel."""
    find_dock(viewer).show_stage(Stage.REVIEW)


def show_export(viewer: napari.viewer.Viewer) -> None:
    """Show the Export panel."""
    find_dock(viewer).show_stage(Stage.EXPORT)


def make_project(folder: Path, images: Path, labels: Path, classes: tuple[str, ...]) -> Path:
    """Check all files and make a project of them; slow, so it runs in a thread."""
    study.make_project(folder, images, {"labels": labels}, class_names=classes)
    return folder
