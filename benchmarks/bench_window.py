"""Does the window wait? The real dock in a real viewer, with a case of 80 million voxels.

    QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/bench_window.py [--quick]

Prints one Markdown table with the goals beside the numbers (design, section 7.5): the event loop during a scripted
review with and without a training beside it, the longest call on the window's thread while the large case is
opened, filtered again, decided on and stepped through, times of mixture and filter, and memory. `--quick` leaves
scikit-learn out and shortens the review; `--calls` lists the slowest calls of each phase, too. `--project` keeps the
project in a folder, or takes the one that is there. Takes some five minutes, 6 GB of memory and 2 GB of disk.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_mixture_regions as mixtures
import large_project
import numpy as np
import psutil
from meter import Call, Meter, MeteredApplication, Phase, act, every, rest, wait_until

HERE = Path(__file__).parent
WINDOW_PX = (1580, 960)
LIMIT_MS, ADDING_S, GROWTH_MS, REFILTER_S, MIXTURE_S = 50, 1.5, 10, 4, 0.1
STEP_MS, DECIDE_MS = 100, 1000
SETTLE_S = 0.6
TRAINING = {"steps": 100_000}  # one long epoch, so that steps are all that the worker does
Row = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.0, help="length of each scripted review (20; quick: 8)")
    parser.add_argument("--project", type=Path, help="folder of the files and the project")
    options = parser.parse_args()
    seconds = options.seconds or (8.0 if options.quick else 20.0)
    with tempfile.TemporaryDirectory() as temporary:
        project = make_project(options.project or Path(temporary))
        filtering = filter_alone(project)
        window = Window(project)
        rows = [*window.review_rows(seconds), *window.task_rows(), *window.memory_rows()]
        window.close()
    rows += [*filtering, *mixture_rows(options.quick)]
    if options.calls:
        print_calls(window.meter)
    print_table(rows)


def make_project(folder: Path) -> Path:
    """In a process of its own, for its arrays would count as the window's memory."""
    if not (folder / "project").exists():
        subprocess.run([sys.executable, HERE / "large_project.py", folder], check=True)
    return folder / "project"


# ---------------------------------------------------------------- the window


