"""Volumes leave in the format and geometry of their sources, with a record of where each voxel is from."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel import __version__
from napari_noisylabel.arrays.geometry import same_grid
from napari_noisylabel.arrays.labels import changed_runs, count
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.source import given_of
from napari_noisylabel.errors import DiskFull, ExportRefused, NoisyLabelError, NothingToDo
from napari_noisylabel.io.files import file_hash
from napari_noisylabel.io.values import source_values
from napari_noisylabel.io.volumes import extension, read_header, write_labels, write_like, write_map, write_volume
from napari_noisylabel.records import Case, Event, Run, Track
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.events import now
from napari_noisylabel.store.files import NO_ROOM, write_json

WHAT = ("corrected", "likelihood", "proposal")
FORMATS = {"same": "", "nifti": ".nii.gz"}
ORIGIN = "origin.json"


@dataclass(frozen=True)
class ExportResult:
    """What was written: the volumes, and the record of origin beside them."""

    files: tuple[Path, ...]
    origin: Path


def export_project(
    store: ProjectStore, out: Path, run: Run | None, *, format: str = "same", what: str = "corrected",
    overwrite: bool = False,
) -> ExportResult:  # fmt: skip
    """Write every labelled case to `OUT/[TRACK/]<label file's name>`, and `origin.json`.

    A case without a mask leaves under its id, once a person has decided something in it: on the grid of its image.
    All files are written aside first: either all arrive, or none does. With several tracks each
    has a folder of its own.

    Raises
    ------
    ExportRefused : an unknown format or kind, existing files, a source folder as OUT, geometry
        that would not be the source's.
    NothingToDo : likelihood or proposal without a complete run.
    SourceChanged : a given file is not the one that the project was made from.
    DiskFull : no room left.
    """
    plan = _plan(store, out, run, format, what)
    _check_free(plan, out, overwrite)
    aside = out / f".{ORIGIN}.partial"
    folders = {out, *(item.target.parent for item in plan)}
    made = [folder for folder in folders if not folder.exists()]
    try:
        aside.mkdir(parents=True, exist_ok=True)
        entries = [_write(store, item, aside, out, run, what) for item in plan]
        write_json(aside / ORIGIN, _origin(store, run, what, format, entries))
        _move_all([Path(item.target.relative_to(out)) for item in plan] + [Path(ORIGIN)], aside, out)
    except NoisyLabelError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(f"no room left for the export to {out}. Nothing was written; free some room.") from error
        reason = f"{out} cannot be written: {error.strerror or error}. Nothing was written; choose another folder."
        raise ExportRefused(reason) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in sorted(made, key=lambda folder: -len(folder.parts)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return ExportResult(tuple(item.target for item in plan), out / ORIGIN)


# ---------------------------------------------------------------- helpers, in order of use


@dataclass(frozen=True)
class _Item:
    case: Case
    track: Track
    target: Path


def _plan(store: ProjectStore, out: Path, run: Run | None, format: str, what: str) -> list[_Item]:
    if what not in WHAT or format not in FORMATS:
        raise ExportRefused(
            f"an export is of {', '.join(WHAT)} in format {', '.join(FORMATS)}, got {what!r} in {format!r}. Choose one."
        )
    if what != "corrected" and run is None:
        raise NothingToDo(f"the {what} comes from a run, and none is complete. Train first: noisylabel train.")
    several = len(store.tracks) > 1
    items = []
    for case in store.cases():
        for track in store.tracks:
            if _leaves(store, case, track, what):
                folder = out / track.name if several else out
                items.append(_Item(case, track, folder / _name(case, track, format, what)))
    if not items:
        raise NothingToDo("no case of this project has labels, given or decided on, so there is nothing to export.")
    return items


def _leaves(store: ProjectStore, case: Case, track: Track, what: str) -> bool:
    """A blank mask that nobody has looked at says nothing, so it does not leave."""
    if not case.is_blank(track.name):
        return track.name in case.labels
    return what != "corrected" or store.verified(case.id, track.name, case.geometry.shape) is not None


def _name(case: Case, track: Track, format: str, what: str) -> str:
    given = case.labels.get(track.name)
    source = case.images[0].path if given is None else given.path
    suffix = extension(source)
    stem = source.name[: len(source.name) - len(suffix)] if given is not None else case.id
    if suffix in (".jpg", ".jpeg") and (given is None or what == "likelihood"):
        suffix = ".png"
    return stem + ("" if what == "corrected" else f"_{what}") + (FORMATS[format] or suffix)


def _check_free(plan: Sequence[_Item], out: Path, overwrite: bool) -> None:
    target = out.resolve()
    for item in plan:
        for source in (*item.case.images, *item.case.labels.values(), *item.case.raters.values()):
            folder = source.path.resolve().parent
            if folder in (target, item.target.parent.resolve()):
                raise ExportRefused(f"{out} holds given files, which are never written. Choose another folder.")
    there = [i.target for i in plan if i.target.exists()] + [p for p in (out / ORIGIN,) if p.exists()]
    if there and not overwrite:
        raise ExportRefused(
            f"{len(there)} of the files exist already in {out}, {there[0].name} first. "
            "Choose another folder, or allow it with --overwrite."
        )
    if len({i.target for i in plan}) < len(plan):
        raise ExportRefused(f"two label files of the project have one name, and {out} can hold only one of them.")


def _write(store: ProjectStore, item: _Item, aside: Path, out: Path, run: Run | None, what: str) -> dict[str, Any]:
    """Write one volume aside, check that its grid is the source's, and say where it is from."""
    source = item.case.labels.get(item.track.name, item.case.images[0])
    path = aside / item.target.relative_to(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    events = store.events(item.case.id, item.track.name)
    if what == "corrected":
        given = given_of((item.track,), item.case)[item.track]
        labels = store.corrected(item.case.id, item.track.name, given)
        decided = store.verified(item.case.id, item.track.name, given.shape)
        _require_explained(given, labels, decided, item)
        _write_labels(item, labels, path)
    elif run is not None:
        stored = CaseScores(store.run_folder(run.id), item.case.id).read(f"{item.track.name}.{what}")
        if stored is None:
            raise NothingToDo(f"run {run.id} has no {what} of case {item.case.id!r}. Train or filter again.")
        if what == "likelihood":
            write_map(source.path, stored, path)
        else:
            _write_labels(item, stored, path)
    differs = same_grid(read_header(path).geometry, item.case.geometry)
    if differs:
        raise ExportRefused(
            f"{item.target.name} would not have the grid of its source: {differs}. Nothing was written; "
            "export in the format of the source."
        )
    return {
        "file": str(item.target.relative_to(out)),
        "sha256": file_hash(path),
        "case": item.case.id,
        "track": item.track.name,
        "source": str(source.path),
        "source_sha256": source.sha256,
        "given_mask": item.track.name in item.case.labels,
        "events": [_event(store, e) for e in events] if what == "corrected" else [],
    }


def _move_all(names: Sequence[Path], aside: Path, out: Path) -> None:
    """Move files from `aside` to `out`; where one cannot, all that were there before come back."""
    before = aside / ".before"
    moved: list[Path] = []
    try:
        for name in names:
            target, kept = out / name, before / name
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder there", str(target))
            target.parent.mkdir(parents=True, exist_ok=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(kept)
            moved.append(name)
            (aside / name).rename(target)
    except OSError:
        for name in moved:
            (out / name).unlink(missing_ok=True)
            if (before / name).exists():
                (before / name).rename(out / name)
        raise


def _write_labels(item: _Item, labels: np.ndarray, out: Path) -> None:
    """In the form of the given label file; without one on the grid of the image, in the smallest type."""
    values = source_values(labels, item.track)
    given = item.case.labels.get(item.track.name)
    source = item.case.images[0].path if given is None else given.path
    if given is not None and extension(source) == extension(out):
        write_labels(source, values, out)
    elif read_header(source).geometry.unit == "mm":
        write_like(source, values, out)
    else:
        write_volume(values, read_header(source).geometry, out)


def _require_explained(given: np.ndarray, labels: np.ndarray, decided: np.ndarray | None, item: _Item) -> None:
    changed = given != labels
    if decided is not None:
        changed &= ~decided
    if changed.any():
        raise ExportRefused(
            f"{int(changed.sum())} voxels of case {item.case.id!r} differ from the given labels and no decision "
            "explains them. Nothing was written; please report this."
        )


def _event(store: ProjectStore, event: Event) -> dict[str, Any]:
    return {
        "number": event.number,
        "time": event.time,
        "by": event.by,
        "verdict": str(event.verdict),
        "run": event.run,
        "region": event.region,
        "weak": bool(event.region) and store.region(event.region).weak,
        "target": event.target,
        "voxels": count(event.runs),
        "voxels_changed": count(changed_runs(event.runs)),
        "note": event.note,
    }


def _origin(
    store: ProjectStore, run: Run | None, what: str, format: str, entries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    named = {event["run"] for entry in entries for event in entry["events"] if event["run"]}
    runs = [r for r in store.runs() if r.id in named or (run is not None and r.id == run.id)]
    return {
        "program": "napari-noisylabel",
        "version": __version__,
        "written": now(),
        "project": store.name,
        "what": what,
        "format": format,
        "not_a_medical_device": "for research; not for diagnosis or treatment",
        "runs": [{**asdict(r), "state": str(r.state)} for r in runs],
        "files": list(entries),
    }
