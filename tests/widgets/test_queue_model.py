"""The queue table."""

from __future__ import annotations

import dataclasses
import time

from qtpy.QtCore import Qt

from napari_noisylabel.records import RegionState
from napari_noisylabel.widgets.queue_model import QueueModel


def test_the_table_lists_the_queue_in_the_order_chosen(qapp, workbench):
    model = QueueModel(workbench.session)

    model.set_sort("size")

    sizes = [workbench.session.queue[i].voxels for i in model.rows]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == len(workbench.session.queue)


def test_a_class_pair_filters_the_table(qapp, workbench):
    model = QueueModel(workbench.session)

    model.set_filter("anterior → posterior")

    assert model.rowCount() == 3
    assert {workbench.session.queue[i].from_class for i in model.rows} == {1}


def test_the_next_region_is_the_next_undecided_row_and_wraps_round(qapp, workbench):
    session = workbench.session
    session.queue = (
        session.queue[0],
        dataclasses.replace(session.queue[1], state=RegionState.ACCEPTED),
        session.queue[2],
    )
    model = QueueModel(session)

    assert model.neighbour(0).id == session.queue[2].id
    assert model.neighbour(2).id == session.queue[0].id


def test_the_row_under_the_cursor_is_marked(qapp, workbench):
    model = QueueModel(workbench.session)
    workbench.select(2)

    marks = [model.data(model.index(row, 0), Qt.ItemDataRole.DisplayRole) for row in range(4)]

    assert marks == ["", "", "▶", ""]


def test_twenty_thousand_regions_sort_in_well_under_a_second(qapp, workbench):
    session = workbench.session
    first = session.queue[0]
    session.queue = tuple(dataclasses.replace(first, id=i, gain=float(i * 7919 % 20011)) for i in range(20_000))
    model = QueueModel(session)

    started = time.perf_counter()
    model.set_sort("gain")

    assert time.perf_counter() - started < 0.5
    assert session.queue[model.rows[0]].gain == 20010.0


def test_weak_regions_have_a_mark_of_their_own(qapp, workbench):
    session = workbench.session
    session.queue = tuple(dataclasses.replace(r, weak=True) for r in session.queue)
    model = QueueModel(session)
    other = model.row_of(session.cursor) + 1
    assert model.data(model.index(other, 0), Qt.ItemDataRole.DisplayRole) == "~"
    assert "weak evidence" in model.data(model.index(other, 0), Qt.ItemDataRole.ToolTipRole)
