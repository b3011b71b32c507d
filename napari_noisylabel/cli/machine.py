"""doctor: what this machine can do."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sqlite3
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from napari_noisylabel import __version__
from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.output import say, say_json
from napari_noisylabel.cli.values import JSON

BINDINGS = ("PyQt5", "PyQt6", "PySide6")
LIBRARIES = ("napari", "numpy", "scipy", "zarr", "nibabel", "monai", "lightning-fabric", "SimpleITK")
FAST = {"cc3d": "connected components", "edt": "distances", "fastremap": "label values"}


@app.command()
def doctor(as_json: bool = JSON) -> None:
    """What this machine can do."""
    found = {
        "noisylabel": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {_cores()} cores",
        "training": _training(),
        "window": _window(),
        "fast": {name: importlib.util.find_spec(name) is not None for name in FAST},
        "libraries": {name: _version(name) for name in LIBRARIES},
        "disk": {"folder": os.getcwd(), "wal": _wal(Path.cwd())},
    }
    if as_json:
        say_json(found)
    else:
        _say(found)


def no_display() -> str:
    """Why no window can be opened here, in a sentence; "" where one can."""
    if not sys.platform.startswith("linux") or os.environ.get("QT_QPA_PLATFORM", "xcb") not in ("xcb", "wayland"):
        return ""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    return (
        "a window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set. Start it in a desktop session, "
        "or under a virtual one: xvfb-run -a -s '-screen 0 1600x1000x24' noisylabel ..."
    )


# ---------------------------------------------------------------- helpers, in order of use


def _say(found: dict[str, Any]) -> None:
    training, window, disk = found["training"], found["window"], found["disk"]
    say(f"noisylabel {found['noisylabel']}, Python {found['python']}, {found['system']}")
    if training["torch"]:
        say(f"training: torch {training['torch']}, device {training['device']}, {training['device_name']}")
        say(f"bfloat16: {'yes' if training['bf16'] else 'no, this device is not faster with it'}")
    else:
        say("training: not possible, torch is not installed (pip install 'napari-noisylabel[train]')")
    say(f"window: {window['binding'] or 'no Qt binding installed'}, {window['problem'] or 'there is a display'}")
    fast = [f"{name} ({FAST[name]})" for name, there in found["fast"].items() if there]
    say(f"fast: {', '.join(fast) or 'none installed, SciPy does it slower'}")
    say("libraries: " + ", ".join(f"{name} {v}" for name, v in found["libraries"].items() if v))
    say(f"disk: {disk['folder']} {'grants write-ahead logging' if disk['wal'] else 'has no write-ahead logging'}")


def _training() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"torch": None, "device": None, "device_name": None, "bf16": None}
    torch = importlib.import_module("torch")
    train = importlib.import_module("napari_noisylabel.engine.train")
    device, _ = train.choose_device("auto")
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    return {
        "torch": torch.__version__, "device": device, "device_name": name,
        "bf16": train.choose_precision(device) == "bf16-mixed",
    }  # fmt: skip


def _window() -> dict[str, Any]:
    there = [name for name in BINDINGS if importlib.util.find_spec(name) is not None]
    known = [f"{name} {_version(name) or ''}".strip() for name in there]
    return {"binding": ", ".join(known) or None, "problem": no_display() or None}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _wal(folder: Path) -> bool:
    """True where SQLite may log ahead in `folder`: not so on most network shares."""
    try:
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            connection = sqlite3.connect(Path(inside) / "probe.sqlite")
            try:
                granted = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal"
                connection.execute("CREATE TABLE probe (x)")
                return granted
            finally:
                connection.close()
    except (OSError, sqlite3.Error):
        return False
