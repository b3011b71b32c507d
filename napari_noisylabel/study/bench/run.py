"""A benchmark from its protocol to its table: cell by cell, and what is done is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_noisylabel.errors import DiskFull, ExportRefused, NoisyLabelError, ReadOnlyProject
from napari_noisylabel.methods import methods
from napari_noisylabel.records import Report
from napari_noisylabel.store.files import disk_errors, read_json, write_bytes, write_json
from napari_noisylabel.study.bench.baseline import INSTALL, has_cleanlab
from napari_noisylabel.study.bench.cells import run_cell
from napari_noisylabel.study.bench.claims import claimed
from napari_noisylabel.study.bench.figure import draw, has_matplotlib
from napari_noisylabel.study.bench.plan import CLEANLAB, Cell, cells_of
from napari_noisylabel.study.bench.protocol import Protocol
from napari_noisylabel.study.bench.table import as_csv, as_markdown, make_table

CELLS = "cells"
TABLE = "table"

Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """What a bench left: the rows of the table, and how many cells are done, failed, or at work elsewhere."""

    rows: list[dict[str, Any]]
    done: int
    failed: dict[str, str]
    elsewhere: int
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def run_bench(
    protocol: Protocol, out: Path | str, *, resume: bool = False, say: Say = lambda _: None,
    progress: Progress = lambda done, total, note: None,
) -> Outcome:  # fmt: skip
    """Run the cells that `out` lacks and write the table.

    A cell that fails is recorded with its reason, and the others go on. Several benches may work in one `out`
    at a time: each takes cells that no other is at.

    Parameters
    ----------
    out : absent or empty; with `resume` also the folder of an earlier bench. Its cells are known by all that
        decides their figures, so those of a changed protocol are run anew. Failed cells are tried again.
    say : called with a line when a cell is done or has failed. progress : as it goes on.

    Raises
    ------
    ExportRefused : `out` holds other files, or results and not `resume`.
    DiskFull, ReadOnlyProject : it cannot be written.
    """
    out = Path(out).absolute()
    _require_free(out, resume)
    notes = _notes(protocol)
    cells = [c for c in cells_of(protocol) if c.method.name != CLEANLAB or has_cleanlab()]
    shop = _Shop(out, cells)
    for cell in cells:
        if resume and shop.state(cell) == "failed":
            shop.file(cell).unlink(missing_ok=True)
    left = _work(shop, cells, say, progress)
    rows = shop.table()
    write_json(out / f"{TABLE}.json", {**_facts(protocol, notes), "rows": rows}, nan_as_null=True)
    files = [out / f"{TABLE}.{end}" for end in ("json", "csv", "md")]
    if has_matplotlib():
        files.append(out / "figure.png")
        write_bytes(files[-1], draw(rows))
    failed = {c.name: shop.records[c.name]["reason"] for c in cells if shop.state(c) == "failed"}
    done = sum(shop.state(c) == "done" for c in cells)
    return Outcome(rows, done, failed, len(left), tuple(files), notes)


# ---------------------------------------------------------------- helpers, in order of use


def _require_free(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ExportRefused(f"{out} is a file, and results need a folder. Choose another name.")
    found = [p.name for p in out.iterdir() if not p.name.startswith(".")] if out.exists() else []
    if found and CELLS not in found:
        raise ExportRefused(f"{out} holds other files than a benchmark's. Choose another folder.")
    if found and not resume:
        raise ExportRefused(f"{out} holds the results of a benchmark. Go on with --resume, or choose another folder.")
    with disk_errors(out):
        (out / CELLS).mkdir(parents=True, exist_ok=True)


def _notes(protocol: Protocol) -> tuple[str, ...]:
    """What is left out here, and why, in a sentence each."""
    notes = []
    chosen = {m.name for m in protocol.methods}
    weak = [name for name, info in methods().items() if info.weak and name not in chosen]
    if weak and chosen >= {name for name, info in methods().items() if not info.weak}:
        notes.append(
            f"{', '.join(weak)} is left out: it learns from image-level tags and not from masks, and the table accepts "
            "proposals in bulk, which weak ones are not part of. Name it in the protocol to give it tags of the truth."
        )
    if protocol.cleanlab and protocol.baseline is not None and not has_cleanlab():
        notes.append(f"cleanlab is not installed, so its rows are left out; install it with: {INSTALL}.")
    if not has_matplotlib():
        notes.append(f"matplotlib is not installed, so there is no figure; install it with: {INSTALL}.")
    return tuple(notes)


class _Shop:
    """The records of cells in a folder. One that is done stays as it is, so it is read once."""

    def __init__(self, out: Path, cells: Sequence[Cell]) -> None:
        self.out, self.cells = out, cells
        self.records: dict[str, dict[str, Any]] = {}

    def file(self, cell: Cell) -> Path:
        return self.out / CELLS / f"{cell.name}.json"

    def state(self, cell: Cell) -> str:
        """ "done", "failed", or "" where nobody has finished it."""
        if self.records.get(cell.name, {}).get("state") != "done":
            self.records.pop(cell.name, None)
            if self.file(cell).exists():
                self.records[cell.name] = read_json(self.file(cell))
        return str(self.records[cell.name]["state"]) if cell.name in self.records else ""

    def keep(self, cell: Cell, record: dict[str, Any]) -> None:
        write_json(self.file(cell), {**_identity(cell), **record}, nan_as_null=True)
        self.table()

    def table(self) -> list[dict[str, Any]]:
        """The rows of what is there, which are also written as CSV and Markdown."""
        for cell in self.cells:
            self.state(cell)
        rows = make_table(self.cells, self.records)
        write_bytes(self.out / f"{TABLE}.csv", as_csv(rows).encode())
        write_bytes(self.out / f"{TABLE}.md", as_markdown(rows).encode())
        return rows


def _work(shop: _Shop, cells: Sequence[Cell], say: Say, progress: Progress) -> list[Cell]:
    """Run what nobody has run; the cells that others are at remain."""
    left = [c for c in cells if not shop.state(c)]
    moved = True
    while left and moved:
        moved = False
        for cell in list(left):
            if not all(shop.state(base) for base in cell.bases):
                continue
            with claimed(shop.out / "claims", cell.name) as mine:
                if not mine and not shop.state(cell):
                    continue
                if mine and not shop.state(cell):
                    _run(shop, cell, len(cells) - len(left), len(cells), say, progress)
            left.remove(cell)
            moved = True
    return left


def _run(shop: _Shop, cell: Cell, done: int, total: int, say: Say, progress: Progress) -> None:
    title = f"{cell.data.name}, {cell.noise.shown} {cell.noise.share:g}, {cell.method.shown}, seed {cell.seed}"
    progress(done, total, title)
    began = time.monotonic()

    def hear(report: Report) -> None:
        where = f"epoch {report.epoch + 1} of {report.epochs}, " if report.kind in ("step", "epoch") else ""
        progress(done, total, f"{where}{title}")

    try:
        failed = [base.method.shown for base in cell.bases if shop.state(base) == "failed"]
        if failed and len(cell.bases) - len(failed) < (1 if cell.method.name == CLEANLAB else 2):
            raise NoisyLabelError(f"it is made of other cells, and of these failed: {', '.join(failed)}.")
        record = {"state": "done", **run_cell(cell, shop.out, hear)}
        dice = record["evaluate"]["labels"]["corrected"]["dice_mean"]
        ending = "no Dice" if dice is None else f"Dice {dice:.4f}"
    except (DiskFull, ReadOnlyProject):  # the next cell would fare no better
        raise
    except Exception as error:
        ending = f"failed: {_sentence(error)}"
        record = {"state": "failed", "reason": _sentence(error)}
    wall = time.monotonic() - began
    shop.keep(cell, {**record, "wall_s": wall})
    say(f"{done + 1} of {total}: {title}: {ending}, {wall:.0f} s")


def _identity(cell: Cell) -> dict[str, Any]:
    return {
        "cell": cell.name, "data": cell.data.name, "noise": cell.noise.shown, "share": cell.noise.share,
        "severity": cell.noise.strength, "method": cell.method.shown, "seed": cell.seed,
    }  # fmt: skip


def _sentence(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if isinstance(error, NoisyLabelError) and words else f"{type(error).__name__}: {words}"


def _facts(protocol: Protocol, notes: tuple[str, ...]) -> dict[str, Any]:
    return {"protocol": protocol.model_dump(mode="json", exclude={"root"}), "cleanlab": CLEANLAB, "notes": notes}
