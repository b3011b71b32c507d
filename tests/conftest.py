"""Fixtures that all rooms share, and what is left out where a machine lacks something."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from napari_noisylabel.store import ProjectStore

# The networks of the tests are tiny: threads that wait for each other cost more than they save, most of all beside
# the suite's other processes. Set before anything imports torch, and for the workers, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]
GUI_FIXTURES = {"qapp", "qtbot", "make_napari_viewer", "make_napari_viewer_proxy"}
VIEWER_FIXTURES = {"make_napari_viewer", "make_napari_viewer_proxy"}

# The review-only install has no torch: what trains networks is not tested there.
collect_ignore = [] if importlib.util.find_spec("torch") else ["engine", "methods", "test_networks.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what opens a widget as `gui`, and skip it where nothing can be drawn."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & GUI_FIXTURES or item.get_closest_marker("gui"):
            item.add_marker(pytest.mark.gui)
            why = no_display(needs_opengl=bool(fixtures & VIEWER_FIXTURES))
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


def no_display(needs_opengl: bool) -> str:
    """Why a window cannot be opened here; "" where it can."""
    if os.environ.get("QT_QPA_PLATFORM") in ("offscreen", "minimal"):
        return "Qt's offscreen platform draws no OpenGL: unset QT_QPA_PLATFORM" if needs_opengl else ""
    if not sys.platform.startswith("linux"):
        return ""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    return "there is no display: install Xvfb, or run under tools/with-display.sh"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with one folder per data set (`hippocampus3d`, `acdc_cardiac`, ...), or a skip."""
    folder = Path(os.environ.get("NOISYLABEL_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder}: set NOISYLABEL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def trained_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `images`, `labels` (spoiled), `truth`, and `project` with one short run. Not to be changed."""
    pytest.importorskip("torch")
    from tests.phantom_files import make_trained

    return make_trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained(trained_template: Path, tmp_path: Path) -> Path:
    """A project of one's own with one short run, regions and a truth beside it (`trained.parent`)."""
    shutil.copytree(trained_template, tmp_path / "own")
    return tmp_path / "own" / "project"


@pytest.fixture
def store(trained: Path) -> Iterator[ProjectStore]:
    """The project of `trained`, open for reading."""
    with ProjectStore.open(trained, read_only=True) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """A test that starts a worker must see its end: a process left behind trains on unseen."""
    before = set(_children())
    yield
    left = _still_there(set(_children()) - before)
    for child in left:
        child.kill()
    if left:
        pytest.fail(f"processes left behind: {[_name(child) for child in left]}", pytrace=False)


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _still_there(children: set[psutil.Process], patience_s: float = 2.0) -> list[psutil.Process]:
    deadline = time.monotonic() + patience_s
    left = [child for child in children if _counts(child)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [child for child in left if _counts(child)]
    return left


def _counts(child: psutil.Process) -> bool:
    """False for the dead, for zombies and for Python's own resource tracker, which stays."""
    try:
        return child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in _name(child)
    except psutil.NoSuchProcess:
        return False


def _name(child: psutil.Process) -> str:
    try:
        return " ".join(child.cmdline()) or child.name()
    except psutil.NoSuchProcess:
        return "gone"
