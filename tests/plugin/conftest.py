"""The fake workbench of the widget tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fake():
    """The module with the fake and its phantoms."""
    path = Path(__file__).parents[1] / "widgets" / "fake_workbench.py"
    spec = importlib.util.spec_from_file_location("fake_workbench", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workbench(fake):
    """A fake workbench with its first case on the screen."""
    workbench = fake.FakeWorkbench()
    workbench.open("/data/project")
    workbench.show(workbench.load("case-1"))
    return workbench
