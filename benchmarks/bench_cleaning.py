"""How much better are the corrected labels? Real images, spoiled or crowd-drawn masks, the whole command line.

    python benchmarks/bench_cleaning.py OUT [--data DIR] [--only hippocampus] [--seeds 0 1 2] [--quick] [--table]

Each cell runs `corrupt`, `new`, `train`, `refilter`, `accept`, `export` and `evaluate` as a person would, and leaves
`OUT/<cell>.json`; cells that are there are not run again, so the script can be stopped and started, and two of them
can share the work. `--table` prints the table of what is there (also written to OUT/table.md).

Share won back = (corrected - given) / (upper - given) in Dice; upper is the out-of-fold Dice of cross-entropy trained
on the true labels with the same network and budget.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

METHODS = ("cross-entropy", "self-cleansing")


@dataclass(frozen=True)
class DataSet:
    """Where a data set is, who belongs together, and which of its settings are run."""

    folder: str
    groups: str  # a regular expression with one group, "pairs", or "" for none
    noises: tuple[tuple[str, float], ...]  # (noise, share); a noise "labels_..." is a folder of given labels
    corrupt: tuple[str, ...] = ()  # further arguments of `noisylabel corrupt`


SETS = {
    "hippocampus": DataSet(
        "hippocampus3d",
        "pairs",
        tuple((noise, share) for share in (1.0, 0.4) for noise in ("markov", "boundary", "missing", "mixed")),
    ),
    "acdc": DataSet("acdc_cardiac", r"(patient\d+)", (("mixed", 1.0), ("mixed", 0.4)), ("--set", "per_slice=true")),
    "cells": DataSet("bubil_cells_crowd", "", (("labels_crowd1", 1.0),)),
}


@dataclass(frozen=True)
class Cell:
    """One run: which masks of which data set are cleaned by which method."""

    data: str
    noise: str
    share: float
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.noise}-{self.share:g}-{self.method}-{self.seed}"


def cells(only: list[str], seeds: list[int]) -> Iterator[Cell]:
    """Clean masks first: they give the upper bound. All seeds for hippocampus, the first for the others."""
    for seed in seeds:
        for name in only:
            if seed != seeds[0] and name != "hippocampus":
                continue
            for noise, share in (("clean", 0.0), *SETS[name].noises):
                for method in METHODS:
                    yield Cell(name, noise, share, method, seed)


def noisylabel(*arguments: object) -> Any:
    """Run the command line; its JSON, if it printed any."""
    code = "import sys; from napari_noisylabel.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"noisylabel {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout) if done.stdout.strip().startswith(("{", "[")) else None


def run(cell: Cell, data: Path, out: Path, engine: list[str]) -> dict[str, Any]:
    """The whole job of one cell, timed. Its project is removed afterwards."""
    source = SETS[cell.data]
    folder = data / source.folder
    work = out / f"{cell.name}.work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    labels = _given_labels(cell, source, folder, work)
    groups = _groups(source, folder, work)
    project = work / "project"
    began = time.monotonic()
    split = folder / "split.json"
    noisylabel("new", project, "--images", folder / "images", "--labels", labels, "--split", split, *groups)
    noisylabel("train", project, "--method", cell.method, "--seed", cell.seed, *engine, "--json")
    trained = time.monotonic() - began
    noisylabel("refilter", project, "--json")
    accepted = _accepted(project)
    noisylabel("export", project, work / "clean", "--json")
    figures = noisylabel("evaluate", project, "--truth", folder / "labels", "--json")
    shutil.rmtree(work)
    return {**asdict(cell), "accepted": accepted, "train_s": round(trained, 1), "evaluate": figures}


def _given_labels(cell: Cell, source: DataSet, folder: Path, work: Path) -> Path:
    if cell.noise == "clean":
        return folder / "labels"
    if cell.noise.startswith("labels"):
        return folder / cell.noise
    noisylabel(
        "corrupt", folder / "labels", work / "labels", "--noise", cell.noise, "--severity", 0.5, "--share", cell.share,
        "--seed", cell.seed, "--split", folder / "split.json", *source.corrupt,
    )  # fmt: skip
    return work / "labels"


def _groups(source: DataSet, folder: Path, work: Path) -> list[str]:
    if not source.groups:
        return []
    if source.groups != "pairs":
        return ["--groups", source.groups]
    table = work / "groups.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "group"])
        for path in sorted((folder / "labels").iterdir()):
            name = path.name.removesuffix(".nii.gz")
            writer.writerow([name, f"pair{(int(name[-3:]) + 1) // 2:03d}"])
    return ["--groups", str(table)]


def _accepted(project: Path) -> Any:
    try:
        return noisylabel("accept", project, "--by", "benchmark", "--json")
    except RuntimeError as error:  # zero proposals is a sentence and exit code 2
        if "with 2" not in str(error):
            raise
        return {"accepted": 0, "voxels": 0}


# ---------------------------------------------------------------- the table


def table(out: Path) -> str:
    """All cells that are there, as Markdown, one row each; means over seeds are for the reader."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*.json"))]
    upper = {
        (r["data"], r["seed"]): r["evaluate"]["labels"]["proposal"]["dice_mean"]
        for r in found
        if r["noise"] == "clean" and r["method"] == "cross-entropy"
    }
    head = (
        "| data | noise | share | method | seed | given | proposal | corrected | upper | won back | AP | error rate "
        "| held-out | regions | train s |"
    )
    rows = [head, "|" + "---|" * 15]
    for r in sorted(found, key=lambda r: (r["data"], r["noise"], -r["share"], r["method"], r["seed"])):
        e, best = r["evaluate"], upper.get((r["data"], r["seed"]))
        given, corrected = (e["labels"][k]["dice_mean"] for k in ("given", "corrected"))
        cells = [
            r["data"], r["noise"], f"{r['share']:g}", r["method"], r["seed"], _number(given),
            _number(e["labels"]["proposal"]["dice_mean"]), _number(corrected), _number(best),
            _won(given, corrected, best), _number(e["likelihood"]["average_precision"]),
            _number(e["likelihood"]["error_rate"]), _number(e["held_out"]["dice_mean"]),
            r["accepted"]["accepted"], r["train_s"],
        ]  # fmt: skip
        rows.append("| " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join(rows) + "\n"


def over_seeds(out: Path) -> str:
    """Cells that were run with several seeds, as Markdown: mean (lowest to highest) of the gain in points of Dice."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*.json"))]
    upper = {
        (r["data"], r["seed"]): r["evaluate"]["labels"]["proposal"]["dice_mean"]
        for r in found
        if r["noise"] == "clean" and r["method"] == "cross-entropy"
    }
    grouped: dict[tuple[str, str, float, str], list[dict[str, Any]]] = {}
    for r in found:
        grouped.setdefault((r["data"], r["noise"], -r["share"], r["method"]), []).append(r)
    rows = [
        "| data | noise | share | method | seeds | given | corrected | gain, points | won back | held-out |",
        "|" + "---|" * 10,
    ]
    for (data, noise, share, method), own in sorted(grouped.items()):
        if len(own) < 2:
            continue
        labels = [r["evaluate"]["labels"] for r in own]
        given, corrected = ([e[k]["dice_mean"] for e in labels] for k in ("given", "corrected"))
        held_out = [r["evaluate"]["held_out"]["dice_mean"] for r in own]
        gains = [100 * (c - g) for g, c in zip(given, corrected, strict=True)]
        best = [upper.get((data, r["seed"]), 0.0) for r in own]
        won = [(c - g) / (u - g) for g, c, u in zip(given, corrected, best, strict=True) if u > g]
        cells = [
            data, noise, f"{-share:g}", method, len(own), f"{fmean(given):.4f}", f"{fmean(corrected):.4f}",
            _spread(gains), _spread(won) if len(won) == len(own) else "no room", f"{fmean(held_out):.4f}",
        ]  # fmt: skip
        rows.append("| " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _won(given: float, corrected: float, upper: float | None) -> str:
    if upper is None:
        return "?"
    if upper <= given:
        return f"no room ({100 * (corrected - given):+.2f} points)"
    return f"{(corrected - given) / (upper - given):.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    default = Path(os.environ.get("NOISYLABEL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--quick", action="store_true", help="two epochs: does it run?")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table and not options.data.is_dir():
        sys.exit(f"the data sets are not in {options.data}: give their folder with --data")
    engine = ["--epochs", "2"] if options.quick else []
    for cell in () if options.table else cells(options.only, options.seeds):
        done, claim = options.out / f"{cell.name}.json", options.out / f"{cell.name}.claim"
        if done.exists() or not _claimed(claim):
            continue
        try:
            result = run(cell, options.data, options.out, engine)
        finally:
            claim.unlink(missing_ok=True)
        done.write_text(json.dumps(result, indent=1), encoding="utf-8")
        print(cell.name, json.dumps(result["evaluate"]["labels"]["corrected"]["dice_mean"]), flush=True)
    text = "\n".join(filter(None, (table(options.out), over_seeds(options.out))))
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _claimed(claim: Path) -> bool:
    """True if no other run of this script works at the cell. A claim of a dead process counts as none."""
    try:
        with open(claim, "x", encoding="utf-8") as file:
            file.write(str(os.getpid()))
        return True
    except FileExistsError:
        pid = int(claim.read_text("utf-8") or 0)
        if pid and Path(f"/proc/{pid}").exists():
            return False
        claim.unlink(missing_ok=True)
        return _claimed(claim)


if __name__ == "__main__":
    main()
