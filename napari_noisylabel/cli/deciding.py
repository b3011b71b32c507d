"""queue, accept, reject, undo, redo, verify: the review without a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from napari_noisylabel.arrays.labels import changed_runs, count
from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.output import remark, say, say_json, say_table, some
from napari_noisylabel.cli.values import BY, JSON, PROJECT, RUN, TRACK, reading, writing
from napari_noisylabel.errors import BadSetting, NothingToDo, UnknownName
from napari_noisylabel.records import Event, Region, RegionState, Track, Verdict
from napari_noisylabel.runs import voices
from napari_noisylabel.study.samplers import QUEUE_ORDERS, order_regions
from napari_noisylabel.workbench import Workbench

UNDECIDED = (RegionState.OPEN, RegionState.UNSURE)
REGIONS = typer.Option([], "--region", metavar="ID", help="A region; may come several times", show_default=False)
STEPS = typer.Option(1, "--steps", min=1, metavar="N", help="How many decisions")


@app.command()
def queue(
    project: Path = PROJECT,
    order: str = typer.Option("gain", "--order", metavar="NAME", help=f"How to rank: {', '.join(QUEUE_ORDERS)}"),
    as_json: bool = JSON,
) -> None:
    """List the regions that wait for a decision.

    Of an ensemble, further columns tell for which share of a region's voxels each method proposes the same.
    """
    with reading(project) as workbench:
        run, tracks = workbench.session.run, {t.name: t for t in workbench.store.tracks}
        if run is None:
            raise NothingToDo("no run is complete yet, so there is no queue. Train first: noisylabel train.")
        held_out = {c.id for c in workbench.store.cases() if c.held_out}
        found = [r for r in workbench.store.regions(run=run.id, states=UNDECIDED) if r.case not in held_out]
        regions = order_regions(workbench.store, run, found, order)
        names = voices(run, workbench.store.runs())
    listed = [_region_json(r, tracks[r.track]) for r in regions]
    votes = [dict(zip(names, r.votes, strict=False)) for r in regions]
    if as_json:
        say_json([own | {"votes": said} if names else own for own, said in zip(listed, votes, strict=True)])
        return
    if not regions:
        remark(f"noisylabel: {run.id} has no open region. Filter again with a lower threshold, or train again.")
        return
    for own in listed:
        own["state"] += ", weak" * own.pop("weak", False)
    rows = [[*own.values(), *said.values()] for own, said in zip(listed, votes, strict=True)]
    say_table(rows, [*listed[0], *names])


def _region_json(region: Region, track: Track) -> dict[str, Any]:
    shown = {
        "region": region.id, "case": region.case, "track": region.track, "from": track.classes[region.from_class],
        "to": track.classes[region.to_class], "voxels": region.voxels, "ml": region.ml,
        "likelihood": region.likelihood, "gain": region.gain, "state": str(region.state),
    }  # fmt: skip
    return {**shown, "weak": True} if region.weak else shown


@app.command()
def accept(
    project: Path = PROJECT,
    run: str = RUN,
    min_likelihood: float = typer.Option(
        None, "--min-likelihood", min=0.0, max=1.0, metavar="P", help="By default the run's threshold",
        show_default=False,
    ),
    region: list[int] = REGIONS,
    by: str = BY,
    as_json: bool = JSON,
) -> None:  # fmt: skip
    """Accept proposals, as decisions in the log.

    Without --region: all open regions of cases that are not held out, from --min-likelihood on. Weak ones, which
    go back to image-level tags alone, must be named one by one.
    """
    with writing(project, by) as workbench:
        if region:
            events = _decide(workbench, Verdict.ACCEPTED, region, run)
        else:
            events, _ = workbench.accept_all(run=run, min_likelihood=min_likelihood)
    voxels = sum(count(changed_runs(e.runs)) for e in events)
    if as_json:
        say_json({"accepted": len(events), "voxels": voxels})
    else:
        say(f"accepted {some(len(events), 'region')}, {some(voxels, 'voxel')} changed")


@app.command()
def reject(project: Path = PROJECT, region: list[int] = REGIONS, by: str = BY) -> None:
    """Reject proposals: the labels stay.

    The voxels count as verified, and no method changes them.
    """
    if not region:
        raise BadSetting("a rejection names its regions. Give each with --region ID; `noisylabel queue` lists them.")
    with writing(project, by) as workbench:
        events = _decide(workbench, Verdict.REJECTED, region, None)
    say(f"rejected {some(len(events), 'region')}")


def _decide(workbench: Workbench, verdict: Verdict, ids: list[int], run: str | None) -> list[Event]:
    """All of them or, where one cannot be decided on, none."""
    for number in ids:
        found = workbench.store.region(number)
        if run is not None and found.run != run:
            raise UnknownName(f"region {number} is of {found.run}, not of {run}. Leave out --run, or name another one.")
        if found.state not in UNDECIDED:
            raise NothingToDo(f"region {number} is {found.state} already. Undo that first, or choose another one.")
    return workbench.review_all(verdict, list(dict.fromkeys(ids)))


@app.command()
def undo(project: Path = PROJECT, steps: int = STEPS, by: str = BY) -> None:
    """Take back the last decisions.

    The log keeps them, and that they were taken back.
    """
    _turn_back(project, Verdict.UNDONE, steps, by)


@app.command()
def redo(project: Path = PROJECT, steps: int = STEPS, by: str = BY) -> None:
    """Do again what was taken back."""
    _turn_back(project, Verdict.REDONE, steps, by)


def _turn_back(project: Path, verdict: Verdict, steps: int, by: str) -> None:
    done: list[Event] = []
    with writing(project, by) as workbench:
        for _ in range(steps):
            try:
                done.append(workbench.review(verdict))
            except NothingToDo:
                if not done:
                    raise
                break
    rest = f"; there were no more than {len(done)}" if len(done) < steps else ""
    say(f"{verdict}: {some(len(done), 'decision')}{rest}")


@app.command()
def verify(
    project: Path = PROJECT,
    case: str = typer.Option(..., "--case", metavar="ID", help="The case that is right", show_default=False),
    labels: Path = typer.Option(None, "--labels", metavar="FILE", help="Labels that replace those of the case"),
    track: str = TRACK,
    by: str = BY,
) -> None:
    """Mark a case as right, as it is or as in a file."""
    with writing(project, by) as workbench:
        found = workbench.store.case(case)
        tracks = [track] if track else [t.name for t in workbench.store.tracks if found.is_labelled(t.name)]
        if labels is not None and len(tracks) > 1:
            raise BadSetting(f"a label file is of one track, and case {case!r} has {', '.join(tracks)}. Give --track.")
        if not tracks:
            raise NothingToDo(f"case {case!r} has no labels, so there is nothing to verify.")
        events = [workbench.review(Verdict.VERIFIED, case=case, track=name, labels=labels) for name in tracks]
    changed = sum(count(changed_runs(e.runs)) for e in events)
    say(f"verified {case}, track {', '.join(tracks)}: {some(changed, 'voxel')} changed")
