"""methods: what there is to train with, and which of it to try first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.output import remark, say, say_json, say_table
from napari_noisylabel.cli.values import JSON, words
from napari_noisylabel.methods import MethodInfo, broken_methods
from napari_noisylabel.methods import methods as all_methods
from napari_noisylabel.methods.choosing import Advice, advise
from napari_noisylabel.methods.situation import MEANINGS, Asset, ErrorKind

KINDS, THINGS = ", ".join(ErrorKind), ", ".join(Asset)


@app.command()
def methods(
    errors: list[str] = typer.Option([], "--errors", metavar="KIND,KIND", help=f"What is wrong with masks: {KINDS}"),
    have: list[str] = typer.Option([], "--have", metavar="THING,THING", help=f"What there is besides masks: {THINGS}"),
    as_json: bool = JSON,
) -> None:
    """The methods: what each is made for and needs, and its settings; or which to try first, and why."""
    kinds, assets = words(errors, ErrorKind, "--errors"), words(have, Asset, "--have")
    advice = advise(all_methods().values(), kinds, assets)
    asked = bool(kinds or assets)
    if as_json:
        say_json([_method_json(a.method) | (_advice_json(a) if asked else {}) for a in advice])
    elif asked:
        _say_advice(advice, [*kinds, *assets])
    else:
        _say_methods([a.method for a in advice])
    for reason in broken_methods().values():
        remark(f"noisylabel: {reason}")


# ---------------------------------------------------------------- which to try first


def _say_advice(advice: Sequence[Advice], asked: Sequence[ErrorKind | Asset]) -> None:
    for word in asked:
        say(f"{word}: {MEANINGS[word]}")
    say("")
    for place, found in enumerate((a for a in advice if a.why), 1):
        needs = f" Needs {' and '.join(found.lacks)}." if found.lacks else ""
        say(f"{place}. {found.method.name}: {found.why}.{needs}")
    others = [a for a in advice if not a.why]
    if others:
        say("")
        say(f"Nothing speaks for the others here: {', '.join(map(_with_needs, others))}.")


def _with_needs(found: Advice) -> str:
    return f"{found.method.name} (needs {' and '.join(found.lacks)})" if found.lacks else found.method.name


def _advice_json(found: Advice) -> dict[str, Any]:
    return {"why": found.why, "lacks": found.lacks}


# ---------------------------------------------------------------- what there is


def _say_methods(found: Sequence[MethodInfo]) -> None:
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
    say("")
    say("Which to try first: noisylabel methods --errors KIND --have THING")
    _say_meanings("KIND", list(ErrorKind))
    _say_meanings("THING", list(Asset))


def _say_meanings(title: str, known: Sequence[ErrorKind | Asset]) -> None:
    say("")
    say_table([[f"  {word}", MEANINGS[word]] for word in known], [f"  {title}", "what it stands for"])


def _method_json(method: MethodInfo) -> dict[str, Any]:
    return {
        "name": method.name, "title": method.title, "needs": method.needs, "made_for": method.made_for,
        "suits": list(method.suits),
        "settings": {k: _without_title(v) for k, v in _properties(method.settings).items()},
    }  # fmt: skip


def _properties(settings: Any) -> dict[str, dict[str, Any]]:
    """JSON schema of each setting; "preset" among them where the method has presets."""
    own = settings.model_json_schema().get("properties", {})
    presets = settings.PRESETS
    if presets:
        own["preset"] = {"enum": list(presets), "description": "Values to start from", "values": presets}
    return own


def _without_title(schema: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in schema.items() if k != "title"}
