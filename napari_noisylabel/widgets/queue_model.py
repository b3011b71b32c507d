"""The queue as a table: thousands of regions, sorted and filtered without a proxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt
from qtpy.QtGui import QFont

from napari_noisylabel.records import Region, RegionState
from napari_noisylabel.runs import voices
from napari_noisylabel.session import ReviewSession
from napari_noisylabel.widgets import words

COLUMNS = ("", "region", "case", "p", "voxels", "volume", "agree")
MARKS = {
    RegionState.OPEN: "",
    RegionState.ACCEPTED: "✓",
    RegionState.REJECTED: "✗",
    RegionState.EDITED: "✎",
    RegionState.UNSURE: "?",
    RegionState.GONE: "–",
}
SORTS: dict[str, Callable[[Region], Any] | None] = {
    "ranked": None,
    "gain": lambda region: -region.gain,
    "likelihood": lambda region: -region.likelihood,
    "size": lambda region: -region.voxels,
    "case": lambda region: (region.case, -region.gain),
    "agreement": lambda region: (-region.for_it, -region.gain),
    "class pair": lambda region: (region.track, region.from_class, region.to_class, -region.gain),
}
COLUMN_SORTS = (None, "class pair", "case", "likelihood", "size", "size", "agreement")
VOXELS, AGREE = COLUMNS.index("voxels"), COLUMNS.index("agree")
EVERYTHING, OPEN_ONLY, UNSURE_ONLY, THIS_CASE = "all", "open", "unsure", "this case"
WEAK = "~"
"""Mark of an open region that goes back to image-level tags alone."""


class QueueModel(QAbstractTableModel):
    """Rows of `session.queue` in the order shown; `rows[i]` is the index in the queue."""

    def __init__(self, session: ReviewSession, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.sort_by, self.show_only = "ranked", EVERYTHING
        self._places: dict[int, int] = {}  # of regions, by id, in an order that was made elsewhere
        self.rows: list[int] = []
        self._row_of: dict[int, int] = {}
        self._bold = QFont()
        self._bold.setBold(True)
        self.rebuild()

    # ------------------------------------------------------------ what is shown

    @property
    def voices(self) -> tuple[str, ...]:
        """The runs that vote on a region; () unless the run shown is an ensemble."""
        return voices(self._session.run, self._session.runs)

    def rebuild(self) -> None:
        """Take the queue as it is now."""
        self.beginResetModel()
        queue = self._session.queue
        rows = [i for i, region in enumerate(queue) if self._passes(region)]
        key = SORTS.get(self.sort_by, self._place)
        self.rows = rows if key is None else sorted(rows, key=lambda i: key(queue[i]))
        self._row_of = {index: row for row, index in enumerate(self.rows)}
        self.endResetModel()

    def set_sort(self, name: str) -> None:
        """One of SORTS."""
        self.sort_by = name
        self.rebuild()

    def set_order(self, name: str, regions: Sequence[Region]) -> None:
        """An order that takes more than a look at each region, such as that of a sampler; strangers come last."""
        self._places = {region.id: place for place, region in enumerate(regions)}
        self.set_sort(name)

    @property
    def has_strangers(self) -> bool:
        """True where such an order is shown, and regions have come that it does not know."""
        return self.sort_by not in SORTS and any(region.id not in self._places for region in self._session.queue)

    def set_filter(self, name: str) -> None:
        """ "all", "open", "unsure", "this case" or a class pair of `pairs`."""
        self.show_only = name
        self.rebuild()

    def pairs(self) -> list[str]:
        """The class pairs in the queue, as the filter names them."""
        seen = {(r.track, r.from_class, r.to_class): r for r in self._session.queue}
        return [self._pair(seen[key]) for key in sorted(seen)]

    def row_of(self, index: int) -> int:
        """The row that shows queue index `index`, -1 if none does."""
        return self._row_of.get(index, -1)

    def neighbour(self, index: int, step: int = 1) -> Region | None:
        """The next (or previous) region in the order shown that is still to decide."""
        if not self.rows:
            return None
        start = self.row_of(index)
        n = len(self.rows)
        for distance in range(1, n + 1):
            region = self._session.queue[self.rows[(start + step * distance) % n]]
            if region.state in (RegionState.OPEN, RegionState.UNSURE):
                return region
        return None

    def mark_current(self) -> None:
        """The cursor moved: draw the rows again."""
        if self.rows:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.rows) - 1, len(COLUMNS) - 1))

    def _place(self, region: Region) -> int:
        return self._places.get(region.id, len(self._places))

    def _passes(self, region: Region) -> bool:
        if self.show_only == EVERYTHING:
            return True
        if self.show_only == OPEN_ONLY:
            return region.state is RegionState.OPEN
        if self.show_only == UNSURE_ONLY:
            return region.state is RegionState.UNSURE
        if self.show_only == THIS_CASE:
            view = self._session.view
            return view is not None and region.case == view.case.id
        return self._pair(region) == self.show_only

    def _pair(self, region: Region) -> str:
        track = words.track_named(self._session.tracks, region.track)
        pair = words.change(region, track)
        return f"{region.track}: {pair}" if len(self._session.tracks) > 1 else pair

    # ------------------------------------------------------------ Qt asks

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:  # noqa: N802
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return COLUMNS[section]
        if role == Qt.ItemDataRole.TextAlignmentRole and section > 2:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        if not index.isValid() or not 0 <= index.row() < len(self.rows):
            return None
        at = self.rows[index.row()]
        region = self._session.queue[at]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(region, index.column(), at == self._session.cursor)
        if role == Qt.ItemDataRole.ToolTipRole:
            told = f"region {region.id} · {words.STATE_WORDS[region.state]} · {words.size(region)}"
            told += " · weak evidence" if region.weak else ""
            return f"{told}\n{words.shares(region, self.voices)}" if region.votes else told
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() > 2:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.FontRole and at == self._session.cursor:
            return self._bold
        return None

    def _text(self, region: Region, column: int, current: bool) -> str:
        if column == 0:
            return "▶" if current else MARKS[region.state] or (WEAK if region.weak else "")
        if column == 1:
            return words.short_change(region, words.track_named(self._session.tracks, region.track))
        if column == 2:
            return region.case
        if column == 3:
            return f"{region.likelihood:.2f}".removeprefix("0")
        if column == AGREE:
            return words.agreement(region)
        return words.count(region.voxels) if column == VOXELS else words.volume(region.ml)
