"""Who may import whom: the plan of the house, held by the parse of every module."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "napari_noisylabel"
ROOT = Path(__file__).parents[1] / PACKAGE

ARRAYS = {"errors"}
RECORDS = {"errors", "arrays"}
MIDDLE = RECORDS | {"records", "inner"}
ENGINE = MIDDLE | {"session", "networks", "methods", "store", "io"}
EXPORT = ENGINE | {"engine"}
BESIDE = {"decisions", "runs", "views", "export"}  # what the workbench's verbs are made of
WORKBENCH = EXPORT | BESIDE
STUDY = WORKBENCH | {"workbench"}
TOP = STUDY | {"study", "samples"}

ALLOWED = {
    "errors": set(),
    "samples": set(),  # data files and where they are
    "arrays": ARRAYS,
    "records": RECORDS,
    "inner": RECORDS | {"records"},
    "session": MIDDLE,
    "networks": MIDDLE,
    "methods": MIDDLE,
    "store": MIDDLE,
    "io": MIDDLE,
    "engine": ENGINE,
    **dict.fromkeys(BESIDE, EXPORT),
    "workbench": WORKBENCH,
    "study": STUDY | {"samples"},
    "plugin": TOP,
    "widgets": TOP | {"plugin"},
    "cli": TOP,
}
TORCH = {"torch", "monai", "lightning", "lightning_fabric", "safetensors"}
WINDOW = {"qtpy", "napari", "magicgui", "superqt", "vispy", "pyqtgraph", "PyQt5", "PyQt6", "PySide6"}
MAY_USE_TORCH = {"networks", "methods", "engine"}
MAY_USE_WINDOW = {"plugin", "widgets"}
# of the rooms that may use torch; the window shows forms and watches workers without it
TORCH_FREE_MODULES = {
    "methods", "methods.settings", "methods.situation", "methods.choosing",
    "engine", "engine.settings", "engine.watch", "engine.filter",
}  # fmt: skip


def modules() -> list[str]:
    """Dotted names below the package: "arrays.metrics", "cli"; a folder's __init__ is the folder."""
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if name]


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def room_of(module: str) -> str:
    return module.split(".")[0]


def imports(module: str, at_import_time_only: bool = False) -> Iterator[str]:
    """Full names of what `module` imports; those within functions too, unless told otherwise."""
    for node in _walk(ast.parse(path_of(module).read_text("utf-8")), at_import_time_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _walk(node: ast.AST, at_import_time_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if at_import_time_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield from _walk(child, at_import_time_only)


def rooms_imported(module: str) -> set[str]:
    own = [name.split(".") for name in imports(module) if name.split(".")[0] == PACKAGE]
    return {parts[1] for parts in own if len(parts) > 1 and parts[1] != "__version__"}


def outsiders(module: str, at_import_time_only: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(module, at_import_time_only)}


@pytest.mark.parametrize("module", modules())
def test_a_room_imports_only_the_rooms_below_it(module):
    room = room_of(module)
    assert room in ALLOWED, f"{module}.py belongs to no room of the table"
    assert rooms_imported(module) - {room} <= ALLOWED[room]


@pytest.mark.parametrize("module", modules())
def test_only_networks_methods_and_engine_speak_to_torch(module):
    may = room_of(module) in MAY_USE_TORCH and module != "methods.settings"
    assert may or not outsiders(module) & TORCH


@pytest.mark.parametrize("module", modules())
def test_only_plugin_and_widgets_speak_to_the_window(module):
    window = outsiders(module, at_import_time_only=room_of(module) == "cli") & WINDOW
    assert room_of(module) in MAY_USE_WINDOW or not window


def torch_free() -> list[str]:
    return [name for name in modules() if room_of(name) not in MAY_USE_TORCH or name in TORCH_FREE_MODULES]


def test_everything_but_training_imports_without_torch():
    assert loaded_by(torch_free(), TORCH) == {}


def test_the_core_imports_without_qt_and_napari():
    core = [name for name in torch_free() if room_of(name) not in MAY_USE_WINDOW]
    assert loaded_by(core, WINDOW) == {}


def loaded_by(names: list[str], unwanted: set[str]) -> dict[str, list[str]]:
    """Per module the unwanted packages that are loaded once it is imported, in a fresh process."""
    program = f"""
import importlib, sys
found = {{}}
for name in {["", *names]!r}:
    importlib.import_module(("{PACKAGE}." + name).rstrip("."))
    new = sorted({unwanted!r} & set(sys.modules) - set(sum(found.values(), [])))
    if new:
        found[name] = new
print(repr(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="there is no torch to load")
def test_help_answers_without_loading_torch_or_a_window():
    program = f"import sys; sys.argv = ['noisylabel', '--help']; from {PACKAGE}.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, timeout=60
    )
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert not loaded & (TORCH | WINDOW)
