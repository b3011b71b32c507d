"""bench: methods compared under a protocol."""

from __future__ import annotations

from pathlib import Path

import typer

from napari_noisylabel.cli.app import INTERRUPTED, app
from napari_noisylabel.cli.interruption import Interruption, interruptible
from napari_noisylabel.cli.output import Bar, remark, say, say_json, some
from napari_noisylabel.cli.values import JSON
from napari_noisylabel.study.bench import read_protocol, run_bench


@app.command()
def bench(
    protocol: Path = typer.Argument(..., metavar="PROTOCOL.toml", help="What is compared", show_default=False),
    out: Path = typer.Argument(..., help="Folder of the results", show_default=False),
    resume: bool = typer.Option(False, "--resume", help="Go on in a folder with results; share the work"),
    data: Path = typer.Option(None, "--data", metavar="DIR", help="Folder of the data sets, instead of root"),
    as_json: bool = JSON,
) -> int:
    """Compare methods under a protocol.

    Every cell (data, noise, method, seed) is trained and measured; cells that are done are not run
    again. The table is in OUT: table.md, table.csv, table.json, figure.png.
    """
    wanted = read_protocol(protocol, data)
    try:
        with Bar("bench") as bar, interruptible() as interruption:
            outcome = run_bench(
                wanted, out, resume=resume, say=lambda line: _remark(bar, line),
                progress=lambda done, total, note: _show(bar, interruption, done, total, note),
            )  # fmt: skip
    except KeyboardInterrupt:
        remark(f"noisylabel: interrupted; what is done stays: go on with noisylabel bench {protocol} {out} --resume")
        return INTERRUPTED
    for note in outcome.notes:
        remark(f"noisylabel: {note}")
    if outcome.elsewhere:
        remark(f"noisylabel: {some(outcome.elsewhere, 'cell')} left to another bench that works in {out}")
    if as_json:
        say_json({
            "done": outcome.done, "failed": outcome.failed, "elsewhere": outcome.elsewhere, "files": outcome.files,
            "notes": outcome.notes, "rows": outcome.rows,
        })  # fmt: skip
    else:
        say(f"{some(outcome.done, 'cell')} done, {len(outcome.failed)} failed; the table is in {out / 'table.md'}")
    return 1 if outcome.failed else 0


def _remark(bar: Bar, line: str) -> None:
    bar.close()
    remark(line)


def _show(bar: Bar, interruption: Interruption, done: int, total: int, note: str) -> None:
    interruption.heed()
    bar(done, total, note)