class Window:
    """The dock in a viewer, and the script that uses it. Each part gives rows of the table."""

    def __init__(self, project: Path) -> None:
        MeteredApplication.meter = None
        self.application = MeteredApplication([])
        import napari

        from napari_noisylabel.plugin.layers import SessionLayers
        from napari_noisylabel.widgets import dock as dock_module
        from napari_noisylabel.workbench import Workbench

        self.meter = MeteredApplication.meter = Meter()
        panels = [vars(dock_module)[n] for n in ("ProjectPanel", "TrainPanel", "FilterPanel", "ReviewPanel", "Footer")]
        dock_class = dock_module.NoisyLabelDock
        self.meter.watch([Workbench, SessionLayers, dock_module.CaseLoader, dock_module.Activity, dock_class, *panels])
        dock_module.skip_binding_notice()
        self.process = psutil.Process()
        self.viewer = napari.Viewer()
        self.viewer.window.resize(*WINDOW_PX)
        self.dock = dock_class(self.viewer, ask_to_stop=lambda _: True)
        self.viewer.window.add_dock_widget(self.dock, name=dock_module.TITLE, area="right")
        self.bench, self.session = self.dock.workbench, self.dock.workbench.session
        rest(2)
        self.empty_rss = self.process.memory_info().rss
        making = {"SessionLayers.show"}
        self.meter.adding |= making
        with self.meter.phase("project and large case opened") as self.first:
            act(lambda: self.dock.open_project(project))
            wait_until(lambda: self.session.view is not None)
            self.wait_for_case()
        self.meter.adding -= making

    def close(self) -> None:
        self.dock.shut()
        self.viewer.close()
        rest(0.5)

    # ------------------------------------------------------------ the event loop

    def review_rows(self, seconds: float) -> list[Row]:
        """The scripted review, first alone, then beside a training."""
        self.scripted_review("warm-up", 3)
        alone = self.scripted_review("review alone", seconds)
        with self.meter.phase("training started") as self.starting:
            act(lambda: self.bench.retrain("self-cleansing", epochs=1, engine=TRAINING), SETTLE_S)
        wait_until(lambda: self.session.progress.kind in ("step", "failed", "stopped"))
        before = self.session.progress
        training = self.scripted_review("review beside a training", seconds)
        done = self.session.progress.done - before.done
        with self.meter.phase("training stopped") as self.stopping:
            act(self.bench.stop)
            wait_until(lambda: not self.session.is_training)
        growth = training.percentiles(99)[0] - alone.percentiles(99)[0]
        return [
            interval_row("event loop, review alone", alone),
            interval_row(f"event loop, beside a training ({done} steps in {training.seconds:.0f} s)", training),
            ("growth of p99", f"{growth:+.1f} ms", f"<= {GROWTH_MS} ms"),
        ]

    def scripted_review(self, name: str, seconds: float) -> Phase:
        """One slice step per 100 ms; accept, reject or undo once a second."""
        review, viewer, axis = self.dock.review, self.viewer, self.viewer.dims.order[0]
        n = int(viewer.dims.nsteps[axis])
        decide = itertools.cycle((review.accept, review.reject, review.undo))
        timers: list[Any] = []

        def step() -> None:
            viewer.dims.set_current_step(axis, (viewer.dims.current_step[axis] + 1) % n)

        with self.meter.phase(name) as phase:
            timers = [every(STEP_MS, step), every(DECIDE_MS, lambda: next(decide)())]
            rest(seconds)
            for timer in timers:
                timer.stop()
        rest(SETTLE_S)
        return phase

    # ------------------------------------------------------------ the longest call per task

    def task_rows(self) -> list[Row]:
        first = self.first
        rows = [
            ("queue of the case under review", f"{len(self.session.queue)} regions", ""),
            (
                "drawing and first adding of layers, case opened",
                f"{(sum(first.adding) + sum(first.drawing)) / 1e3:.2f} s, the longest "
                f"{max([*first.adding, *first.drawing], default=0):.0f} ms",
                f"< {ADDING_S} s",
            ),
        ]
        phases = [first, self.starting, self.stopping, *self.do_tasks()]
        rows += [call_row(phase) for phase in phases]
        drawn = max((max(p.drawing, default=0.0), p.name) for p in phases if p is not first)
        rows.append((f"drawing, longest ({drawn[1]})", f"{drawn[0]:.0f} ms", "apart"))
        return rows

    def do_tasks(self) -> list[Phase]:
        review, phases = self.dock.review, []

        def during(name: str, action: Any, seconds: float = SETTLE_S) -> None:
            with self.meter.phase(name) as phase:
                act(action, seconds)
            phases.append(phase)

        for name, level in (("filtered again, by region", "region"), ("filtered again, by case", "case")):
            with self.meter.phase(name) as phase:
                act(lambda level=level: self.bench.start_propose(level, 0.5))
                wait_until(lambda: not self.session.is_training)
                rest(SETTLE_S)
            phases.append(phase)
        self.filter_seconds = phases[-1].seconds - SETTLE_S
        during("accept", review.accept)
        during("reject", review.reject)
        during("unsure", review.unsure)
        during("undo", review.undo)
        during("redo", review.redo)
        during("skip", review.skip)
        during("brush taken", review.edit)
        during("a stroke painted, its draft kept", self.paint)
        during("edit applied", review.edit)
        during("slider of the threshold", lambda: self.dock.filter.slider.setValue(300))
        during("contrast preset", lambda: self.dock.layers.set_preset("CT bone"))
        during("overlays hidden", self.dock.layers.toggle_overlays)
        during("overlays shown", self.dock.layers.toggle_overlays)
        with self.meter.phase("stepped through, 60 slices") as phase:
            timer = every(STEP_MS, lambda: self.viewer.dims._increment_dims_right(0))
            rest(60 * STEP_MS / 1e3)
            timer.stop()
        phases.append(phase)
        during("whole case verified", review.verify, 2.0)
        self.wait_for_case()
        during("whole case, undone", review.undo, 2.0)
        self.wait_for_case()
        with self.meter.phase("large case opened again, after a small one") as phase:
            self.to_case("small-0")
            self.to_case(large_project.LARGE)
        phases.append(phase)
        return phases

    def paint(self) -> None:
        """A line of discs across the middle of the slice, in one stroke."""
        layer = self.dock.layers.corrected
        layer.brush_size = 20
        at = [n / 2 for n in layer.data.shape]
        at[0] = self.viewer.dims.current_step[0]
        with layer.block_history():
            for x in range(0, 60, 4):
                layer.paint((at[0], at[1], at[2] + x), 2)

    def to_case(self, case: str) -> None:
        act(lambda: self.dock.project.case_wanted.emit(case))
        wait_until(lambda: self.session.view.case.id == case and not self.dock.loader.is_reading)
        rest(SETTLE_S)

    def wait_for_case(self) -> None:
        """Until the case of the region under review is on the screen."""

        def there() -> bool:
            view, region = self.session.view, self.session.current
            return view is not None and not self.dock.loader.is_reading and region.case == view.case.id

        rest(0.2)
        wait_until(there)
        rest(SETTLE_S)

    # ------------------------------------------------------------ memory

    def memory_rows(self) -> list[Row]:
        view = self.session.view
        assert view.case.id == large_project.LARGE, view.case.id
        gc.collect()
        arrays = [*view.images, *view.given.values(), *view.corrected.values(), *view.decided.values()]
        arrays += [*view.likelihood.values(), *view.proposal.values()]
        return [
            ("memory of the window, no project", mib(self.empty_rss), ""),
            ("memory with the large case open", mib(self.process.memory_info().rss), ""),
            ("arrays of that case", mib(sum(array.nbytes for array in arrays)), ""),
            ("filter button to regions in the queue, all cases", f"{self.filter_seconds:.1f} s", ""),
        ]


