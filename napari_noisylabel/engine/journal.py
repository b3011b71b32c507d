"""The channel between a worker and whoever watches it: lines of JSON in the run's folder."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_noisylabel.errors import DiskFull
from napari_noisylabel.records import Report

FILES = {"train": "events.jsonl", "filter": "filter.jsonl"}
EPOCH_MARK = b'"kind": "epoch"'


def journal_file(folder: Path, task: str) -> Path:
    """Where a worker of `task` ("train" or "filter") writes its reports."""
    return folder / FILES[task]


def stop_file(folder: Path, task: str) -> Path:
    """The file whose presence asks a worker of `task` to stop."""
    return folder / ("stop" if task == "train" else f"stop-{task}")


class Journal:
    """Appends one line per report; a filter's journal starts anew."""

    def __init__(self, folder: Path, task: str) -> None:
        self._file = open(journal_file(folder, task), "a" if task == "train" else "w", encoding="utf-8")

    def write(self, report: Report) -> None:
        try:
            self._file.write(to_line(report))
            self._file.flush()
        except OSError as error:
            raise DiskFull(f"no room for reports in {self._file.name}. Free some room, then resume the run.") from error


class JournalReader:
    """Reads the reports that were added since the last look. Half a line waits for its end.

    Lines without `mark` are passed over unread: most lines of a long training are its steps.
    """

    def __init__(self, path: Path, mark: bytes = b"") -> None:
        self._path, self._at, self._mark = path, 0, mark

    def read(self) -> list[Report]:
        try:
            if os.path.getsize(self._path) < self._at:
                self._at = 0  # cut back by a resumed run
            with open(self._path, "rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data.rfind(b"\n") + 1
        self._at += whole
        lines = (line for line in data[:whole].splitlines() if self._mark in line)
        return [r for r in map(_parsed, lines) if r is not None]

    def to_end(self) -> None:
        """Skip what is there already."""
        self._at = os.path.getsize(self._path) if self._path.exists() else 0


def epoch_reports(folder: Path) -> tuple[Report, ...]:
    """What a training said at the end of each epoch, in the order of folds and epochs."""
    reports = JournalReader(journal_file(folder, "train"), EPOCH_MARK).read()
    last = {(r.fold, r.epoch): r for r in reports if r.kind == "epoch"}
    return tuple(last[key] for key in sorted(last))


def cut_back(folder: Path) -> None:
    """Take back the lines that a resumed run will write again: all after the last checkpoint's."""
    path = journal_file(folder, "train")
    if not path.exists():
        return
    kept = _reports_of_checkpoints(folder)
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(json.dumps(values) + "\n" for values in kept), encoding="utf-8")
    aside.replace(path)


def _reports_of_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """Epoch reports up to the checkpoint of each fold, each once, the checkpoint's own included."""
    done: dict[tuple[int, int], dict[str, Any]] = {}
    for line in journal_file(folder, "train").read_bytes().splitlines():
        report = _parsed(line)  # None: half a line of a killed worker
        if report is not None and report.kind == "epoch":
            done[(report.fold, report.epoch)] = _plain(asdict(report))
    last: dict[int, int] = {}
    for fold in sorted((folder / "checkpoints").glob("fold-*")):
        names = sorted(p.name for p in fold.glob("epoch-*"))
        if names:
            number = int(fold.name.split("-")[1])
            last[number] = int(names[-1].split("-")[1])
            own = json.loads((fold / names[-1] / "report.json").read_text(encoding="utf-8"))
            done[(number, last[number])] = own
    return [done[key] for key in sorted(done) if key[1] <= last.get(key[0], -1)]


def to_line(report: Report) -> str:
    """A report as one line of JSON; NaN becomes null."""
    return json.dumps(_plain(asdict(report))) + "\n"


def from_line(line: str) -> Report:
    """The report of a line."""
    return Report(**json.loads(line))


def _parsed(line: bytes) -> Report | None:
    """The report of a line; None for one that a crash has torn."""
    try:
        return from_line(line.decode("utf-8"))
    except (ValueError, TypeError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
