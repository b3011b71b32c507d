"""Export: what leaves, in which format, where to; and the record of origin beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QVBoxLayout, QWidget

from napari_noisylabel.records import Case
from napari_noisylabel.session import ReviewSession
from napari_noisylabel.widgets import words
from napari_noisylabel.widgets.notices import aside
from napari_noisylabel.widgets.parts import GAP, FolderLine, KeyButton, heading, note

WHAT = {
    "corrected": "corrected labels",
    "proposal": "proposed labels",
    "likelihood": "noise likelihood",
}
FORMATS = {"same": "same as the source", "nifti": "NIfTI (.nii.gz)"}
FOLLOWED = ("cases", "tracks", "run", "draft", "counters", "read_only")


class ExportPanel(QWidget):
    """Says what will be written, and writes it aside."""

    def __init__(self, workbench: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self._session = workbench.session
        self._writing = False
        self._build()
        self._lay_out()
        self._connect()
        self._show()

    def export(self) -> None:
        """Write, in a thread."""
        out = self.out.path
        if out is None:
            return
        self._set_writing(True)
        aside(
            self._workbench.export,
            out,
            format=self.format.currentData(),
            what=self.what.currentData(),
            overwrite=self.overwrite.isChecked(),
            done=self._done,
            failed=lambda _: self._set_writing(False),
        )

    def _build(self) -> None:
        self.what, self.format = QComboBox(), QComboBox()
        for combo, choices in ((self.what, WHAT), (self.format, FORMATS)):
            for key, text in choices.items():
                combo.addItem(text, key)
        self.out = FolderLine("Folder to write to", "a folder of its own")
        self.overwrite = QCheckBox("replace files that are there")
        self.summary = note()
        self.button = KeyButton("Export", "", "#009E73")
        self.result = note()
        self.result.setOpenExternalLinks(True)
        self.result.setTextFormat(Qt.TextFormat.RichText)

    def _lay_out(self) -> None:
        form = QFormLayout()
        for text, widget in (("what", self.what), ("format", self.format), ("to", self.out)):
            form.addRow(text, widget)
        form.addRow("", self.overwrite)
        layout = QVBoxLayout(self)
        layout.setSpacing(GAP)
        layout.addWidget(heading("Take clean volumes with you"))
        layout.addLayout(form)
        for widget in (self.summary, self.button, self.result):
            layout.addWidget(widget)
        layout.addStretch(1)

    def _connect(self) -> None:
        for combo in (self.what, self.format):
            combo.currentIndexChanged.connect(lambda _: self._show())
        self.out.changed.connect(lambda _: self._show())
        self.button.clicked.connect(lambda: self.export())
        for name in FOLLOWED:
            getattr(self._session.events, name).connect(self._show)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        for name in FOLLOWED:
            getattr(self._session.events, name).disconnect(self._show)
        super().closeEvent(event)

    def _show(self) -> None:
        self.summary.setText(to_write(self._session, self.what.currentData(), self.format.currentData(), self.out.path))
        needs_run = self.what.currentData() != "corrected" and self._session.run is None
        ready = bool(self._session.cases) and self.out.path is not None and not needs_run
        self.button.setEnabled(ready and not self._writing)

    def _done(self, result: Any) -> None:
        self._set_writing(False)
        folder = Path(result.origin).parent
        link = QUrl.fromLocalFile(str(folder)).toString()
        n = len(result.files)
        noun = "file" if n == 1 else "files"
        there = f'<a href="{link}" style="color:#8ab4f8">{folder}</a>'
        self.result.setText(f"{words.count(n)} {noun} written to {there}.")

    def _set_writing(self, writing: bool) -> None:
        self._writing = writing
        self.button.set_caption("Writing …" if writing else "Export")
        self.result.setText("")
        self._show()


def to_write(session: ReviewSession, what: str, format: str, out: Path | None) -> str:
    """What an export would write, before it is written."""
    if not session.cases:
        return "Open a project first."
    if what != "corrected" and session.run is None:
        return "There is no run yet: only corrected labels can leave."
    n = (
        sum(len(case.labels) for case in session.cases)
        if what == "corrected"
        else len(session.cases) * len(session.tracks)
    )
    example = example_name(session, what, format)
    place = str(out) if out is not None else "the folder you choose"
    said = (
        f"{words.count(n)} files such as <b>{example}</b>, each on the grid of its source, and "
        f"<b>origin.json</b>, which says who decided what, go to {place}."
    )
    if what == "corrected" and any(c.is_blank(t.name) for c in session.cases for t in session.tracks):
        said += "<br>Of cases without a mask, those leave in which something was decided."
    return said + ("<br>Strokes that are not applied stay behind." if session.draft else "")


def example_name(session: ReviewSession, what: str, format: str) -> str:
    """The name of the first file that an export would write."""
    case = session.cases[0]
    track = session.tracks[0].name if session.tracks else ""
    source = case.labels[track].path.name if track in case.labels else _blank_name(case)
    suffix = ".nii.gz" if source.endswith(".nii.gz") else Path(source).suffix
    stem = source.removesuffix(suffix) + ("" if what == "corrected" else f"_{what}")
    folder = f"{track}/" if len(session.tracks) > 1 else ""
    return folder + stem + (".nii.gz" if format == "nifti" else suffix)


def _blank_name(case: Case) -> str:
    """The file that a mask drawn from nothing goes to: the case's, in the format of its image."""
    name = case.images[0].path.name if case.images else ""
    suffix = ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix or ".nii.gz"
    return case.id + (".png" if suffix in (".jpg", ".jpeg") else suffix)
