"""export, evaluate, corrupt: what leaves, and how good it is."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import typer

from napari_noisylabel import study
from napari_noisylabel.arrays.noise import NOISES, PREFIX, PUBLISHED
from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.output import Bar, say, say_json, say_table, some
from napari_noisylabel.cli.values import JSON, PROJECT, RUN, SET, TRACK, key_values, plain_value, reading

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
