"""export, evaluate, corrupt, simulate: what leaves, and how good it is."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import typer

from napari_noisylabel import study
from napari_noisylabel.arrays.noise import NOISES, PREFIX, PUBLISHED
from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.output import Bar, say, say_json, say_table, some, write_table
from napari_noisylabel.cli.values import (
    JSON,
    PROJECT,
    RUN,
    SET,
    TRACK,
    key_values,
    plain_value,
    reading,
    split_settings,
)

TRUTH = typer.Option(..., "--truth", metavar="DIR", help="Folder of the true labels", show_default=False)


@app.command()
def export(
    project: Path = PROJECT,
    out: Path = typer.Argument(..., help="Folder to write to", show_default=False),
    format: str = typer.Option("same", "--format", metavar="same|nifti", help="As the source, or another format"),
    what: str = typer.Option("corrected", "--what", metavar="corrected|likelihood|proposal", help="What to write"),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace existing files"),
    as_json: bool = JSON,
) -> None:
    """Write volumes and a record of origin.

    Each has the geometry, values and type of its source.
    """
    with reading(project) as workbench:
        result = workbench.export(out, format=format, what=what, overwrite=overwrite)
    if as_json:
        say_json({"files": result.files, "origin": result.origin})
    else:
        say(f"{some(len(result.files), 'file')} written to {out}; where each is from: {result.origin}")


@app.command()
def evaluate(
    project: Path = PROJECT, truth: Path = TRUTH, run: str = RUN, track: str = TRACK, as_json: bool = JSON
) -> None:
    """Measure the labels against the truth.

    Those given, proposed and corrected; and how well errors are found. Cases that are held out
    measure the networks only.
    """
    with reading(project) as workbench, Bar("measuring") as bar:
        found = study.evaluate(workbench.store, truth, run, track or None, progress=bar)
    if as_json:
        say_json(found)
        return
    say(f"run {found['run'] or '-'} ({found['method'] or 'no run is complete'}), cases that are not held out")
    rows: list[list[Any]] = []
    for state, figures in found["labels"].items():
        for name in (figures or {}).get("dice", {}):
            rows.append([state, name, *(figures[m][name] for m in ("dice", "hd95", "assd"))])
        if figures:
            rows.append([state, "mean", figures["dice_mean"], None, None])
    say_table(rows, ["labels", "class", "dice", "hd95 mm", "assd mm"])
    if found["likelihood"]:
        ranking = [f"{name.replace('_', ' ')} {_figure(value)}" for name, value in found["likelihood"].items()]
        say("finding errors by score: " + ", ".join(ranking))
    if found["held_out"] and found["held_out"]["dice_mean"] is not None:
        say(f"held-out cases, proposals: dice {_figure(found['held_out']['dice_mean'])}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _noise_names() -> str:
    """The noise models for `corrupt --help`, in lines that no hyphen breaks."""
    published = [name.removeprefix(PREFIX) for name in PUBLISHED]
    texts = (
        f"Noise models: {', '.join(NOISES)}.",
        f"With the parameters of a paper, without --severity, {PREFIX}NAME: {', '.join(published)}.",
    )
    return "\n\n".join("\b\n" + fill(text, width=76, break_on_hyphens=False) for text in texts)


@app.command(epilog=_noise_names())
def corrupt(
    labels: Path = typer.Argument(..., help="Folder of the labels", show_default=False),
    out: Path = typer.Argument(..., help="Folder to write to, absent or empty", show_default=False),
    noise: str = typer.Option(..., "--noise", metavar="NAME", help="A noise model, see below", show_default=False),
    severity: float = typer.Option(None, "--severity", metavar="S", help="0 to 1; by default 0.5: mean Dice near 0.80"),
    share: float = typer.Option(1.0, "--share", metavar="P", help="Share of the cases that is spoiled"),
    images: Path = typer.Option(None, "--images", metavar="DIR", help="Folder of the images, for instance noise"),
    split: Path = typer.Option(None, "--split", metavar="FILE", help="Its val and test cases stay as they are"),
    seed: int = typer.Option(0, "--seed", metavar="S", help="Same seed, same errors"),
    settings: list[str] = SET,
) -> None:
    """Write labels with synthetic noise.

    The true errors and the parameters of each case are beside them, in OUT.errors. Nothing is
    written into the folder of the labels.
    """
    chosen = {key: plain_value(value) for key, value in key_values(settings, "--set").items()}
    with Bar("spoiling") as bar:
        made = study.corrupt_folder(
            labels, out, noise, severity=severity, share=share, images=images, split=split, seed=seed,
            settings=chosen, progress=bar,
        )  # fmt: skip
    files = some(made.n_cases, "label file")
    say(f"{files} in {made.labels}, {len(made.spoiled)} of them spoiled; true errors: {made.errors}")


@app.command()
def simulate(
    project: Path = typer.Argument(
        ..., help="Folder of the project; with --tags: of the pictures", show_default=False
    ),
    truth: Path = typer.Option(
        ..., "--truth", metavar="DIR", help="Folder of the true labels; with --tags: a table", show_default=False
    ),
    order: str = typer.Option(
        "", "--order", metavar="NAME[,NAME]",
        help="gain, random, entropy, ... as of `queue`; several are compared", show_default=False,
    ),
    budget: int = typer.Option(0, "--budget", metavar="N", help="Regions to look at, 0: all; or per round"),
    rounds: int = typer.Option(0, "--rounds", metavar="R", help="Train again after each round of N regions; 0: never"),
    method: str = typer.Option("active-refinement", "--method", metavar="NAME", help="What trains between rounds"),
    epochs: int = typer.Option(0, "--epochs", metavar="N", help="Of these trainings; 0: by data size"),
    seed: int = typer.Option(0, "--seed", metavar="S", help="Of random order and trainings"),
    oracle: str = typer.Option("verdict", "--oracle", metavar="verdict|redraw", help="What the reviewer may do"),
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
    --tags, two classifiers are taught on pictures, and the reviewer corrects tags. Nothing is written but the curve.
    """
    if tags is not None:
        found = _simulate_tags(project, tags, truth, column, order, rounds, budget, settings, seed)
        table, columns = [list(r.values()) for r in found["rounds"]], list(found["rounds"][0])
    elif rounds:
        plan = study.Plan(
            rounds,
            budget,
            order or "gain",
            oracle,
            opening,
            method,
            *split_settings(method, settings),
            epochs,
            seed=seed,
        )
        with reading(project) as workbench, Bar("training") as bar:
            found = study.simulate_rounds(workbench.store, truth, plan, hear=lambda r: bar(r.done, r.total, r.stage))
        table, columns = list(enumerate(found["curve"])), ["regions", "dice"]
    elif "," in order:
        with reading(project) as workbench:
            found = study.compare_orders(workbench.store, truth, [name.strip() for name in order.split(",")])
        lines = zip(*found["curves"].values(), strict=True)
        table, columns = [[i, *line] for i, line in enumerate(lines)], ["regions", *found["curves"]]
    else:
        with reading(project) as workbench:
            found = study.simulate(workbench.store, truth, order=order or "gain", budget=budget, seed=seed)
        table, columns = list(enumerate(found["curve"])), ["regions", "dice"]
    if curve is not None:
        write_table(curve, columns, table)
    if as_json:
        say_json(found)
    else:
        _say_simulation(found, table, columns)


