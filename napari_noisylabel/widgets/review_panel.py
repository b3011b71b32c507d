"""Review: one region, one key, the next region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QModelIndex, Qt, Signal
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from napari_noisylabel.methods import is_weak
from napari_noisylabel.plugin.contrast import PRESETS
from napari_noisylabel.plugin.keys import KEYS
from napari_noisylabel.records import CaseView, Region, Run, Verdict
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.study.samplers import QUEUE_ORDERS, order_regions
from napari_noisylabel.widgets import words
from napari_noisylabel.widgets.header import RegionHeader
from napari_noisylabel.widgets.notices import aside, noticed, say
from napari_noisylabel.widgets.parts import GAP, KeyButton, QuietTable
from napari_noisylabel.widgets.queue_model import (
    AGREE,
    COLUMN_SORTS,
    EVERYTHING,
    OPEN_ONLY,
    SORTS,
    THIS_CASE,
    UNSURE_ONLY,
    VOXELS,
    QueueModel,
)

FURTHER_ORDERS = tuple(name for name in QUEUE_ORDERS if name not in SORTS)
"""Orders that read what the run left of each case: they are made aside."""

FOLLOWED = ("queue", "cursor", "view", "track", "tracks", "filter", "cases", "draft", "read_only", "name")


class ReviewPanel(QWidget):
    """Shows the region under review and passes each decision to the workbench.

    What concerns layers goes out as signals: `painting` (a class index, or None to stop),
    `overlay_toggled`, `preset_chosen`, `affinity_toggled`, `stroke_undone`.
    """

    painting = Signal(object)
    overlay_toggled = Signal()
    preset_chosen = Signal(str)
    affinity_toggled = Signal(bool)
    stroke_undone = Signal()

    def __init__(
        self,
        workbench: Any,
        order: Callable[[ProjectStore, Run, Sequence[Region], str], Sequence[Region]] = order_regions,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self._session = workbench.session
        self._order = order
        self._shut = False
        self.is_editing = False
        self._painted: CaseView | None = None
        self.model = QueueModel(self._session, self)
        self._build()
        self._lay_out()
        self._connect()
        self._show_queue()

    # ------------------------------------------------------------ decisions (buttons and keys)

    def accept(self) -> None:
        """The proposal is right."""
        self._decide(Verdict.ACCEPTED)

    def reject(self) -> None:
        """The label is right."""
        self._decide(Verdict.REJECTED)

    def unsure(self) -> None:
        """Somebody else should look."""
        self._decide(Verdict.UNSURE)

    def verify(self) -> None:
        """The whole case is right as it is now."""
        view = self._session.view
        if view is not None and not self._busy_editing():
            self._record(Verdict.VERIFIED, case=view.case.id, track=self._session.track)

    def edit(self) -> None:
        """Start to paint; when painting, apply what was painted."""
        if self._session.view is None or self._session.read_only:
            return
        if not self.is_editing:
            self._set_editing(True)
        elif self._session.draft:
            self._apply()
        else:
            self._set_editing(False)

    def discard(self) -> None:
        """Forget the strokes since the last decision."""
        with noticed():
            if self._session.draft:
                self._workbench.discard_draft(self._session.track)
            self._set_editing(False)

    def skip(self) -> None:
        """To the next region, deciding nothing."""
        self._go_to(self.model.neighbour(self._session.cursor, 1))

    def back(self) -> None:
        """To the previous region."""
        self._go_to(self.model.neighbour(self._session.cursor, -1))

    def undo(self) -> None:
        """Take back the last decision; while painting, the last stroke."""
        if self.is_editing:
            self.stroke_undone.emit()
            return
        self._turn_back(Verdict.UNDONE)

    def redo(self) -> None:
        """Decide again what was taken back."""
        if not self._busy_editing():
            self._turn_back(Verdict.REDONE)

    def _turn_back(self, verdict: Verdict) -> None:
        with noticed():
            self._go_to_region(self._workbench.review(verdict).region)

    def toggle_affinity(self) -> None:
        """Switch the affinity tool on or off."""
        self.affinity.toggle()

    # ------------------------------------------------------------ build, lay out, connect

    def _build(self) -> None:
        self.header = RegionHeader()
        self.accept_button = KeyButton("Accept", KEYS["accept"], "#009E73")
        self.reject_button = KeyButton("Reject", KEYS["reject"], "#D55E00")
        self.edit_button = KeyButton("Edit", KEYS["edit"], "#56B4E9")
        self.skip_button = KeyButton("Skip", KEYS["skip"])
        self.undo_button = KeyButton("Undo", KEYS["undo"])
        self.unsure_button = KeyButton("Unsure", KEYS["unsure"], "#F0E442")
        self.verify_button = KeyButton("Whole case is right", KEYS["verify"], "#0072B2")
        self.redo_button = KeyButton("Redo", "⇧U")
        self.discard_button = KeyButton("Discard")
        self.brush_label, self.brush_class = QLabel("paint"), self._combo("Class that the brush paints")
        self.sort = self._combo("Order of the queue; skip and decide follow it", list(SORTS))
        self.sort.insertSeparator(len(SORTS))
        self.sort.addItems(FURTHER_ORDERS)
        self.only = self._combo("Which regions the queue lists")
        self.contrast = self._combo("Contrast of the image", ["contrast", *PRESETS])
        self.affinity = KeyButton("Affinity", KEYS["affinity"])
        self.affinity.setCheckable(True)
        self.affinity.setToolTip("Click a voxel to see which others the network finds alike  (T)")
        self.overlay = KeyButton("Hide", KEYS["overlay"])
        self.overlay.setToolTip("Hide or show labels and likelihood  (H)")
        for small in (self.affinity, self.overlay):
            small.setMinimumHeight(32)
        self.table = QuietTable()
        self.table.setModel(self.model)
        self.table.setMinimumHeight(130)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self._size_columns()

    def _size_columns(self) -> None:
        head = self.table.horizontalHeader()
        head.setMinimumSectionSize(18)
        head.setSectionsClickable(True)
        for column, width in enumerate((18, 122, 0, 34, 52, 62, 52)):
            stretch = column == 2
            head.setSectionResizeMode(
                column, QHeaderView.ResizeMode.Stretch if stretch else QHeaderView.ResizeMode.Fixed
            )
            if not stretch:
                head.resizeSection(column, width)

    def _combo(self, tip: str, items: list[str] | None = None) -> QComboBox:
        combo = QComboBox()
        combo.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        combo.setToolTip(tip)
        combo.addItems(items or [])
        combo.setMinimumContentsLength(6)
        combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        return combo

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(6)
        for place, widget in enumerate(
            (self.accept_button, self.reject_button, self.edit_button, self.skip_button, self.undo_button)
        ):
            grid.addWidget(widget, *divmod(place, 3))
        grid.addWidget(self.unsure_button, 1, 2)
        grid.addWidget(self.verify_button, 2, 0, 1, 2)
        grid.addWidget(self.redo_button, 2, 2)
        brush = QHBoxLayout()
        brush.addWidget(self.brush_label)
        brush.addWidget(self.brush_class, 1)
        brush.addWidget(self.discard_button)
        sorting = QHBoxLayout()
        for text, combo in (("sort", self.sort), ("show", self.only)):
            sorting.addWidget(QLabel(text))
            sorting.addWidget(combo, 1)
        looking = QHBoxLayout()
        looking.addWidget(self.contrast, 1)
        looking.addWidget(self.overlay, 1)
        looking.addWidget(self.affinity, 1)
        layout = QVBoxLayout(self)
        layout.setSpacing(GAP)
        layout.addWidget(self.header)
        for row in (grid, brush, looking, sorting):
            layout.addLayout(row)
        layout.addWidget(self.table, 1)

    def _connect(self) -> None:
        for widget, act in (
            (self.accept_button, self.accept),
            (self.reject_button, self.reject),
            (self.edit_button, self.edit),
            (self.skip_button, self.skip),
            (self.undo_button, self.undo),
            (self.redo_button, self.redo),
            (self.unsure_button, self.unsure),
            (self.verify_button, self.verify),
            (self.discard_button, self.discard),
            (self.overlay, self.overlay_toggled.emit),
        ):
            widget.clicked.connect(lambda _=False, act=act: act())
        self.affinity.toggled.connect(self.affinity_toggled)
        self.sort.currentTextChanged.connect(self._sort)
        self.only.currentTextChanged.connect(self._filter)
        self.contrast.activated.connect(lambda _: self._choose_contrast())
        self.brush_class.activated.connect(lambda index: self.painting.emit(self.brush_class.itemData(index)))
        self.table.clicked.connect(self._clicked)
        self.table.horizontalHeader().sectionClicked.connect(self._head_clicked)
        self._session.events.queue.connect(self._show_queue)
        self._session.events.cursor.connect(self._show_cursor)
        for name in ("view", "track", "filter", "cases", "draft", "read_only", "name"):
            getattr(self._session.events, name).connect(self._show_region)
        self._session.events.tracks.connect(self._show_queue)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        self._shut = True
        events = self._session.events
        for name in FOLLOWED:
            for slot in (self._show_queue, self._show_cursor, self._show_region):
                getattr(events, name).disconnect(slot, missing_ok=True)
        super().closeEvent(event)

    # ------------------------------------------------------------ show

    def _show_queue(self) -> None:
        self.model.rebuild()
        if self.model.has_strangers:
            self._sort(self.model.sort_by)
        votes = bool(self.model.voices)
        self.table.setColumnHidden(VOXELS, votes)  # the volume says as much, and the panel is narrow
        self.table.setColumnHidden(AGREE, not votes)
        wanted = [EVERYTHING, OPEN_ONLY, UNSURE_ONLY, THIS_CASE, *self.model.pairs()]
        if [self.only.itemText(i) for i in range(self.only.count())] != wanted:
            self.only.blockSignals(True)
            self.only.clear()
            self.only.addItems(wanted)
            self.only.setCurrentText(self.model.show_only)
            self.only.blockSignals(False)
            if self.only.currentText() != self.model.show_only:  # no such pair is left
                self.model.set_filter(self.only.currentText())
        self._show_cursor()

    def _show_cursor(self) -> None:
        self.model.mark_current()
        row = self.model.row_of(self._session.cursor)
        if row >= 0:
            self.table.selectRow(row)
            self.table.scrollTo(self.model.index(row, 0))
        self._show_region()

    def _show_region(self) -> None:
        session, region = self._session, self._session.current
        track = words.track_named(session.tracks, region.track if region else session.track)
        from_tags = region is not None and region.weak and session.run is not None and is_weak(session.run.method)
        self.header.show_region(
            region, session.name, session.cases, track, session.filter, self.model.voices, from_tags
        )
        if session.draft and not self.is_editing and session.view is not None:
            self._set_editing(True)  # strokes that a crash left behind
            return
        if self.is_editing and not session.draft and session.view is not self._painted:
            self._set_editing(False)  # another case came up
        self._show_buttons(region)

    def _show_buttons(self, region: Region | None) -> None:
        may, view = not self._session.read_only, self._session.view is not None
        ready = may and region is not None and not self.is_editing
        for widget in (self.accept_button, self.reject_button, self.unsure_button):
            widget.setEnabled(ready)
        self.skip_button.setEnabled(region is not None)
        self.verify_button.setEnabled(may and view and not self.is_editing)
        self.undo_button.setEnabled(may and bool(self._session.cases))
        self.redo_button.setEnabled(may and bool(self._session.cases) and not self.is_editing)
        self.edit_button.setEnabled(may and view)
        painted = self.is_editing and self._session.draft
        self.edit_button.set_caption("Apply" if painted else "Done" if self.is_editing else "Edit")
        for widget in (self.brush_label, self.brush_class, self.discard_button):
            widget.setVisible(self.is_editing)

    def _show_classes(self, chosen: int) -> None:
        track = words.track_named(self._session.tracks, self._session.track)
        self.brush_class.clear()
        for index in range(track.n_classes if track else 2):
            self.brush_class.addItem(words.class_name(track, index), index)
        self.brush_class.setCurrentIndex(max(0, chosen))

    # ------------------------------------------------------------ do

    def _decide(self, verdict: Verdict) -> None:
        if self._session.current is not None and not self._busy_editing():
            self._record(verdict)

    def _apply(self) -> None:
        track = self._session.track
        if self._record(Verdict.EDITED, labels=self._session.view.corrected[track]):
            self._set_editing(False)

    def _record(self, verdict: Verdict, **arguments: Any) -> bool:
        if self._session.read_only:
            say("This project is open for reading only: another program writes to it.")
            return False
        following = self.model.neighbour(self._session.cursor)
        with noticed():
            self._workbench.review(verdict, **arguments)
            self._go_to(following)
            return True
        return False

    def _go_to(self, region: Region | None) -> None:
        if region is not None and not self._busy_editing():
            self._go_to_region(region.id)

    def _go_to_region(self, region_id: int) -> None:
        index = next((i for i, region in enumerate(self._session.queue) if region.id == region_id), None)
        if index is not None and index != self._session.cursor:
            with noticed():
                self._workbench.select(index)

    def _busy_editing(self) -> bool:
        if self.is_editing and self._session.draft:
            say(f"Apply your strokes ({KEYS['edit']}) or discard them first.")
            return True
        if self.is_editing:
            self._set_editing(False)
        return False

    def _set_editing(self, editing: bool) -> None:
        self.is_editing = editing
        self._painted = self._session.view if editing else None
        region = self._session.current
        if editing:
            chosen = region.to_class if region is not None else 1
            self._show_classes(chosen)
            self.painting.emit(chosen)
        else:
            self.painting.emit(None)
        self._show_buttons(region)

    def _sort(self, name: str) -> None:
        run = self._session.run
        if name in SORTS:
            self.model.set_sort(name)
            self._show_cursor()
        elif run is None or not self._session.queue:
            self._ordered(name, ())
        elif self.sort.isEnabled():  # it is not while another order is made
            self._make_order(run, self._session.queue, name)

    def _make_order(self, run: Run, queue: tuple[Region, ...], name: str) -> None:
        def done(regions: Sequence[Region]) -> None:
            self._ordered(name, regions)
            if self.model.has_strangers and self._session.queue is not queue:  # filtered again meanwhile
                self._sort(name)

        self.sort.setEnabled(False)
        aside(self._order, self._workbench.store, run, queue, name, done=done, failed=lambda _: self._order_failed())

    def _ordered(self, name: str, regions: Sequence[Region]) -> None:
        if self._shut:
            return
        self.sort.setEnabled(True)
        self.model.set_order(name, regions)
        self._show_cursor()

    def _order_failed(self) -> None:
        """Back to the order shown; the notice says why. One that fails for a new run gives way to the default."""
        if self._shut:
            return
        self.sort.setEnabled(True)
        self.sort.setCurrentText("ranked" if self.model.has_strangers else self.model.sort_by)

    def _filter(self, name: str) -> None:
        self.model.set_filter(name)
        self._show_cursor()

    def _choose_contrast(self) -> None:
        if self.contrast.currentIndex() > 0:
            self.preset_chosen.emit(self.contrast.currentText())

    def _clicked(self, index: QModelIndex) -> None:
        self._go_to(self._session.queue[self.model.rows[index.row()]])

    def _head_clicked(self, column: int) -> None:
        if COLUMN_SORTS[column] is not None:
            self.sort.setCurrentText(COLUMN_SORTS[column])
