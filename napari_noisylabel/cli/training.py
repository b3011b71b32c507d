"""train and refilter: work that takes its time."""

from __future__ import annotations

from pathlib import Path

import typer

from napari_noisylabel.cli.app import INTERRUPTED, app
from napari_noisylabel.cli.interruption import interruptible
from napari_noisylabel.cli.output import Bar, remark, say, say_json, some
from napari_noisylabel.cli.values import JSON, PROJECT, RUN, SET, split_settings, writing
from napari_noisylabel.errors import InputError, NothingToDo, RunFailed
from napari_noisylabel.records import Report, RunState
from napari_noisylabel.workbench import Workbench

DEFAULT_METHOD = "self-cleansing"


@app.command()
def train(
    project: Path = PROJECT,
    method: str = typer.Option(DEFAULT_METHOD, "--method", metavar="NAME", help="See `noisylabel methods`"),
    epochs: int = typer.Option(0, "--epochs", min=0, metavar="N", help="0: by the size of the data"),
    folds: int = typer.Option(2, "--folds", metavar="K", help="Networks; each is blind to its share of the groups"),
    seed: int = typer.Option(0, "--seed", metavar="S", help="Same seed, same run"),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or mps"),
    settings: list[str] = SET,
    resume: str = typer.Option("", "--resume", metavar="RUN", help="Go on with an interrupted run", show_default=False),
    as_json: bool = JSON,
) -> int:
    """Train, score out of fold, and propose regions."""
    of_method, of_engine = split_settings(method, settings)
    with writing(project) as workbench:
        workbench.retrain(
            method, settings=of_method, engine=of_engine, epochs=epochs, folds=folds, seed=seed, device=device,
            resume=resume,
        )  # fmt: skip
        return finish_run(workbench, as_json)


def finish_run(workbench: Workbench, as_json: bool = False, quiet: bool = False) -> int:
    """Watch the worker to its end, or stop it on Ctrl-C. Returns the exit code."""
    watch = workbench.watch
    if watch is None:
        raise NothingToDo("no training was started, so there is none to watch.")
    with Bar(watch.run_id) as bar, interruptible(watch.stop) as interruption:
        for report in workbench.wait():
            _show(bar, report)
    run = workbench.store.run(watch.run_id)
    if as_json:
        say_json({"run": run.id, "state": run.state})
    elif run.state == RunState.COMPLETE and not quiet:
        say(f"{run.id}: complete, {some(len(workbench.session.queue), 'region')} to look at")
    if run.state == RunState.COMPLETE:
        return 0
    if run.state == RunState.FAILED:
        raise (InputError if watch.exit_code == 2 else RunFailed)(f"{run.id} failed: {run.message}")
    folder = workbench.store.folder
    remark(f"noisylabel: {run.id} is interrupted; go on with: noisylabel train {folder} --resume {run.id}")
    return INTERRUPTED if interruption.asked else 1


def _show(bar: Bar, report: Report) -> None:
    if report.kind in ("step", "epoch") and report.total:
        left = "" if report.left_s is None else f", {_time(report.left_s)} left"
        bar(report.done, report.total, f"fold {report.fold + 1}, epoch {report.epoch + 1} of {report.epochs}{left}")
    elif report.kind == "phase":
        bar(report.done, report.total, report.stage)


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


@app.command()
def refilter(
    project: Path = PROJECT,
    run: str = RUN,
    level: str = typer.Option("case", "--level", metavar="voxel|region|case", help="What is clean or noisy"),
    threshold: float = typer.Option(
        0.0, "--threshold", min=0.0, max=1.0, metavar="P", help="Likelihood from which on; by default the level's",
        show_default=False,
    ),
    as_json: bool = JSON,
) -> None:  # fmt: skip
    """Filter again, without training.

    The mixture is fitted anew on the stored scores, and the regions are rebuilt.
    """
    with writing(project) as workbench, Bar("filtering") as bar:
        regions = workbench.propose(level, threshold, run, progress=lambda r: bar(r.done, r.total, r.stage))
        made = workbench.session.filter
    if made is None:
        raise NothingToDo("the filter left nothing. Train again.")
    if as_json:
        say_json({
            "run": made.run, "level": made.level, "threshold": made.threshold, "regions": len(regions),
            "voxels": sum(r.voxels for r in regions), "note": made.note,
        })  # fmt: skip
        return
    say(f"{made.run}: {some(len(regions), 'region')} at level {made.level} from a likelihood of {made.threshold:g} on")
    say(made.note)