# ---------------------------------------------------------------- filter and mixture


def filter_alone(project: Path) -> list[Row]:
    """Each level in a process of its own, as the worker does it, start-up left out."""
    rows = []
    for level in ("case", "voxel", "region"):
        command = [sys.executable, "-c", FILTER, str(project), level]
        seconds, regions = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        title = f"regions anew, {level} level, {np.prod(mixtures.SHAPE) / 1e6:.0f} million voxels"
        rows.append((title, f"{float(seconds):.1f} s, {regions} regions", f"< {REFILTER_S} s"))
    return rows


FILTER = """
import sys, time
from pathlib import Path
from napari_noisylabel.engine.filter import FilterRequest, read_result, refilter
from napari_noisylabel.store import ProjectStore
with ProjectStore.open(Path(sys.argv[1]), read_only=True) as store:
    run = store.latest_complete_run().id
    began = time.perf_counter()
    list(refilter(store, store.run_folder(run), FilterRequest(run, sys.argv[2])))
    print(time.perf_counter() - began, len(read_result(store.run_folder(run)).regions))
"""


def mixture_rows(quick: bool) -> list[Row]:
    """On the histogram of 10 million values, and scikit-learn on the values."""
    scores = mixtures.two_gaussians(np.random.default_rng(0))
    histogram = mixtures.counts_and_centers(scores)
    _, seconds = mixtures.timed(lambda: mixtures.fit_mixture(*histogram))
    rows = [("mixture from a stored histogram of 10 million values", f"{seconds:.3f} s", f"< {MIXTURE_S} s")]
    if not quick:
        _, seconds = mixtures.fit_sklearn(scores, tol=1e-3)
        rows.append(("scikit-learn's GaussianMixture on the same values", f"{seconds:.1f} s", ""))
    return rows


# ---------------------------------------------------------------- the table


def interval_row(title: str, phase: Phase) -> Row:
    p50, p95, p99, largest = phase.percentiles(50, 95, 99, 100)
    return f"{title}: p50, p95, p99, max", f"{p50:.1f}, {p95:.1f}, {p99:.1f}, {largest:.1f} ms", ""


def call_row(phase: Phase) -> Row:
    longest = phase.longest
    return (
        f"longest call: {phase.name}",
        f"{longest.wall:.0f} ms ({longest.cpu:.0f} ms of processor time, {longest.what})",
        f"<= {LIMIT_MS} ms",
    )


def mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def print_calls(meter: Meter) -> None:
    for phase in meter.phases:
        print(f"{phase.name}: drawing {sum(phase.drawing):.0f} ms, adding {sum(phase.adding):.0f} ms")
        worst: list[Call] = sorted(phase.calls, key=lambda call: -call.wall)[:6]
        for call in worst:
            print(f"    {call.wall:8.1f} {call.cpu:8.1f}  {call.what}")


def print_table(rows: list[Row]) -> None:
    print(f"\nMeasured {time.strftime('%Y-%m-%d')}, load {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores.\n")
    print("| measured | value | goal |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
