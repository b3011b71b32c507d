"""What a method shows of itself: cells, lines, and which of it is on the Train panel."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from napari_noisylabel.inner import Curve, Fit, Matrix, Mixtures, Note, to_json
from napari_noisylabel.records import MixtureFit, Report
from napari_noisylabel.widgets.inner_model import cells, drawing, heat
from napari_noisylabel.widgets.inner_view import InnerView, MatrixTable
from napari_noisylabel.widgets.train_panel import TrainPanel

CLASSES = ("background", "anterior", "posterior")
SQUARE = Matrix(
    "transition matrix", CLASSES, CLASSES,
    ((0.92, 0.05, 0.03), (0.2, 0.7, 0.1), (0.25, 0.05, 0.7)),
    ((0.03, 0.02, 0.01), (0.05, 0.06, 0.02), (0.06, 0.02, 0.07)),
)  # fmt: skip


def report(epoch, *shown, fold=0):
    return Report("run-002", "epoch", fold=fold, epoch=epoch, epochs=3, inner=to_json(shown))


@pytest.fixture
def view(qtbot, workbench):
    view = InnerView(workbench)
    qtbot.addWidget(view)
    return view


# ---------------------------------------------------------------- cells and lines


def test_a_cell_has_its_standard_error_beside_it():
    assert cells(SQUARE)[0] == ["0.92 ± 0.03", "0.05 ± 0.02", "0.03 ± 0.01"]


def test_small_standard_errors_get_a_third_digit():
    assert cells(Matrix("m", ("a",), ("b",), ((0.9215,),), ((0.0042,),))) == [["0.921 ± 0.004"]]


def test_a_value_that_was_not_measured_is_a_dash_and_counts_are_whole():
    found = cells(Matrix("m", ("a",), ("share", "voxels", "ml"), ((None, 14400.0, 2.345),)))
    assert found == [["–", "14\u2009400", "2.35"]]


def test_only_classes_against_classes_are_coloured():
    assert heat(SQUARE)[0, 0] == 1
    assert heat(Matrix("m", ("a",), ("P(noisy)", "ml"), ((0.9, 12.0),))) is None


def test_a_curve_has_one_line_per_series_with_gaps_where_nothing_was_measured():
    reports = [report(e, Curve("beta", {"beta": v, "kept": 1.0})) for e, v in enumerate((0.5, None, 0.7))]
    beta, kept = drawing(Curve("beta", {}), reports, 0).lines
    assert (beta.name, list(beta.x), list(beta.y)) == ("beta", [1, 3], [0.5, 0.7])
    assert list(kept.x) == [1, 2, 3]


def test_a_mixture_is_a_density_with_its_fit_and_its_threshold():
    fit = MixtureFit((1.0, 3.0), (0.4, 0.4), (0.5, 0.5), True, "", 40)
    density, fitted, threshold = drawing(Mixtures("m", 0, 4, {"a": (1, 8, 1, 10)}, {"a": fit}, 2.0), [], 0).lines
    assert sum(density.y) * 1.0 == pytest.approx(1)
    assert fitted.dashed and np.argmax(fitted.y) in (0, 1, 2, 3) and threshold.x == (2.0, 2.0)


def test_a_fit_is_marked_where_it_decided():
    found = drawing(Fit("IoU", (0, 1), (0.2, 0.4), (0.21, 0.39), mark=0.5), [], 0).lines
    assert [line.name for line in found] == ["measured", "fitted", "decided"]
    assert found[2].x == (0.5, 0.5) and found[2].y == (0.2, 0.4)


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(("width", "text"), [(600, "0.92 ± 0.03"), (300, "0.92\n± 0.03")])
def test_the_error_goes_below_its_value_where_the_panel_is_narrow(qtbot, width, text):
    table = MatrixTable()
    qtbot.addWidget(table)
    table.resize(width, 200)
    table.show()
    table.show_matrix(SQUARE)
    assert table.item(0, 0).text() == text
    assert table.item(0, 0).toolTip() == "background, background: 0.92 ± 0.03"


def test_a_matrix_after_a_larger_one_leaves_nothing_of_it(qtbot):
    table = MatrixTable()
    qtbot.addWidget(table)
    table.show_matrix(SQUARE)
    table.show_matrix(Matrix("m", ("a",), ("b",), ((0.5,),)))
    assert (table.rowCount(), table.columnCount(), table.item(0, 0).text()) == (1, 1, "0.500")


# ---------------------------------------------------------------- the view


def test_without_inner_state_nothing_is_shown(view, workbench):
    workbench.session.curve = (report(0),)
    assert view.isHidden()


def test_the_first_matrix_comes_up_by_itself_and_notes_are_always_read(view, workbench):
    workbench.session.curve = (report(0, Curve("loss", {"all": 1.0}), SQUARE, Note("about labels", "few voxels")),)
    assert not view.isHidden() and view.what.currentText() == "transition matrix"
    assert view.table.item(0, 0).toolTip().endswith("0.92 ± 0.03") and view.plot.isHidden()
    assert view.notes.text() == "about labels: few voxels"


def test_what_was_chosen_stays_from_epoch_to_epoch(view, workbench):
    first = report(0, SQUARE, Curve("loss", {"all": 1.0}))
    workbench.session.curve = (first,)
    view.what.setCurrentIndex(view.what.findText("loss"))
    workbench.session.curve = (first, report(1, SQUARE, Curve("loss", {"all": 0.5})))
    x, y = view.plot.curve("all").getData()
    assert view.what.currentText() == "loss" and (list(x), list(y)) == ([1, 2], [1.0, 0.5])


def test_each_fold_has_its_own(view, workbench):
    second = Matrix("transition matrix", CLASSES, CLASSES, ((0.5,) * 3,) * 3)
    workbench.session.curve = (report(0, SQUARE), report(0, second, fold=1))
    view.fold.setCurrentIndex(1)
    assert view.table.item(0, 0).text() == "0.500" and not view.fold.isHidden()


def test_a_state_that_cannot_be_read_is_a_notice(view, workbench, notices):
    broken = Report("run-002", "epoch", inner=[{"kind": "note", "name": "a"}])
    workbench.session.curve = (broken,)
    assert "lacks what it needs" in notices[0] and view.isHidden()


def test_a_train_panel_of_a_project_that_is_open_opens_no_window_of_its_own(qtbot, workbench):
    workbench.session.curve = (report(0, SQUARE),)
    before = set(QApplication.topLevelWidgets())
    panel = TrainPanel(workbench)
    qtbot.addWidget(panel)
    assert not any(w.isVisible() for w in set(QApplication.topLevelWidgets()) - before)
    assert not panel.inner.isHidden()
