"""The command line, thin over the workbench and the study.

`main` turns every outcome into an exit code: 0 done, 2 the input or the arguments are wrong (one
line says how), 1 something else failed, 130 interrupted.
"""

from __future__ import annotations

from napari_noisylabel.cli import (  # noqa: F401  they add commands
    benching,
    deciding,
    listing,
    machine,
    making,
    measuring,
    simulating,
    training,
    window,
)
from napari_noisylabel.cli.app import app, main, sort_commands

__all__ = ["app", "main"]

sort_commands(
    "demo", "new", "info", "train", "refilter", "queue", "accept", "reject", "undo", "redo", "verify", "export",
    "evaluate", "simulate", "corrupt", "bench", "methods", "doctor", "open",
)  # fmt: skip
