"""The worker: a process of its own that trains or filters and reports one JSON line at a time.

    python -m napari_noisylabel.engine.worker PROJECT RUN --task train|filter

`runs/<id>/events.jsonl` (`filter.jsonl` when filtering) is the only channel out, the files `stop` and
`in-use` beside it are the only ones in. Runs at low priority, so that the window keeps its core.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from napari_noisylabel.engine.combine import combine
from napari_noisylabel.engine.courtesy import Courtesy
from napari_noisylabel.engine.filter import FilterRequest, refilter
from napari_noisylabel.engine.journal import Journal, cut_back, stop_file
from napari_noisylabel.engine.source import iterate_cases
from napari_noisylabel.engine.spec import RunSpec, read_spec, write_spec
from napari_noisylabel.errors import NoisyLabelError
from napari_noisylabel.methods import ENSEMBLE, is_weak
from napari_noisylabel.records import Report
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.files import read_json

NICE = 10
FILTER_REQUEST = "filter.json"


def main(arguments: list[str] | None = None) -> int:
    """Do the task, to the end or to the first `stop`. Returns the exit code of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("run")
    parser.add_argument("--task", choices=("train", "filter"), default="train")
    options = parser.parse_args(arguments)
    _lower_priority()
    folder = options.project / "runs" / options.run
    spec = read_spec(folder)
    task = _train if options.task == "train" else _filter
    if options.task == "train":
        cut_back(folder)
    journal = Journal(folder, options.task)
    stop = stop_file(folder, options.task).exists
    give_way = Courtesy(folder, stop).wait if options.task == "train" else lambda: None
    return _drain(task(options.project, spec, folder), journal, spec, stop, give_way)


def _drain(
    reports: Iterator[Report], journal: Journal, spec: RunSpec, asked_to_stop: Callable[[], bool],
    give_way: Callable[[], None],
) -> int:  # fmt: skip
    """Write every report until the work ends, fails or is to stop; between two reports the person comes first."""
    try:
        for report in reports:
            journal.write(report)
            if report.kind == "done":
                continue
            give_way()
            if asked_to_stop():
                journal.write(Report(spec.run, "stopped", message="stopped; it can be resumed"))
                return 130
    except NoisyLabelError as error:
        journal.write(Report(spec.run, "failed", message=str(error)))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        journal.write(Report(spec.run, "failed", message=f"{type(error).__name__}: {error}"))
        return 1
    return 0


def _train(project: Path, spec: RunSpec, folder: Path) -> Iterator[Report]:
    if spec.method == ENSEMBLE.name:
        yield from _combine(project, spec, folder)
        return
    from napari_noisylabel.engine.train import settle, train  # torch: seconds to import, not needed to filter

    spec = settle(spec)
    write_spec(folder, spec)  # a resumed run keeps device, precision and threads
    with ProjectStore.open(project, read_only=True) as store:
        yield from train(spec, iterate_cases(store, spec.label_version), store.tracks, folder)
        yield from refilter(store, folder, FilterRequest(spec.run, weak=is_weak(spec.method)))
    yield Report(spec.run, "done", message="trained, scored and proposed")


def _combine(project: Path, spec: RunSpec, folder: Path) -> Iterator[Report]:
    with ProjectStore.open(project, read_only=True) as store:
        yield from combine(spec, store, folder)
        yield from refilter(store, folder, FilterRequest(spec.run))
    yield Report(spec.run, "done", message="combined and proposed")


def _filter(project: Path, spec: RunSpec, folder: Path) -> Iterator[Report]:
    request = FilterRequest(**read_json(folder / FILTER_REQUEST))
    with ProjectStore.open(project, read_only=True) as store:
        yield from refilter(store, folder, replace(request, run=spec.run, weak=is_weak(spec.method)))
    yield Report(spec.run, "done", message="filtered again")


def _lower_priority() -> None:
    try:
        os.nice(NICE)
    except (AttributeError, OSError):  # not there on Windows, not allowed in some containers
        print("the priority could not be lowered", file=sys.stderr)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own way out takes most of a second with torch loaded
