"""Project, Train, Filter and Export panels, each on the fake workbench."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from napari_noisylabel.errors import NoPairs
from napari_noisylabel.records import FilterLevel, Report, Run, RunState
from napari_noisylabel.widgets import train_panel
from napari_noisylabel.widgets.export_panel import ExportPanel, to_write
from napari_noisylabel.widgets.filter_panel import FilterPanel, voxel_densities, voxels_above
from napari_noisylabel.widgets.project_panel import ProjectPanel
from napari_noisylabel.widgets.train_panel import TrainPanel


@pytest.fixture
def show(qtbot):
    def shown(panel):
        qtbot.addWidget(panel)
        return panel

    return shown


# ---------------------------------------------------------------- project


def test_cases_are_listed_with_what_is_left_and_the_worst_region(show, workbench):
    panel = show(ProjectPanel(workbench, make=None))

    row = panel.model.rows[1]
    assert (row.case.id, row.state) == ("case-2", "3 to decide")
    assert row.worst == pytest.approx(235 / 255)


def test_next_case_asks_for_the_one_after_the_open_one_and_goes_round(qtbot, show, workbench):
    panel = show(ProjectPanel(workbench, make=None))
    workbench.show(workbench.load("case-3"))

    with qtbot.waitSignal(panel.case_wanted) as wanted:
        panel.step(1)

    assert wanted.args == ["case-1"]


def test_a_new_project_is_made_aside_and_opened(qtbot, show, workbench):
    made = []
    panel = show(ProjectPanel(workbench, make=lambda *arguments: made.append(arguments) or arguments[0]))
    panel.folder.set_path("/data/new")
    panel.images.set_path("/data/images")
    panel.labels.set_path("/data/labels")
    panel.classes.setText("liver, spleen")

    panel.make()

    qtbot.waitUntil(lambda: ("open", Path("/data/new")) in workbench.calls)
    assert made == [(Path("/data/new"), Path("/data/images"), Path("/data/labels"), ("liver", "spleen"))]


def test_a_project_that_cannot_be_made_is_a_notice(qtbot, show, workbench, notices):
    def make(*_):
        raise NoPairs("no image has a label of the same name. Choose other folders.")

    panel = show(ProjectPanel(workbench, make=make))
    for line in (panel.folder, panel.images, panel.labels):
        line.set_path("/data/x")

    panel.make()

    qtbot.waitUntil(lambda: bool(notices))
    assert notices == ["no image has a label of the same name. Choose other folders."]
    assert panel.make_button.isEnabled()


# ---------------------------------------------------------------- train


def test_the_form_starts_at_the_defaults_and_hands_on_what_was_changed(show, workbench):
    panel = show(TrainPanel(workbench))
    panel.form.set_values({"ramp": 7})
    panel.epochs.setValue(12)

    panel.start()

    _, method, asked = workbench.calls[-1]
    assert method == "self-cleansing"
    assert (asked["settings"], asked["epochs"], asked["folds"]) == ({"ramp": 7}, 12, 2)


def test_every_built_in_method_has_a_form(show, workbench):
    panel = show(TrainPanel(workbench))

    for row in range(panel.method.count()):
        panel.method.setCurrentIndex(row)
        assert panel.form.values() == {}


def test_a_running_worker_can_be_stopped_and_no_other_started(qtbot, show, workbench):
    panel = show(TrainPanel(workbench))
    panel.start()

    assert not panel.start_button.isEnabled()
    with qtbot.waitSignal(panel.stop_asked):
        panel.stop_button.click()


def test_an_interrupted_run_can_be_resumed(show, workbench):
    panel = show(TrainPanel(workbench))
    assert not panel.resume_button.isEnabled()
    run = Run("run-007", "cross-entropy", {}, {}, 0, 2, 30, 0, RunState.INTERRUPTED, "2025-01-01T00:00:00Z")
    workbench.session.runs = (*workbench.session.runs, run)

    panel.resume()

    assert workbench.calls[-1][2]["resume"] == "run-007"


def test_curves_grow_with_the_reports_one_line_per_class_and_fold(show, workbench):
    panel = show(TrainPanel(workbench))
    reports = [
        Report(
            "run-002",
            "epoch",
            fold=fold,
            epoch=e,
            epochs=3,
            losses={"total": 1 / (e + 1)},
            dice={"labels/anterior": e / 3},
        )
        for fold in range(2)
        for e in range(3)
    ]

    workbench.session.curve = tuple(reports)

    x, y = panel.losses.curve("total 1").getData()
    assert list(x) == [1, 2, 3]
    assert np.allclose(y, [1, 1 / 2, 1 / 3])
    assert panel.dice.curve("labels/anterior 0") is not None


def test_without_torch_the_panel_says_what_to_install(show, workbench, monkeypatch):
    monkeypatch.setattr(train_panel, "can_train", lambda: False)
    panel = show(TrainPanel(workbench))

    assert "napari-noisylabel[train]" in panel.hint.text()
    assert not panel.hint.isHidden()
    assert not panel.start_button.isEnabled()


# ---------------------------------------------------------------- filter


def test_the_slider_tells_the_overlay_and_counts_at_once(qtbot, show, workbench):
    panel = show(FilterPanel(workbench))

    with qtbot.waitSignal(panel.threshold_moved) as moved:
        panel.slider.setValue(900)

    counts = workbench.session.scores.likelihood_counts["labels"]
    assert moved.args == [0.9]
    assert voxels_above(counts, 0.9) == counts[230:].sum()
    assert f"{counts[230:].sum():,}".replace(",", "\u2009") in panel.counts.text()


def test_filter_again_hands_level_and_threshold_to_the_worker(show, workbench):
    panel = show(FilterPanel(workbench))
    panel.level.setCurrentIndex(panel.level.findData(FilterLevel.REGION))
    panel.slider.setValue(700)

    panel.filter_again()

    assert workbench.calls[-1] == ("start_propose", "region", 0.7)


def test_the_mixture_is_drawn_where_it_split_and_explained_where_not(show, workbench):
    panel = show(FilterPanel(workbench))

    panel.shown_class.setCurrentIndex(1)
    assert panel.plot.curve("wrong") is not None
    panel.shown_class.setCurrentIndex(0)
    assert panel.plot.curve("wrong") is None
    assert "one component explains the scores" in panel.fit.text()


def test_the_histogram_is_a_density_of_the_counted_voxels(fake):
    _, scores = fake.filter_and_scores()

    x, density = voxel_densities(scores.edges, scores.counts["labels"][1])

    assert (np.diff(x) > 0).all()
    assert (density * np.diff(x)).sum() == pytest.approx(1)


def test_at_case_level_the_histogram_is_that_of_objects(show, workbench):
    session = workbench.session
    session.filter = dataclasses.replace(session.filter, level=FilterLevel.CASE)
    panel = show(FilterPanel(workbench))
    panel.shown_class.setCurrentIndex(2)

    x, heights, widths = (np.asarray(panel.bars.opts[key]) for key in ("x", "height", "width"))

    assert (heights * widths * 59)[x > np.log(2)].sum() == pytest.approx(12)  # of 59 known objects, 12 lie at 3
    assert "distance of objects" in panel.plot.getAxis("bottom").labelText


def test_at_region_level_the_histogram_is_that_of_the_queue_that_comes_after_the_filter(qtbot, show, workbench):
    session, panel = workbench.session, show(FilterPanel(workbench))
    mine = [r for r in session.queue if r.from_class == 1]
    panel.shown_class.setCurrentIndex(1)
    drawn = []
    panel.plot.setLabel = lambda side, text: drawn.append(text)
    session.filter = dataclasses.replace(session.filter, level=FilterLevel.REGION)
    session.queue = tuple(dataclasses.replace(r, score=9.0, voxels=400) for r in mine)

    qtbot.waitUntil(lambda: bool(drawn))

    x, heights = (np.asarray(panel.bars.opts[key]) for key in ("x", "height"))
    assert drawn == ["log score of regions"]  # once
    assert abs(x[heights > 0] - np.log(9.0 * 20)).max() < 0.5


# ---------------------------------------------------------------- export


def test_the_panel_says_what_will_be_written(workbench):
    said = to_write(workbench.session, "likelihood", "nifti", Path("/data/out"))

    assert "3 files" in said
    assert "case-1_likelihood.nii.gz" in said
    assert "/data/out" in said


def test_exporting_ends_with_a_link_to_the_folder(qtbot, show, workbench):
    panel = show(ExportPanel(workbench))
    panel.out.set_path("/data/out")

    panel.export()

    qtbot.waitUntil(lambda: "file:///data/out" in panel.result.text())
    assert workbench.calls[-1] == ("export", Path("/data/out"), "same", "corrected", False)
