"""The fake workbench, loaded by its path: test folders are no packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def load_fake():
    """The module `fake_workbench`."""
    spec = importlib.util.spec_from_file_location("fake_workbench", Path(__file__).with_name("fake_workbench.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake():
    """The module with the fake and its phantoms."""
    return load_fake()


@pytest.fixture
def workbench(fake):
    """A fake workbench with its project open."""
    workbench = fake.FakeWorkbench()
    workbench.open("/data/project")
    workbench.calls.clear()
    return workbench


@pytest.fixture
def notices(monkeypatch):
    """Texts of the notifications shown, instead of pop-ups."""
    from napari_noisylabel.widgets import notices as module

    shown = []
    monkeypatch.setattr(module, "show_error", shown.append)
    monkeypatch.setattr(module, "show_info", shown.append)
    return shown
