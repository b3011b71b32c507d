"""The cases of the project as a table: their state and their worst region."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt
from qtpy.QtGui import QFont

from napari_noisylabel.records import Case, Region, RegionState
from napari_noisylabel.session import ReviewSession
from napari_noisylabel.widgets import words

COLUMNS = ("", "case", "state", "worst")
UNDECIDED = (RegionState.OPEN, RegionState.UNSURE)


@dataclass(frozen=True)
class CaseRow:
    """One case: regions still to decide, and the likelihood of the worst of them."""

    case: Case
    left: int = 0
    seen: int = 0
    worst: float | None = None

    @property
    def state(self) -> str:
        """What is left to do, in words."""
        if self.left:
            said = f"{words.count(self.left)} to decide"
        else:
            said = "decided" if self.seen else "–"
        return f"{said}, held out" if self.case.held_out else said


def case_rows(cases: tuple[Case, ...], queue: tuple[Region, ...]) -> list[CaseRow]:
    """One row per case, in the project's order."""
    waiting: dict[str, list[float]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for region in queue:
        if region.state in UNDECIDED:
            waiting[region.case].append(region.likelihood)
        elif region.state is not RegionState.GONE:
            seen[region.case] += 1
    return [CaseRow(c, len(own := waiting[c.id]), seen[c.id], max(own, default=None)) for c in cases]


class CaseModel(QAbstractTableModel):
    """Rows of `case_rows`; the open case is marked."""

    def __init__(self, session: ReviewSession, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.rows: list[CaseRow] = []
        self._bold = QFont()
        self._bold.setBold(True)
        self.rebuild()

    def rebuild(self) -> None:
        """Take cases and queue as they are now."""
        self.beginResetModel()
        self.rows = case_rows(self._session.cases, self._session.queue)
        self.endResetModel()

    def row_of(self, case_id: str) -> int:
        """The row of a case, -1 if there is none."""
        return next((i for i, row in enumerate(self.rows) if row.case.id == case_id), -1)

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:  # noqa: N802
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return COLUMNS[section]
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        if not index.isValid() or not 0 <= index.row() < len(self.rows):
            return None
        row = self.rows[index.row()]
        current = self._session.view is not None and self._session.view.case.id == row.case.id
        if role == Qt.ItemDataRole.DisplayRole:
            worst = "" if row.worst is None else words.percent(row.worst)
            return ("▶" if current else "", row.case.id, row.state, worst)[index.column()]
        if role == Qt.ItemDataRole.FontRole and current:
            return self._bold
        return None
