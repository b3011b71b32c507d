"""Project: open one or make one, and go from case to case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import QModelIndex, Signal
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from napari_noisylabel.widgets import words
from napari_noisylabel.widgets.case_model import CaseModel
from napari_noisylabel.widgets.notices import aside, noticed, say
from napari_noisylabel.widgets.parts import GAP, FolderLine, KeyButton, QuietTable, button, heading, note

FOLLOWED = ("cases", "queue", "view", "name", "project")


class ProjectPanel(QWidget):
    """Opens projects, makes them aside, and asks for cases by `case_wanted`.

    `make(folder, images, labels, classes)` makes a project and returns its folder; it runs in a thread.
    """

    case_wanted = Signal(str)

    def __init__(
        self,
        workbench: Any,
        make: Callable[[Path, Path, Path, tuple[str, ...]], Path],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self._session = workbench.session
        self._make = make
        self._closed = False
        self.model = CaseModel(self._session, self)
        self._build()
        self._lay_out()
        self._connect()
        self._show()

    def open(self, folder: Path | str, opened: Callable[[], None] = lambda: None) -> None:
        """Open the project in `folder`, which is read aside; `opened` is called when it is there."""
        self._workbench.close_project()  # it may be this one, and one writer has it at a time
        aside(self._workbench.read, Path(folder), done=lambda project: self._enter(project, opened))

    def _enter(self, project: Any, opened: Callable[[], None]) -> None:
        if self._closed:
            project.close()
            return
        with noticed():
            self._workbench.enter(project)
            opened()

    def make(self) -> None:
        """Make a project of the folders named, then open it."""
        folder, images, labels = self.folder.path, self.images.path, self.labels.path
        if folder is None or images is None or labels is None:
            say("A new project needs three folders: its own, one with images, one with labels.")
            return
        classes = tuple(name.strip() for name in self.classes.text().split(",") if name.strip())
        self._set_making(True)
        aside(
            self._make,
            folder,
            images,
            labels,
            classes,
            done=self._made,
            failed=lambda _: self._set_making(False),
        )

    def step(self, by: int) -> None:
        """To the next (1) or previous (-1) case, round and round."""
        n = len(self.model.rows)
        if n:
            view = self._session.view
            at = self.model.row_of(view.case.id) if view is not None else -1
            self.case_wanted.emit(self.model.rows[(at + by) % n if at >= 0 else 0].case.id)

    # ------------------------------------------------------------ build, lay out, connect

    def _build(self) -> None:
        self.name = heading("")
        self.facts = note()
        self.open_button = KeyButton("Open project")
        self.new_button = KeyButton("New project")
        self.new_button.setCheckable(True)
        self.form = QWidget()
        self.folder = FolderLine("Folder for the new project", "where the project will live")
        self.images = FolderLine("Folder with the images", "stays as it is")
        self.labels = FolderLine("Folder with the labels", "stays as it is")
        self.classes = QLineEdit()
        self.classes.setPlaceholderText("names, in order of their values")
        self.make_button = KeyButton("Check files and make", "", "#009E73")
        self.table = QuietTable()
        self.table.setModel(self.model)
        self.table.setMinimumHeight(160)
        head = self.table.horizontalHeader()
        head.setMinimumSectionSize(18)
        for column, width in enumerate((20, 0, 140, 60)):
            fixed = column != 1
            head.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed if fixed else QHeaderView.ResizeMode.Stretch)
            if fixed:
                head.resizeSection(column, width)
        self.previous, self.next = (
            button("◀  Previous case", lambda: self.step(-1)),
            button("Next case  ▶", lambda: self.step(1)),
        )

    def _lay_out(self) -> None:
        form = QFormLayout(self.form)
        form.setContentsMargins(0, 0, 0, 0)
        for text, widget in (
            ("project", self.folder),
            ("images", self.images),
            ("labels", self.labels),
            ("classes", self.classes),
        ):
            form.addRow(QLabel(text), widget)
        form.addRow(self.make_button)
        self.form.hide()
        top, walk = QHBoxLayout(), QHBoxLayout()
        top.addWidget(self.open_button)
        top.addWidget(self.new_button)
        walk.addWidget(self.previous)
        walk.addWidget(self.next)
        layout = QVBoxLayout(self)
        layout.setSpacing(GAP)
        layout.addWidget(self.name)
        layout.addWidget(self.facts)
        layout.addLayout(top)
        layout.addWidget(self.form)
        layout.addWidget(self.table, 1)
        layout.addLayout(walk)
        layout.addStretch(0)

    def _connect(self) -> None:
        self.open_button.clicked.connect(lambda: self._ask())
        self.new_button.toggled.connect(self.form.setVisible)
        self.make_button.clicked.connect(lambda: self.make())
        self.table.clicked.connect(self._clicked)
        for name in FOLLOWED:
            getattr(self._session.events, name).connect(self._show)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        self._closed = True
        for name in FOLLOWED:
            getattr(self._session.events, name).disconnect(self._show)
        super().closeEvent(event)

    # ------------------------------------------------------------ show and do

    def _show(self) -> None:
        session = self._session
        self.name.setText(session.name or "No project open")
        self.name.setToolTip(str(session.project or ""))
        self.facts.setText(facts(session))
        self.model.rebuild()
        row = self.model.row_of(session.view.case.id) if session.view is not None else -1
        if row >= 0:
            self.table.selectRow(row)
        for widget in (self.previous, self.next, self.table):
            widget.setVisible(bool(session.cases))

    def _ask(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open a project")
        if folder:
            self.open(folder)

    def _made(self, folder: Path) -> None:
        self._set_making(False)
        self.new_button.setChecked(False)
        self.open(folder)

    def _set_making(self, making: bool) -> None:
        self.make_button.setEnabled(not making)
        self.make_button.set_caption("Checking files …" if making else "Check files and make")

    def _clicked(self, index: QModelIndex) -> None:
        self.case_wanted.emit(self.model.rows[index.row()].case.id)


def facts(session: Any) -> str:
    """What the open project is: cases, structures, and whether it can be written."""
    if not session.cases:
        return "A project keeps your decisions beside the images and labels, which are never written to."
    held_out = sum(1 for case in session.cases if case.held_out)
    parts = [f"{words.count(len(session.cases))} cases"]
    if held_out:
        parts.append(f"{held_out} held out")
    names = [name for track in session.tracks for name in track.classes[1:]]
    parts.append(", ".join(names))
    if session.read_only:
        parts.append("read only")
    return "  ·  ".join(part for part in parts if part)
