"""Kill the program and the worker with SIGKILL at random moments of a scripted review with training.

    python benchmarks/bench_kill.py [--kills 50] [--seed 0]

A small project is trained once, so that it has regions. Then a second run trains while a scripted reviewer accepts,
rejects, undoes and redoes; at random moments the program, its worker or both are killed, and the program is started
again. Checked after each kill: every decision that the program had acknowledged is in the log, in order, and the labels
are those of the log. At the end the second run must have the same losses and the same scores as one never interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.watch import worker_is_alive
from napari_noisylabel.errors import NothingToDo
from napari_noisylabel.io import folders
from napari_noisylabel.io.volumes import write_volume
from napari_noisylabel.records import RunState, Verdict
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.workbench import Workbench

SHAPE, SPACING = (20, 28, 24), (2.0, 1.0, 1.0)
EPOCHS, ENGINE = 60, {"steps": 4, "batch": 2}


def make_project(folder: Path, seed: int) -> Path:
    """Eight phantoms with a missing part in every second mask, and one complete run."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, :3] = np.array([[0, 0, SPACING[2]], [0, SPACING[1], 0], [SPACING[0], 0, 0]])
    geometry = Geometry(SHAPE, tuple(tuple(row) for row in affine.tolist()))
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(8):
        image, labels = phantom(SHAPE, SPACING, 3, np.random.default_rng([seed, i]))
        if i % 2:
            labels[:, : SHAPE[1] // 2] = 0
        write_volume(image[0].astype(np.float32), geometry, folder / "images" / f"case{i}.nii.gz")
        write_volume(labels.astype(np.uint8), geometry, folder / "labels" / f"case{i}.nii.gz")
    checked = folders.check_cases(folders.find_cases(folder / "images", {"labels": folder / "labels"}))
    project = folder / "project"
    ProjectStore.create(project, "kill", folders.make_tracks(checked), folders.make_cases(checked)).close()
    bench = Workbench()
    bench.open(project)
    bench.retrain("cross-entropy", epochs=4, engine=ENGINE)
    for _ in bench.wait():
        pass
    bench.propose("case", 0.05)
    print(f"{len(bench.session.queue)} regions to decide on")
    bench.close()
    return project


def start_second_run(project: Path) -> str:
    bench = Workbench()
    bench.open(project)
    run = bench.retrain("self-cleansing", epochs=EPOCHS, engine=ENGINE, seed=3).run_id
    bench.watch.stop_now()
    bench.poll()
    bench.close()
    return run


def review(project: Path, acknowledged: Path, run: str, seed: int) -> None:
    """The program that gets killed: reviews without end, keeps the run going, notes what it was told is done."""
    bench = Workbench()
    bench.open(project, by="script")
    rng = np.random.default_rng(seed)
    with open(acknowledged, "a", encoding="utf-8") as file:
        while True:
            state = bench.store.run(run).state
            if state == RunState.COMPLETE:
                return
            if state != RunState.RUNNING:
                bench.retrain(resume=run)
            bench.poll()
            bench.score("run-001")
            verdict = rng.choice(["accepted", "rejected", "undone", "redone"], p=[0.3, 0.2, 0.4, 0.1])
            try:
                event = bench.review(Verdict(verdict))
            except NothingToDo:
                continue
            file.write(json.dumps([event.number, str(event.verdict), event.case, event.region]) + "\n")
            file.flush()
            time.sleep(0.02)


def check(project: Path, acknowledged: Path) -> int:
    """Every acknowledged event is in the log, and the log replays to the labels. Returns the log's length."""
    lines = [json.loads(line) for line in acknowledged.read_text("utf-8").splitlines() if line.endswith("]")]
    with ProjectStore.open(project, read_only=True) as store:
        events = store.events()
        log = {e.number: [e.number, str(e.verdict), e.case, e.region] for e in events}
        lost = [line for line in lines if log.get(line[0]) != line]
        if lost:
            sys.exit(f"LOST: {lost}")
        if [e.number for e in events] != list(range(1, len(events) + 1)):
            sys.exit("the log has holes")
        for case in store.cases():
            given = folders.load_labels(case, store.tracks[0])
            labels = np.array(given)
            for event in store.events(case.id):
                for start, length, before, after in zip(
                    event.runs.starts, event.runs.lengths, event.runs.before, event.runs.after, strict=True
                ):
                    piece = labels.reshape(-1)[start : start + length]
                    if (piece != before).any():
                        sys.exit(f"HALF APPLIED: event {event.number} does not fit the labels of {case.id}")
                    piece[...] = after
            if not np.array_equal(labels, store.corrected(case.id, store.tracks[0].name, given)):
                sys.exit(f"the labels of {case.id} are not those of the log")
        return len(events)


def outcome(project: Path, run: str) -> tuple[list[tuple[int, int, float]], dict[str, bytes]]:
    """Losses per fold and epoch, and the score maps, of a complete run."""
    folder = project / "runs" / run
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    losses = sorted((r["fold"], r["epoch"], r["losses"]["train"]) for r in lines if r["kind"] == "epoch")
    cases = [p.name for p in sorted((folder / "maps").iterdir())]
    return losses, {c: CaseScores(folder, c).read("labels.score").tobytes() for c in cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--program", nargs=4, metavar=("PROJECT", "FILE", "RUN", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program:
        project, file, run, seed = options.program
        review(Path(project), Path(file), run, int(seed))
        return
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        project = make_project(folder, options.seed)
        run = start_second_run(project)
        reference = folder / "reference"
        shutil.copytree(project, reference)
        bench = Workbench()
        bench.open(reference)
        bench.retrain(resume=run)
        for _ in bench.wait():
            pass
        bench.close()
        expected = outcome(reference, run)
        acknowledged = folder / "acknowledged.jsonl"
        acknowledged.touch()
        counts = {"program": 0, "worker": 0, "both": 0}
        killed, complete = 0, False
        while killed < options.kills:
            program = _start(project, acknowledged, run, int(rng.integers(1 << 30)))
            time.sleep(float(rng.uniform(1.5, 9.0)))
            what = str(rng.choice(list(counts)))
            complete = program.poll() == 0
            _kill(program, project / "runs" / run, what)
            killed += 1
            counts[what] += 1
            events = check(project, acknowledged)
            print(f"kill {killed} ({what}): {events} events, run complete: {complete}", flush=True)
        program = _start(project, acknowledged, run, 1)
        program.wait(timeout=600)
        events = check(project, acknowledged)
        losses, scores = outcome(project, run)
        print(f"{killed} kills {counts}: {events} events, none lost, none half applied")
        print(f"losses equal: {losses == expected[0]} ({len(losses)} epochs); scores equal: {scores == expected[1]}")
        if losses != expected[0] or scores != expected[1]:
            sys.exit(1)


def _start(project: Path, acknowledged: Path, run: str, seed: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--program", str(project), str(acknowledged), run, str(seed)])


def _kill(program: subprocess.Popen[bytes], run_folder: Path, what: str) -> None:
    if what in ("worker", "both") and worker_is_alive(run_folder):
        os.kill(int((run_folder / "worker.pid").read_text("utf-8")), signal.SIGKILL)
    if what == "worker":
        time.sleep(0.5)  # the program lives on and sees its worker die
    program.kill()
    program.wait()


if __name__ == "__main__":
    main()
