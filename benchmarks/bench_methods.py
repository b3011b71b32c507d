"""What each method costs beside plain cross-entropy: `python benchmarks/bench_methods.py [--methods adele jcas]`.

The 24 bundled volumes, half of the masks spoiled, one of them verified; one thread, seed 0.
Steps: one network, batch and device for all; each method is first taken to its dearest stage with few
steps per epoch, then all methods take steps in turn, and the medians are compared. Epochs and memory: a
process of its own per method trains both folds; an epoch counts with all its evaluation passes.
Without `multi-sa`, whose network classifies images, and `ensemble`, which trains nothing.
Takes about two minutes per method on two quiet cores. `--epochs N` trains longer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS = 10
STEPS_IN_TURN = 16
DEAREST_STAGE: dict[str, dict[str, Any]] = {
    "cores": {"known_from": 0, "least_steps": 0, "fresh_steps": 0},
    "active-refinement": {"refine": 0.0},
}
"""Settings with which a method comes to the stage whose steps cost most after a few steps, and stays there."""
GOALS = {  # step, epoch
    "self-cleansing": (1.15, 1.5),
    "cores": (1.15, 1.5),
    "spatial-correction": (1.15, 1.5),
    "jcas": (2.0, 1.5),
    "adele": (3.3, 4.0),
    "fmi-transition": (1.15, 1.5),
    "active-refinement": (2.3, 1.5),
}


def main() -> None:
    options = arguments()
    if options.child:
        print(json.dumps(train_alone(options.child, options.project, options.epochs)))
        return
    with tempfile.TemporaryDirectory() as folder:
        project = options.project or make_data(Path(folder))
        steps = times_of_steps(project, options.methods, options.epochs)
        row("method", "step ms", "x", "goal", "epoch s", "x", "goal", "memory MiB")
        base: dict[str, Any] = {}
        for name in options.methods:
            alone = in_child(name, project, options.epochs)
            base = base or {"step": steps[name], **alone}
            goal = GOALS.get(name, ("", ""))
            row(
                name, f"{1000 * steps[name]:.0f}", f"{steps[name] / base['step']:.2f}", goal[0],
                f"{alone['epoch']:.2f}", f"{alone['epoch'] / base['epoch']:.2f}", goal[1], f"{alone['memory']:.0f}",
            )  # fmt: skip


def arguments() -> argparse.Namespace:
    from napari_noisylabel.methods import ENSEMBLE, methods

    trained = [name for name, info in methods().items() if info is not ENSEMBLE and not info.weak]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=trained)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--project", type=Path, help="a project with a verified case, instead of the bundled volumes")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.methods = ["cross-entropy", *(m for m in options.methods if m != "cross-entropy")]
    return options


def make_data(folder: Path) -> Path:
    """The bundled volumes with half of the masks spoiled, and the first case verified with its true labels."""
    from napari_noisylabel.samples import hippocampus_folder

    source, project = hippocampus_folder(), folder / "project"
    noisylabel("corrupt", source / "labels", folder / "labels", "--noise", "mixed", "--share", 0.5)
    noisylabel(
        "new", project, "--images", source / "images", "--labels", folder / "labels", "--groups", source / "groups.csv"
    )
    first = sorted((source / "labels").glob("*.nii.gz"))[0]
    noisylabel("verify", project, "--case", first.name.removesuffix(".nii.gz"), "--labels", first)
    return project


def noisylabel(*words: object) -> None:
    code = "import sys; from napari_noisylabel.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True)


def times_of_steps(project: Path, names: Sequence[str], epochs: int) -> dict[str, float]:
    """Median seconds of a step of each method in its dearest stage, steps taken in turn."""
    from napari_noisylabel.engine.data import drop_prepared, prepare_all
    from napari_noisylabel.engine.source import iterate_cases
    from napari_noisylabel.store import ProjectStore

    with ProjectStore.open(project, read_only=True) as store, tempfile.TemporaryDirectory() as cache:
        prepared = prepare_all(iterate_cases(store, store.label_version), store.tracks, Path(cache), 0)
        folds = {name: fold_in_dearest_stage(name, prepared, store.tracks, epochs) for name in names}
        taken: dict[str, list[float]] = {name: [] for name in names}
        for step in range(STEPS_IN_TURN):
            for name, fold in folds.items():
                began = time.perf_counter()
                fold.step(step % fold.spec.plan.steps)
                taken[name].append(time.perf_counter() - began)
        drop_prepared(Path(cache))
    # two by two: a method may do more in every second step
    return {name: float(np.median(np.reshape(values, (-1, 2)).mean(1))) for name, values in taken.items()}


def fold_in_dearest_stage(name: str, prepared: Any, tracks: Any, epochs: int) -> Any:
    """The first fold of a run of `name`, taken through all epochs but the last with three steps each."""
    from dataclasses import replace

    import torch
    from lightning_fabric import Fabric

    from napari_noisylabel.engine.fold import Fold, FoldSpec
    from napari_noisylabel.engine.patches import plan_patches
    from napari_noisylabel.engine.settings import check_engine
    from napari_noisylabel.engine.train import choose_device, choose_precision
    from napari_noisylabel.methods import method_info

    torch.set_num_threads(1)
    device = choose_device("auto")[0]
    engine = check_engine({"precision": choose_precision(device), "threads": 1})
    info = method_info(name)
    method = info.make(info.check(DEAREST_STAGE.get(name, {})))
    reference = [c for c in prepared.values() if c.verified_case and method.needs_reference]
    cases = [c for c in prepared.values() if not c.held_out and c not in reference]
    plan = replace(plan_patches(cases, engine, 8, big_device=device != "cpu"), steps=3)
    fabric = Fabric(accelerator=device, devices=1, precision=engine.precision)  # type: ignore[arg-type]
    shared = FoldSpec(tracks, plan, engine, cases[0].image.shape[0], 0, epochs, fabric)
    fold = Fold(shared, 0, cases[: len(cases) // 2], method, reference)
    fold.start()
    for fold.epoch in range(epochs):
        fold.method.on_epoch_start(fold)
        for step in range(plan.steps):
            fold.step(step)
        if fold.epoch < epochs - 1:
            fold.method.on_epoch_end(fold)
    return fold


def in_child(name: str, project: Path, epochs: int) -> dict[str, float]:
    """Mean seconds of an epoch and peak memory (MiB), in a process of its own."""
    words = [__file__, "--child", name, "--project", str(project), "--epochs", str(epochs)]
    done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def train_alone(name: str, project: Path, epochs: int) -> dict[str, float]:
    from napari_noisylabel.engine.source import iterate_cases
    from napari_noisylabel.engine.spec import RunSpec
    from napari_noisylabel.engine.train import train
    from napari_noisylabel.store import ProjectStore
    from napari_noisylabel.study.bench.cells import peak_memory

    folder = Path(tempfile.mkdtemp())
    spec = RunSpec("bench", name, engine={"threads": 1}, epochs=epochs)
    with ProjectStore.open(project, read_only=True) as store:
        reports = list(train(spec, iterate_cases(store, store.label_version), store.tracks, folder))
    shutil.rmtree(folder)
    seconds = [r.seconds for r in reports if r.kind == "epoch"]
    return {"epoch": float(np.mean(seconds)), "memory": peak_memory(os.getpid()) / 2**20}


def row(first: object, *others: object) -> None:
    print(f"{first!s:<20}" + "".join(f"{o!s:>12}" for o in others), flush=True)


if __name__ == "__main__":
    main()