def _simulate_tags(
    images: Path, given: Path, truth: Path, column: str, order: str, rounds: int, budget: int, settings: list[str],
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    values = key_values(settings, "--set")
    data = study.read_tagged(images, given, truth, column, study.tag_settings(values).side)
    with Bar("teaching") as bar:
        return study.simulate_tags(
            data, order=order or "entropy", rounds=rounds or 3, budget=budget, settings=values, seed=seed, progress=bar
        )


def _say_simulation(found: dict[str, Any], table: list[Any], columns: list[str]) -> None:
    if "kept" in found:  # of tags
        say_table(
            [[row[c] for c in _TAG_COLUMNS] for row in found["rounds"]], [c.replace("_", " ") for c in _TAG_COLUMNS]
        )
        say(
            f"{found['n']} examples, {found['given_error']:.1%} tagged wrongly; {found['candidates']} in doubt; "
            f"judged clean: precision {_figure(found['kept']['precision'])}, recall {_figure(found['kept']['recall'])}"
        )
        return
    if "rounds" in found:
        say_table(
            [[row[c] for c in _ROUND_COLUMNS] for row in found["rounds"]], [c.replace("_", " ") for c in _ROUND_COLUMNS]
        )
        say(f"by {found['order']}, {found['method']} between rounds" + (f"; {found['note']}" if found["note"] else ""))
        return
    at = sorted({round(i * (len(table) - 1) / 10) for i in range(11)})
    say_table([table[i] for i in at], columns)
    if "needed" in found:
        needed = ", ".join(f"{name} {'-' if n is None else n}" for name, n in found["needed"].items())
        say(f"{found['run']}: regions until 95 % of what the queue gives (Dice {_figure(found['target'])}): {needed}")
    else:
        say(f"{found['run']}, by {found['order']}: {found['accepted']} accepted, {found['rejected']} rejected")


_TAG_COLUMNS = ("round", "asked", "changed", "hit_rate", "cost", "error", "balanced_accuracy", "macro_f1")
_ROUND_COLUMNS = (
    "round",
    "queue",
    "asked",
    "changed",
    "hit_rate",
    "cost",
    "dice",
    "wrong_share",
    "proposal",
    "held_out",
)
