"""What a command says: one JSON document or lines on standard output, progress on standard error."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from napari_noisylabel.store.files import disk_errors

WIDTH = 28
EVERY_S = 0.1


def say_json(value: Any) -> None:
    """The one JSON document of a command; what is no finite number is null."""
    typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """A line of the result."""
    typer.echo(text)


def remark(text: str) -> None:
    """A line beside the result, on standard error."""
    typer.echo(text, err=True)


def some(n: int, noun: str) -> str:
    """ "1 case", "12 cases"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def say_table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> None:
    """Rows in columns: words to the left, numbers to the right."""
    cells = [list(header), *([_cell(v) for v in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(header))]
    for row in cells:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        say("  ".join(parts).rstrip())


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The same as a CSV file. Raises DiskFull, ReadOnlyProject."""
    with disk_errors(path), path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([["" if v is None else v for v in row] for row in rows])


class Bar:
    """A progress bar on standard error, where that is a terminal; else nothing. Close it when done."""

    def __init__(self, label: str) -> None:
        self._label, self._shown_at = label, 0.0
        self._on = sys.stderr.isatty()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if not self._on or (now - self._shown_at < EVERY_S and done < total):
            return
        self._shown_at = now
        share = done / total if total else 0.0
        filled = round(share * WIDTH)
        text = f"{self._label} [{'#' * filled}{'-' * (WIDTH - filled)}] {share:4.0%} {note}"
        sys.stderr.write(f"\r{text[:118]}\x1b[K")
        sys.stderr.flush()

    def close(self) -> None:
        if self._on and self._shown_at:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int | None):
        return value
    if hasattr(value, "item"):  # a number of NumPy
        return _plain(value.item())
    return str(value)
