"""demo and open: what ends in a window. napari and Qt are imported only then."""

from __future__ import annotations

import importlib
import importlib.util
import time
import warnings
from pathlib import Path
from typing import Any

import typer

from napari_noisylabel import study
from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.machine import no_display
from napari_noisylabel.cli.output import remark, say, some
from napari_noisylabel.cli.training import finish_run
from napari_noisylabel.cli.values import PROJECT, writing
from napari_noisylabel.errors import BadSetting, MissingPart, NotAProject, RunFailed
from napari_noisylabel.session import Stage
from napari_noisylabel.store.manifest import DATABASE_FILE

DEMO = Path("noisylabel-demo")
WINDOW_PX = (1500, 920)
DOCK_PX = 400
QUIET = ("napari support for the PyQt5 backend", "System theme detection requires a Qt6 backend")
"""What napari warns of with PyQt5; the README says it, too."""

PATIENCE_S = 60.0
SETTLE_S = 1.5
"""After the first region is shown: contours and the other slices are drawn a moment later."""

SCREENSHOT = typer.Option(
    None, "--screenshot", metavar="FILE.png", help="Take a picture of the whole window and end", show_default=False
)


@app.command()
def demo(
    folder: Path = typer.Argument(DEMO, metavar="[DIR]", help="Folder of the sample project"),
    screenshot: Path = SCREENSHOT,
    no_window: bool = typer.Option(False, "--no-window", help="Stop before the window"),
) -> int:
    """Make, train and open the sample project.

    A third of its masks is spoiled, so that the errors found are true ones; their truth is kept
    beside the project, in DIR-data. Training takes about a minute. A second start reuses it all.
    """
    if not no_window:
        _require_window(screenshot)
    study.make_demo(folder)
    with writing(folder) as workbench:
        if study.start_demo(workbench):
            remark(f"training the sample project {folder}: about a minute on two cores")
            code = finish_run(workbench, quiet=True)
            if code:
                return code
        run, left = workbench.session.run, len(workbench.session.queue)
    truth = study.data_folder(folder) / "truth"
    say(f"{folder}: {run.id if run else '-'}, {some(left, 'region')} to look at; the truth is in {truth}")
    if not no_window:
        _show(folder, screenshot)
    return 0


@app.command("open")
def open_window(project: Path = PROJECT, screenshot: Path = SCREENSHOT) -> None:
    """Open a project in napari."""
    if not (project / DATABASE_FILE).exists():
        raise NotAProject(f"{project} holds no project. Make one with `noisylabel new`, or give another folder.")
    _require_window(screenshot)
    _show(project, screenshot)


# ---------------------------------------------------------------- helpers, in order of use


def _require_window(screenshot: Path | None) -> None:
    """Refuse before the work starts what would fail at its end."""
    if importlib.util.find_spec("napari") is None or not _binding():
        raise MissingPart(
            "a window needs napari and a Qt binding, and one is not installed. "
            "Install them with: pip install 'napari-noisylabel[pyqt5]'."
        )
    problem = no_display()
    if problem:
        raise MissingPart(problem)
    if screenshot is not None and (screenshot.suffix.lower() != ".png" or not screenshot.absolute().parent.is_dir()):
        raise BadSetting(f"a picture goes into a PNG file in an existing folder, got {screenshot}. Name another.")


def _binding() -> bool:
    try:
        return bool(importlib.import_module("qtpy").API_NAME)
    except ImportError:  # qtpy's own error for a missing binding is one, too
        return False


def _show(project: Path, screenshot: Path | None) -> None:
    for notice in QUIET:
        warnings.filterwarnings("ignore", message=notice)
    napari = importlib.import_module("napari")
    docks = importlib.import_module("napari_noisylabel.widgets.dock")
    docks.skip_binding_notice()
    viewer = napari.Viewer(title=f"napari-noisylabel: {project.name}")
    dock = docks.find_dock(viewer)
    dock.open_project(project)
    dock.show_stage(Stage.REVIEW)
    _widen(viewer, dock)
    if screenshot is None:
        napari.run()
        return
    viewer.window.resize(*WINDOW_PX)
    _widen(viewer, dock)
    try:
        _wait_for_region(dock)
        viewer.screenshot(str(screenshot), canvas_only=False, flash=False)
    finally:
        dock.shut()
        viewer.close()
    say(f"picture of the window: {screenshot}")


def _widen(viewer: Any, dock: Any) -> None:
    """Give the dock the width that its panels need: napari gives a new one what is left."""
    qt = importlib.import_module("qtpy.QtCore").Qt
    needed = max(panel.minimumSizeHint().width() for panel in dock.panels.values())
    viewer.window._qt_window.resizeDocks([dock.parent()], [max(DOCK_PX, needed + 8)], qt.Orientation.Horizontal)


def _wait_for_region(dock: Any) -> None:
    """Let the window work until the first region is on the screen, and drawn."""
    qt = importlib.import_module("qtpy.QtWidgets").QApplication
    began, shown = time.monotonic(), 0.0
    while not shown or time.monotonic() - shown < SETTLE_S:
        qt.processEvents()
        time.sleep(0.01)
        ready = dock.workbench.session.view is not None and not dock.loader.is_reading
        shown = shown if shown and ready else (time.monotonic() if ready else 0.0)
        if time.monotonic() - began > PATIENCE_S:
            raise RunFailed(f"the window showed no case within {PATIENCE_S:.0f} s, so there is no picture.")
