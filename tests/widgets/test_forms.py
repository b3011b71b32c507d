"""Forms made from settings classes."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, Field

from napari_noisylabel.widgets.forms import SettingsForm


class Settings(BaseModel):
    rate: float = Field(0.4, gt=0, lt=1, description="A share")
    steps: int = Field(3, ge=1, le=9)
    kind: Literal["soft", "hard"] = "soft"
    on: bool = True
    sizes: tuple[int, ...] = (8, 16)


@pytest.fixture
def form(qtbot):
    form = SettingsForm(Settings)
    qtbot.addWidget(form)
    return form


def test_an_untouched_form_changes_nothing(form):
    assert form.values() == {}


def test_values_come_back_with_their_types(form):
    form.set_values({"rate": 0.25, "steps": 5, "kind": "hard", "on": False, "sizes": (4, 4, 4)})

    assert Settings(**form.values()) == Settings(rate=0.25, steps=5, kind="hard", on=False, sizes=(4, 4, 4))


def test_ranges_come_from_the_settings(form):
    steps = next(field for field in form.fields if field.name == "steps")

    assert (steps.min, steps.max) == (1, 9)
    assert "default 3" in steps.tooltip
