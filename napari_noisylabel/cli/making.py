"""new, info: what a project is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from napari_noisylabel import study
from napari_noisylabel.cli.app import app
from napari_noisylabel.cli.output import Bar, say, say_json, say_table, some
from napari_noisylabel.cli.values import JSON, PROJECT, class_names, key_values, reading
from napari_noisylabel.errors import BadSetting
from napari_noisylabel.io.folders import looks_changed
from napari_noisylabel.records import Case, RegionState, Run, Track, found_classes
from napari_noisylabel.workbench import Workbench

LABELS = "labels"
"""The track that `--labels` stands for."""


@app.command()
def new(
    project: Path = typer.Argument(..., help="Folder to make the project in", show_default=False),
    images: Path = typer.Option(..., "--images", metavar="DIR", help="Folder of the images", show_default=False),
    labels: Path = typer.Option(None, "--labels", metavar="DIR", help="Folder of the labels", show_default=False),
    split: Path = typer.Option(None, "--split", metavar="FILE.json", help="Its val and test cases are held out"),
    groups: str = typer.Option(None, "--groups", metavar="FILE.csv|REGEX", help="Which person a case is of"),
    classes: list[str] = typer.Option(
        [], "--classes", metavar="NAME,NAME", help="Names of the label values in their order, or TRACK=NAME,NAME"
    ),
    ignore: int = typer.Option(None, "--ignore", metavar="VALUE", help="Label value of voxels nobody annotated"),
    track: list[str] = typer.Option([], "--track", metavar="NAME=DIR", help="Labels that may overlap others"),
    rater: list[str] = typer.Option([], "--rater", metavar="NAME=DIR", help="Labels by a further rater"),
    tags: Path = typer.Option(None, "--tags", metavar="FILE.csv", help="What images show: case,findings"),
    unlabelled: bool = typer.Option(False, "--unlabelled", help="Allow images without label"),
    check: bool = typer.Option(False, "--check", help="Only report; make nothing"),
    as_json: bool = JSON,
) -> int:
    """Make a project, after checking every file."""
    tracks = _tracks(labels, key_values(track, "--track"), tags)
    options: dict[str, Any] = {
        "raters": {name: Path(folder) for name, folder in key_values(rater, "--rater").items()},
        "split": split, "groups": groups, "class_names": class_names(classes), "ignore": ignore, "tags": tags,
        "unlabelled": unlabelled,
    }  # fmt: skip
    with Bar("checking the files") as bar:
        if check:
            plan = study.check_project(images, tracks, **options, progress=bar)
        else:
            plan = study.make_project(project, images, tracks, **options, progress=bar)
    _say_plan(project, plan, check, as_json)
    return 2 if plan.problems else 0


def _tracks(labels: Path | None, tracks: dict[str, str], tags: Path | None) -> dict[str, Path]:
    if labels is None and not tracks and tags is None:
        raise BadSetting(
            "a project needs labels: give their folder with --labels DIR, or --track NAME=DIR per track, or what the "
            "images show with --tags FILE.csv."
        )
    if labels is not None and LABELS in tracks:
        raise BadSetting(f"--labels makes the track {LABELS!r}, and --track names another one so. Rename it.")
    return ({LABELS: labels} if labels is not None else {}) | {name: Path(d) for name, d in tracks.items()}


def _say_plan(project: Path, plan: study.ProjectPlan, check: bool, as_json: bool) -> None:
    held_out = sum(bool(c.held_out) for c in plan.cases)
    if as_json:
        say_json({
            "project": str(project), "made": not check, "cases": len(plan.cases), "held_out": held_out,
            "groups": len({c.group for c in plan.cases}), "tracks": [_track_json(t) for t in plan.tracks],
            "problems": [{"case": p.case, "message": str(p.error)} for p in plan.problems],
        })  # fmt: skip
        return
    for problem in plan.problems:
        say(f"{problem.case}: {problem.error}")
    for track in plan.tracks:
        names = ", ".join(f"{v} = {n}" for v, n in zip(track.values[1:], track.classes[1:], strict=True))
        say(f"track {track.name}: {names}")
    _say_tags(plan.tracks, plan.cases)
    made = "could be made" if check else "made"
    say(f"{project} {made}: {some(len(plan.cases), 'case')}, {held_out} held out, {len(plan.problems)} with problems")


def _say_tags(tracks: Sequence[Track], cases: Sequence[Case]) -> None:
    """How many cases have tags, with which findings, and how many of them no mask."""
    told = [c for c in cases if c.findings is not None]
    if not told:
        return
    blank = sum(not c.labels for c in told)
    counts = {
        f"{t.name}/{name}" if len(tracks) > 1 else name: sum(k in (found_classes(c, t) or ()) for c in told)
        for t in tracks
        for k, name in enumerate(t.classes)
        if k
    }
    shown = ", ".join(f"{name} in {n}" for name, n in counts.items())
    say(f"tags of {some(len(told), 'case')}, {blank} of them without a mask: {shown}")


def _track_json(track: Track) -> dict[str, Any]:
    return {"name": track.name, "classes": track.classes, "values": track.values, "ignore": track.ignore}


# ---------------------------------------------------------------- info


@app.command()
def info(project: Path = PROJECT, as_json: bool = JSON) -> None:
    """What is in a project."""
    with reading(project) as workbench:
        found = _info(workbench)
        tracks, cases = workbench.store.tracks, workbench.store.cases()
    if as_json:
        say_json(found)
        return
    n_cases, n_tracks = some(len(found["cases"]), "case"), some(len(found["tracks"]), "track")
    say(f"{found['name']}: {n_cases}, {n_tracks}, {some(found['events'], 'event')}")
    for track in found["tracks"]:
        say(f"track {track['name']}: {', '.join(track['classes'][1:])}")
    _say_tags(tracks, cases)
    held_out = [c for c in found["cases"] if c["held_out"]]
    changed = [c["case"] for c in found["cases"] if c["changed"]]
    say(f"held out: {some(len(held_out), 'case')}")
    if changed:
        say(f"changed since the project was made: {', '.join(changed)}")
    if found["runs"]:
        rows = [[r["run"], r["method"], r["state"], r["epochs"], r["message"]] for r in found["runs"]]
        say_table(rows, ["run", "method", "state", "epochs", ""])
    say("regions: " + (", ".join(f"{n} {state}" for state, n in found["regions"].items()) or "none"))


def _info(workbench: Workbench) -> dict[str, Any]:
    store, session = workbench.store, workbench.session
    regions = store.regions(run=session.run.id) if session.run is not None else ()
    states = Counter(str(r.state) for r in regions if r.state != RegionState.GONE)
    return {
        "project": str(store.folder),
        "name": store.name,
        "tracks": [_track_json(t) for t in store.tracks],
        "cases": [_case_json(c) for c in store.cases()],
        "run": session.run.id if session.run is not None else None,
        "runs": [_run_json(r) for r in store.runs()],
        "regions": dict(sorted(states.items())),
        "events": store.label_version,
    }


def _case_json(case: Case) -> dict[str, Any]:
    files = (*case.images, *case.labels.values(), *case.raters.values())
    return {
        "case": case.id, "group": case.group, "held_out": case.held_out, "shape": case.geometry.shape,
        "spacing": [round(float(s), 6) for s in case.geometry.spacing], "unit": case.geometry.unit,
        "channels": len(case.images), "tracks": list(case.labels), "raters": list(case.raters), "tags": case.tags,
        "changed": any(looks_changed(f) for f in files),
    }  # fmt: skip


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "run": run.id, "method": run.method, "state": run.state, "epochs": run.epochs, "folds": run.folds,
        "seed": run.seed, "label_version": run.label_version, "created": run.created, "finished": run.finished or None,
        "message": run.message, "settings": run.settings, "engine": run.engine,
    }  # fmt: skip
