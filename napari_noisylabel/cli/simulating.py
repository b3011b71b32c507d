"""simulate: a reviewer who knows the truth, on a queue, in rounds of training, or on tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from napari_noisylabel import study
from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.output import Bar, say, say_json, say_table, write_table
from napari_noisylabel.cli.values import JSON, SET, key_values, reading, split_settings

LINES = 11
"""Of a curve that are shown; the whole of it is in --json and --curve."""
ROUND = ("round", "queue", "asked", "changed", "hit_rate", "cost", "dice", "wrong_share", "proposal", "held_out")
TAGS = ("round", "asked", "changed", "hit_rate", "cost", "error", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True)
class Outcome:
    """What a simulation found: the document, its curve, the lines of it that are shown, and a sentence."""

    found: dict[str, Any]
    columns: Sequence[str]
    curve: Sequence[Sequence[Any]]
    shown: tuple[Sequence[str], Sequence[Sequence[Any]]]
    sentence: str


@app.command()
def simulate(
    project: Path = typer.Argument(..., help="Folder of the project; with --tags: of the pictures", show_default=False),
    truth: Path = typer.Option(
        ..., "--truth", metavar="DIR", help="Folder of the true labels; with --tags: a table", show_default=False
    ),
    order: str = typer.Option(
        "", "--order", metavar="NAME[,NAME]", help="gain, random, entropy, ... as of `queue`; several are compared",
        show_default=False,
    ),
    budget: int = typer.Option(0, "--budget", metavar="N", help="Regions to look at, 0: all; or per round"),
    rounds: int = typer.Option(0, "--rounds", metavar="R", help="Train again after each round of N regions; 0: never"),
    method: str = typer.Option("active-refinement", "--method", metavar="NAME", help="What trains between rounds"),
    epochs: int = typer.Option(0, "--epochs", metavar="N", help="Of these trainings; 0: by data size"),
    seed: int = typer.Option(0, "--seed", metavar="S", help="Of random order and trainings"),
    oracle: str = typer.Option("verdict", "--oracle", metavar="verdict|redraw", help="What it does in rounds"),
    opening: float = typer.Option(0.0, "--opening", metavar="C", help="What it costs to open a case, in regions"),
    tags: Path = typer.Option(None, "--tags", metavar="FILE.csv", help="Labels of whole pictures instead of masks"),
    column: str = typer.Option("", "--column", metavar="NAME", help="The tag that is the class of a picture"),
    curve: Path = typer.Option(None, "--curve", metavar="FILE.csv", help="Write the curve as a table"),
    settings: list[str] = SET,
    as_json: bool = JSON,
) -> None:  # fmt: skip
    """Let a simulated reviewer go down the queue.

    Who knows the truth accepts what lowers the error, and rejects the rest: Dice against regions
    seen. With --rounds, a copy of the project is trained again after every --budget regions. With
    --tags, two classifiers are taught on pictures, and the reviewer corrects tags in rounds. Only
    the curve is written.
    """
    if tags is not None:
        outcome = _of_tags(project, tags, truth, column, order, rounds, budget, settings, seed)
    elif rounds:
        of_method, of_engine = split_settings(method, settings)
        outcome = _in_rounds(project, truth, study.Plan(
            rounds, budget, order or "gain", oracle, opening, method, of_method, of_engine, epochs, seed=seed
        ))  # fmt: skip
    elif "," in order:
        outcome = _in_orders(project, truth, [name.strip() for name in order.split(",")])
    else:
        outcome = _down_the_queue(project, truth, order or "gain", budget, seed)
    if curve is not None:
        write_table(curve, outcome.columns, outcome.curve)
    if as_json:
        say_json(outcome.found)
        return
    header, rows = outcome.shown
    say_table(rows, [name.replace("_", " ") for name in header])
    say(outcome.sentence)


def _down_the_queue(project: Path, truth: Path, order: str, budget: int, seed: int) -> Outcome:
    with reading(project) as workbench:
        found = study.simulate(workbench.store, truth, order=order, budget=budget, seed=seed)
    curve, columns = list(enumerate(found["curve"])), ("regions", "dice")
    sentence = f"{found['run']}, by {order}: {found['accepted']} accepted, {found['rejected']} rejected"
    return Outcome(found, columns, curve, (columns, _some(curve)), sentence)


def _in_orders(project: Path, truth: Path, orders: list[str]) -> Outcome:
    with reading(project) as workbench:
        found = study.compare_orders(workbench.store, truth, orders)
    columns = ("regions", *found["curves"])
    curve = [(i, *line) for i, line in enumerate(zip(*found["curves"].values(), strict=True))]
    sentence = f"{found['run']}: the queue as a whole does not raise Dice"
    if found["targets"]:
        needed = ", ".join(f"{name} {'/'.join(map(str, n))}" for name, n in found["needed"].items())
        shares = "/".join(f"{s:.0%}" for s in study.SHARES)
        sentence = f"{found['run']}: regions until {shares} of what the queue gives: {needed}"
    return Outcome(found, columns, curve, (columns, _some(curve)), sentence)


def _in_rounds(project: Path, truth: Path, plan: study.Plan) -> Outcome:
    with reading(project) as workbench, Bar("training") as bar:
        found = study.simulate_rounds(workbench.store, truth, plan, hear=lambda r: bar(r.done, r.total, r.stage))
    sentence = f"by {plan.order}, {plan.method} between rounds" + (f"; {found['note']}" if found["note"] else "")
    lines = [[row[name] for name in ROUND] for row in found["rounds"]]
    return Outcome(found, ("regions", "dice"), list(enumerate(found["curve"])), (ROUND, lines), sentence)


def _of_tags(
    images: Path, given: Path, truth: Path, column: str, order: str, rounds: int, budget: int, settings: list[str],
    seed: int,
) -> Outcome:  # fmt: skip
    values = key_values(settings, "--set")
    data = study.read_tagged(images, given, truth, column, study.tag_settings(values).side)
    with Bar("teaching") as bar:
        found = study.simulate_tags(
            data, order=order or "entropy", rounds=rounds or 3, budget=budget, settings=values, seed=seed, progress=bar
        )
    precision, recall = (found["kept"][name] for name in ("precision", "recall"))
    sentence = (
        f"{found['n']} examples, {found['given_error']:.1%} tagged wrongly; {found['candidates']} in doubt; "
        f"judged clean with precision {_figure(precision)} and recall {_figure(recall)}"
    )
    lines = [[row[name] for name in TAGS] for row in found["rounds"]]
    return Outcome(found, TAGS, lines, (TAGS, lines), sentence)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _some(curve: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Lines of a curve at even distances, its first and last among them."""
    at = sorted({round(i * (len(curve) - 1) / (LINES - 1)) for i in range(LINES)})
    return [curve[i] for i in at]
