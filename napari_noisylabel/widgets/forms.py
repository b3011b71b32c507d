"""A form made from a settings class: one field per setting, with its range and its help."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from magicgui.widgets import LineEdit, create_widget
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from qtpy.QtWidgets import QFormLayout, QWidget


class SettingsForm(QWidget):
    """Edits the values of a pydantic class that has defaults for all its fields."""

    def __init__(self, settings: type[BaseModel], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.settings = settings
        self.fields = [field_widget(name, field) for name, field in settings.model_fields.items()]
        layout = form_layout()
        for widget in self.fields:
            layout.addRow(widget.label, widget.native)
        self.setLayout(layout)

    def values(self) -> dict[str, Any]:
        """What differs from the defaults."""
        now = {widget.name: parsed(widget) for widget in self.fields}
        fields = self.settings.model_fields
        return {
            name: value for name, value in now.items() if value != fields[name].get_default(call_default_factory=True)
        }

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show `values`; settings that are not named keep what they show."""
        for widget in self.fields:
            if widget.name in values:
                widget.value = values[widget.name] if not is_text(widget) else repr(values[widget.name])


def form_layout() -> QFormLayout:
    """Labels left, fields as wide as the panel."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setVerticalSpacing(4)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return layout


def field_widget(name: str, field: FieldInfo) -> Any:
    """The widget for one setting; free text where magicgui knows none."""
    default = field.get_default(call_default_factory=True)
    help_text = field.description or ""
    label = name.replace("_", " ")
    try:
        widget = create_widget(
            value=default, annotation=field.annotation, name=name, label=label, options=limits(field, default)
        )
    except (ValueError, TypeError):
        widget = LineEdit(value=repr(default), name=name, label=label)
    widget.tooltip = f"{help_text}\n({name}, default {default!r})"
    return widget


def limits(field: FieldInfo, default: Any) -> dict[str, Any]:
    """The range of a number as magicgui's options; open ends stop a step before the limit."""
    if isinstance(default, bool) or not isinstance(default, int | float):
        return {}
    step = 1 if isinstance(default, int) else step_of(default)
    found: dict[str, Any] = {"step": step, "min": -1_000_000, "max": 1_000_000}
    for rule in field.metadata:
        for bound, key, inward in (
            ("ge", "min", 0),
            ("gt", "min", step),
            ("le", "max", 0),
            ("lt", "max", -step),
        ):
            if getattr(rule, bound, None) is not None:
                found[key] = getattr(rule, bound) + inward
    return found


def step_of(default: float) -> float:
    """A step that changes the default by a tenth or less: 0.1 for 1.0, 0.01 for 0.4."""
    step = 0.1
    while step > abs(default) / 9 and step > 1e-6 and default:
        step /= 10
    return round(step, 7)


def is_text(widget: Any) -> bool:
    """True for a field of free text."""
    return isinstance(widget, LineEdit) and widget.annotation is None


def parsed(widget: Any) -> Any:
    """The widget's value; free text as the Python literal that it is, if it is one."""
    if not is_text(widget):
        return widget.value
    try:
        return ast.literal_eval(widget.value)
    except (ValueError, SyntaxError):
        return widget.value
