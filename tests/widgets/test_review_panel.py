"""Buttons, queue and painting state of the review panel."""

from __future__ import annotations

import dataclasses

import pytest
from qtpy.QtCore import Qt

from napari_noisylabel.errors import NothingToDo
from napari_noisylabel.records import Verdict
from napari_noisylabel.study.samplers import QUEUE_ORDERS, order_regions
from napari_noisylabel.widgets.review_panel import ReviewPanel
from napari_noisylabel.workbench import Workbench


@pytest.fixture
def panel(qtbot, workbench):
    workbench.show(workbench.load(workbench.session.current.case))
    panel = ReviewPanel(workbench)
    qtbot.addWidget(panel)
    workbench.calls.clear()
    return panel


def test_a_click_on_accept_records_it_and_moves_to_the_next_region(qtbot, panel, workbench):
    following = workbench.session.queue[1].id

    qtbot.mouseClick(panel.accept_button, Qt.MouseButton.LeftButton)

    assert ("review", Verdict.ACCEPTED) in workbench.calls
    assert workbench.session.current.id == following


def test_the_next_region_follows_the_order_of_the_table(panel, workbench):
    panel.sort.setCurrentText("size")
    queue = workbench.session.queue
    workbench.select(panel.model.rows[0])

    panel.reject()

    assert workbench.session.current.id == queue[panel.model.rows[1]].id


# ---------------------------------------------------------------- orders that are made aside


def backwards(store, run, regions, name):
    if name == "bald":
        raise NothingToDo("order bald compares several passes.")
    return regions[::-1]


@pytest.fixture
def ordered(qtbot, workbench):
    panel = ReviewPanel(workbench, order=backwards)
    qtbot.addWidget(panel)
    return panel


def shown(panel, workbench):
    return [workbench.session.queue[i].id for i in panel.model.rows]


def test_the_window_offers_the_orders_of_the_command_line_and_starts_with_its_own(panel):
    offered = {panel.sort.itemText(i) for i in range(panel.sort.count())}
    assert panel.sort.currentText() == "ranked"
    assert {*QUEUE_ORDERS} <= offered


def test_a_sampler_orders_the_table_aside_and_decisions_follow_it(qtbot, ordered, workbench):
    ids = [region.id for region in workbench.session.queue]
    ordered.sort.setCurrentText("entropy")
    assert not ordered.sort.isEnabled()
    qtbot.waitUntil(ordered.sort.isEnabled)
    assert shown(ordered, workbench) == ids[::-1]
    workbench.select(len(ids) - 1)
    ordered.accept()
    assert workbench.session.current.id == ids[-2] and shown(ordered, workbench) == ids[::-1]


def test_an_order_that_cannot_be_made_says_why_and_leaves_the_one_before(qtbot, ordered, workbench, notices):
    before = shown(ordered, workbench)
    ordered.sort.setCurrentText("bald")
    qtbot.waitUntil(ordered.sort.isEnabled)
    qtbot.waitUntil(lambda: bool(notices))
    assert ordered.sort.currentText() == "ranked" and shown(ordered, workbench) == before


def test_regions_that_came_later_are_ordered_anew(qtbot, ordered, workbench):
    ordered.sort.setCurrentText("margin")
    qtbot.waitUntil(ordered.sort.isEnabled)
    queue = workbench.session.queue
    workbench.session.queue = tuple(dataclasses.replace(r, id=r.id + 100) for r in queue)
    qtbot.waitUntil(ordered.sort.isEnabled)
    assert shown(ordered, workbench) == [r.id + 100 for r in reversed(queue)]


def test_a_sampler_reads_what_a_real_run_left(qtbot, trained):
    workbench = Workbench()
    workbench.open(trained)
    panel = ReviewPanel(workbench)
    qtbot.addWidget(panel)
    panel.sort.setCurrentText("entropy")
    qtbot.waitUntil(panel.sort.isEnabled)
    session = workbench.session
    expected = order_regions(workbench.store, session.run, session.queue, "entropy")
    assert shown(panel, workbench) == [region.id for region in expected]
    workbench.close()


# ---------------------------------------------------------------- skip, paint, undo


def test_skip_decides_nothing(panel, workbench):
    panel.skip()
    panel.back()

    assert workbench.session.cursor == 0
    assert not [call for call in workbench.calls if call[0] == "review"]


def test_strokes_must_be_applied_or_discarded_before_the_next_decision(panel, workbench):
    panel.edit()
    workbench.session.draft = True

    panel.accept()

    assert not [call for call in workbench.calls if call[0] == "review"]
    assert panel.edit_button.caption == "Apply"
    assert not panel.accept_button.isEnabled()


def test_applying_makes_the_strokes_one_edit(qtbot, panel, workbench):
    with qtbot.waitSignal(panel.painting) as painting:
        panel.edit()
    assert painting.args == [workbench.session.current.to_class]
    workbench.session.draft = True

    panel.edit()

    assert ("review", Verdict.EDITED) in workbench.calls
    assert not panel.is_editing


def test_strokes_that_a_crash_left_behind_open_in_edit(panel, workbench):
    workbench.session.draft = True

    assert panel.is_editing
    panel.discard()
    assert ("discard_draft", "labels") in workbench.calls
    assert not panel.is_editing


def test_undo_while_painting_takes_back_a_stroke_and_no_decision(qtbot, panel, workbench):
    panel.edit()

    with qtbot.waitSignal(panel.stroke_undone):
        panel.undo()

    assert not [call for call in workbench.calls if call[0] == "review"]


def test_undo_goes_back_to_the_region_it_opens_again(panel, workbench):
    decided = workbench.session.current.id
    panel.accept()
    panel.skip()

    panel.undo()

    assert workbench.session.current.id == decided


def test_nothing_to_undo_is_a_notice_and_not_a_crash(panel, notices):
    panel.undo()

    assert "nothing to undo" in notices[-1]


def test_a_read_only_project_offers_no_decision(panel, workbench):
    workbench.session.read_only = True

    buttons = (panel.accept_button, panel.reject_button, panel.edit_button, panel.undo_button)
    assert not any(button.isEnabled() for button in buttons)
    assert panel.skip_button.isEnabled()


def test_an_empty_queue_says_what_to_do_next(panel, workbench):
    workbench.session.queue = ()

    assert panel.header.what.text() == "Queue is empty"
    assert "Lower the threshold" in panel.header.why.text()


def test_a_closed_panel_no_longer_follows_the_session(panel, workbench):
    panel.close()
    said = panel.header.what.text()

    workbench.session.queue = ()

    assert panel.header.what.text() == said


def test_the_panel_fits_into_380_pixels(qtbot, panel):
    assert panel.minimumSizeHint().width() <= 380
