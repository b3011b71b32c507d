"""The dock in a viewer: what one part tells another."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from napari.utils.key_bindings import coerce_keybinding

from napari_noisylabel.records import Report, Verdict
from napari_noisylabel.samples import hippocampus_folder
from napari_noisylabel.session import Stage
from napari_noisylabel.widgets import dock as dock_module
from napari_noisylabel.widgets.dock import NoisyLabelDock, show_filter
from napari_noisylabel.workbench import Workbench


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def dock(qtbot, viewer, fake):
    dock = NoisyLabelDock(viewer, fake.FakeWorkbench(), ask_to_stop=lambda _: True)
    viewer.window.add_dock_widget(dock, name="Noisy labels", area="right")
    dock.open_project("/data/project")
    session = dock.workbench.session
    qtbot.waitUntil(lambda: session.view is not None and viewer.dims.current_step[0] == 6)
    return dock


def press(viewer, key):
    viewer.keymap[coerce_keybinding(key)](viewer)


def test_opening_a_project_shows_the_first_region_on_the_review_panel(viewer, dock):
    session = dock.workbench.session

    assert session.stage is Stage.REVIEW
    assert session.view.case.id == session.current.case
    assert "noise likelihood" in viewer.layers
    assert "axial 7 of 12" in dock.footer.position.text()


def test_one_key_decides_and_opens_the_case_of_the_next_region(qtbot, viewer, dock):
    session = dock.workbench.session
    zoom = viewer.scene.camera.zoom

    press(viewer, "A")

    qtbot.waitUntil(lambda: session.view.case.id == "case-2" and not dock.loader.is_reading)
    assert ("review", Verdict.ACCEPTED) in dock.workbench.calls
    assert viewer.scene.camera.zoom == zoom
    assert dock.footer.counters.text().startswith("1 seen")


@pytest.mark.parametrize(
    "work",
    [
        lambda viewer: viewer.dims.set_current_step(0, 3),
        lambda viewer: setattr(viewer.scene.camera, "zoom", 2.5),
        lambda viewer: setattr(viewer.cursor, "position", (3.0, 20.0, 11.0)),
        lambda viewer: press(viewer, "A"),
    ],
    ids=["step", "zoom", "move", "decide"],
)
def test_a_training_hears_of_the_person_at_work_and_only_while_it_runs(viewer, dock, work):
    watch = dock.workbench.retrain()
    session = dock.workbench.session
    session.progress = Report("run-002", "done")
    viewer.dims.set_current_step(0, 9)
    assert watch.asked == []

    session.progress = Report("run-002", "step", done=1, total=9)
    work(viewer)

    assert set(watch.asked) == {"give way"}


def test_strokes_go_to_the_journal_at_the_end_of_each(qtbot, viewer, dock):
    press(viewer, "D")
    layer = dock.layers.corrected
    assert layer.mode == "paint"

    layer.data_setitem((np.array([3]), np.array([4]), np.array([5])), 1)

    qtbot.waitUntil(lambda: ("save_draft", "labels", (12, 40, 56)) in dock.workbench.calls)
    assert dock.review.edit_button.caption == "Apply"


def test_tabs_and_stage_follow_each_other(dock):
    dock.tabs.setCurrentIndex(1)
    assert dock.workbench.session.stage is Stage.TRAIN

    dock.workbench.session.stage = Stage.EXPORT
    assert dock.tabs.currentIndex() == 4


def test_the_slider_of_the_filter_panel_moves_the_overlay(dock):
    dock.filter.slider.setValue(800)

    assert dock.layers.likelihood.contrast_limits[0] == pytest.approx(0.8 * 255)


def test_training_is_in_sight_on_every_panel_and_can_be_stopped(dock):
    session = dock.workbench.session
    dock.train.start()
    session.progress = Report("run-002", "step", epoch=3, epochs=30, done=60, total=600, left_s=100)

    assert dock.footer.training.text() == "training: epoch 4 of 30, 2 min left"
    assert not dock.footer.stop.isHidden()
    dock.footer.stop.click()
    assert dock.workbench.watch.asked == ["stop"]


def test_the_session_is_polled(qtbot, dock):
    dock.workbench.calls.clear()

    qtbot.waitUntil(lambda: ("poll",) in dock.workbench.calls, timeout=1000)


def test_a_click_with_the_affinity_tool_shows_the_map_of_that_slice(qtbot, viewer, dock):
    class Click:
        position = (6 * 3.0, 20.0, 16.0)

    dock.review.toggle_affinity()
    viewer.mouse_drag_callbacks[-1](viewer, Click())

    qtbot.waitUntil(lambda: "affinity" in viewer.layers)
    assert ("affinity", "case-1", (6, 20, 20), 0) in dock.workbench.calls
    dock.review.toggle_affinity()
    assert "affinity" not in viewer.layers


@pytest.mark.parametrize("how", ["cross", "window"])
def test_closing_gives_back_keys_timers_and_connections(qtbot, viewer, dock, how):
    session, bench = dock.workbench.session, dock.workbench
    dock.train.start()

    if how == "cross":
        viewer.window.remove_dock_widget(dock.parent())
    else:
        viewer.window.show()
        viewer.window._qt_window.hide()

    assert not viewer.keymap
    assert not any(layer.keymap for layer in viewer.layers)
    assert not dock._timer.isActive()
    assert bench.watch.asked == ["stop"]
    assert ("close",) in bench.calls
    assert len(session.events.queue) == len(session.events.view) == len(session.events.progress) == 0


def test_a_command_finds_the_dock_that_is_there_and_makes_one_where_none_is(viewer, fake, monkeypatch):
    monkeypatch.setattr(dock_module, "Workbench", fake.FakeWorkbench)

    show_filter(viewer)
    show_filter(viewer)

    docks = [w for w in viewer.window.dock_widgets.values() if isinstance(w, NoisyLabelDock)]
    assert len(docks) == 1
    assert docks[0].workbench.session.stage is Stage.FILTER


def test_an_error_while_reading_a_case_is_a_notice(qtbot, dock, monkeypatch, notices):
    from napari_noisylabel.errors import SourceChanged

    def load(case_id):
        raise SourceChanged(f"the image of case {case_id!r} has changed. Make the project again.")

    monkeypatch.setattr(dock.workbench, "load", load)

    dock.loader.request("case-3")

    qtbot.waitUntil(lambda: bool(notices))
    assert "has changed" in notices[0]
    assert not dock.loader.is_reading


# ---------------------------------------------------------------- on the real workbench


@pytest.fixture
def project(tmp_path):
    """A project of two sample volumes, without a run."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for file in sorted((hippocampus_folder() / kind).glob("*.nii.gz"))[:2]:
            shutil.copy(file, tmp_path / kind)
    make = dock_module.make_project
    return make(tmp_path / "project", tmp_path / "images", tmp_path / "labels", ("anterior", "posterior"))


def test_strokes_of_a_window_that_died_are_there_in_the_next(qtbot, make_napari_viewer, project):
    viewer = make_napari_viewer()
    dock = NoisyLabelDock(viewer)
    qtbot.addWidget(dock)
    dock.open_project(project)
    qtbot.waitUntil(lambda: dock.workbench.session.view is not None)
    dock.review.edit()
    dock.layers.corrected.brush_size = 3
    dock.layers.corrected.paint((4, 5, 6), 2)
    painted = dock.workbench.session.view.corrected["labels"].copy()
    dock.shut()  # nothing was applied

    bench = Workbench()
    bench.open(project)
    bench.show(bench.load(bench.session.cases[0].id))

    assert bench.session.draft
    assert np.array_equal(bench.session.view.corrected["labels"], painted)
    bench.close()


def test_another_filter_brings_new_maps_of_the_case_on_the_screen(qtbot, dock):
    session = dock.workbench.session
    shown = session.view.case.id
    dock.workbench.calls.clear()

    session.filter = dataclasses.replace(session.filter, version=2)

    qtbot.waitUntil(lambda: ("load", shown) in dock.workbench.calls and not dock.loader.is_reading)
