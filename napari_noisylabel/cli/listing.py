"""methods: what there is to train with."""

from __future__ import annotations

from typing import Any

from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.output import remark, say, say_json, say_table
from napari_noisylabel.cli.values import JSON
from napari_noisylabel.methods import broken_methods
from napari_noisylabel.methods import methods as all_methods


@app.command()
def methods(as_json: bool = JSON) -> None:
    """The methods: what each is made for and needs, and its settings."""
    found = list(all_methods().values())
    if as_json:
        say_json([
            {
                "name": m.name, "title": m.title, "needs": m.needs, "made_for": m.made_for,
                "settings": {k: _without_title(v) for k, v in _properties(m.settings).items()},
            }
            for m in found
        ])  # fmt: skip
        return
    say_table([[m.name, m.made_for, ", ".join(m.needs)] for m in found], ["method", "made for", "needs"])
    for method in found:
        say("")
        needs = f" (needs {', '.join(method.needs)})" if method.needs else ""
        say(f"{method.name}: {method.title}{needs}")
        settings = _properties(method.settings).items()
        rows = [[f"  {k}", str(v.get("default")), v.get("description", "")] for k, v in settings]
        say_table(rows, ["  setting", "default", "meaning"])
        for preset, values in method.settings.PRESETS.items():
            say(f"  --set preset={preset}: " + ", ".join(f"{k}={v}" for k, v in values.items()))
    for reason in broken_methods().values():
        remark(f"noisylabel: {reason}")


def _properties(settings: Any) -> dict[str, dict[str, Any]]:
    """JSON schema of each setting; "preset" among them where the method has presets."""
    own = settings.model_json_schema().get("properties", {})
    presets = settings.PRESETS
    if presets:
        own["preset"] = {"enum": list(presets), "description": "Values to start from", "values": presets}
    return own


def _without_title(schema: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in schema.items() if k != "title"}
