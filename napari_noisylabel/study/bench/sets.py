"""Files that cells share: the true labels of a data set's cases, and labels spoiled once per seed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from napari_noisylabel.errors import BadSetting, NoPairs, UnknownName
from napari_noisylabel.io.folders import (
    check_cases,
    find_cases,
    load_file,
    make_cases,
    make_tracks,
    read_groups,
    read_split,
)
from napari_noisylabel.io.values import values_in
from napari_noisylabel.methods import is_weak
from napari_noisylabel.records import FINDINGS, Case, Track
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.files import disk_errors, read_json, write_json
from napari_noisylabel.study.bench.plan import Cell
from napari_noisylabel.study.bench.protocol import CLEAN, DataSet
from napari_noisylabel.study.corrupt import corrupt_folder

TRACK = "labels"


@dataclass(frozen=True)
class SetFiles:
    """What is on the disk of one data set.

    `truth` has the true labels of all its cases, `measured` of those that figures are taken over: without
    the verified ones. `held_out` is "" for a training case, else the name of its part.
    """

    folder: Path
    held_out: dict[str, str]
    verified: tuple[str, ...]

    @property
    def truth(self) -> Path:
        return self.folder / "truth"

    @property
    def measured(self) -> Path:
        return self.folder / "measured"

    @property
    def split(self) -> Path:
        return self.folder / "split.json"

    def truth_of(self, case: str) -> Path:
        """The file with the true labels of a case."""
        return self.truth / read_json(self.folder / "set.json")["files"][case]


def set_files(cell: Cell, out: Path) -> SetFiles:
    """The cell's data set in `out`, made if nobody has yet.

    Raises
    ------
    NoPairs : no training case with labels is left. UnknownName : a held-out case that is not there.
    What `find_cases` and `read_split` raise.
    """
    folder = _once(out / "sets" / cell.set_name, lambda aside: _gather(cell, aside))
    known = read_json(folder / "set.json")
    return SetFiles(folder, known["held_out"], tuple(known["verified"]))


def given_labels(cell: Cell, files: SetFiles, out: Path) -> Path:
    """The folder of labels that the cell starts from: true ones, somebody's, or spoiled ones.

    Raises what `corrupt_folder` raises.
    """
    place = cell.protocol.place(cell.data)
    if cell.noise.given:
        return place / cell.noise.given
    if cell.noise.name == CLEAN:
        return files.truth
    return _once(out / "labels" / cell.labels_name, lambda aside: _spoil(cell, files, aside)) / "labels"


def make_cell_project(cell: Cell, files: SetFiles, labels: Path, folder: Path) -> None:
    """A project of the set's cases with these labels. Raises as `make_project`.

    For a method that learns from tags the training cases have no labels, but as tags what their truth shows.
    """
    place = cell.protocol.place(cell.data)
    found = [
        c for c in find_cases(place / cell.data.images, {TRACK: labels}, unlabelled=True) if c.id in files.held_out
    ]
    bare = [c.id for c in found if TRACK not in c.labels and not files.held_out[c.id]]
    if bare:
        raise NoPairs(f"every training case needs given labels, and {bare[0]!r} has none in {labels}. Add its file.")
    checked = check_cases(found)
    groups = cell.protocol.groups_of(cell.data)
    cases = make_cases(
        checked, split=files.held_out, groups=read_groups(groups, [c.id for c in checked]) if groups else None
    )
    tracks = make_tracks(checked, (), cell.data.ignore)
    if is_weak(cell.method.name):
        cases = tuple(c if c.held_out else _tagged(c, tracks[0], files.truth_of(c.id)) for c in cases)
    ProjectStore.create(folder, cell.data.name, tracks, cases).close()


# ---------------------------------------------------------------- helpers, in order of use


def _tagged(case: Case, track: Track, truth: Path) -> Case:
    """A case without labels, with the classes of its truth as findings."""
    shown = set(values_in(load_file(truth, case, track)))
    findings = "; ".join(name for k, name in enumerate(track.classes) if k and k in shown)
    return replace(case, labels={}, tags={**case.tags, FINDINGS: findings})


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made aside and renamed, so that it is there as a whole; of two programs the first one's stays."""
    if folder.exists():
        return folder
    aside = folder.with_name(f".{os.getpid()}-{uuid4().hex[:8]}")
    try:
        with disk_errors(folder):
            aside.mkdir(parents=True)
        make(aside)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _gather(cell: Cell, folder: Path) -> None:
    data, place = cell.data, cell.protocol.place(cell.data)
    found = find_cases(place / data.images, {TRACK: place / data.labels}, unlabelled=True)
    files = {c.id: c.labels[TRACK] for c in found if TRACK in c.labels}
    held_out = _held_out(data, place, list(files))
    training = [name for name in sorted(held_out) if not held_out[name]]
    verified = training[: cell.protocol.verified]
    measured = [name for name in held_out if name not in verified]
    if len(training) == len(verified):
        raise NoPairs(
            f"set {data.name!r} has {len(training)} training cases with labels, all of them verified: nothing is left "
            "to measure. Add cases, or verify fewer."
        )
    with disk_errors(folder):
        for name, chosen in (("truth", list(held_out)), ("measured", measured)):
            (folder / name).mkdir()
            for case in chosen:
                shutil.copyfile(files[case], folder / name / files[case].name)
    parts: dict[str, list[str]] = {"train": training, "val": [], "test": []}
    for name, part in held_out.items():
        if part:
            parts[part].append(name)
    write_json(folder / "split.json", parts)
    kept = {name: files[name].name for name in held_out}
    write_json(folder / "set.json", {"held_out": held_out, "verified": verified, "files": kept})


def _held_out(data: DataSet, place: Path, names: list[str]) -> dict[str, str]:
    """The part of every case that is used: "" for the first training cases, "val" or "test" for the others."""
    strange = [name for name in data.held_out if name not in names]
    if strange:
        raise UnknownName(f"set {data.name!r} holds out {strange[0]!r}, and there is no such case. Correct held_out.")
    split: dict[str, Any] = read_split(place / data.split) if data.split else {name: "test" for name in data.held_out}
    forgotten = [name for name in names if name not in split]
    if "" in split.values() and forgotten:
        raise BadSetting(
            f"a split must list every case, but {forgotten[0]!r} of set {data.name!r} is in none of its parts. Add it."
        )
    parts = {name: split.get(name, "") for name in names}
    training = sorted(name for name in names if not parts[name])[: data.cases or None]
    return {name: part for name, part in sorted(parts.items()) if part or name in training}


def _spoil(cell: Cell, files: SetFiles, folder: Path) -> None:
    place, noise = cell.protocol.place(cell.data), cell.noise
    ignore = {} if cell.data.ignore is None else {"ignore": cell.data.ignore}
    corrupt_folder(
        files.truth, folder / "labels", noise.name, severity=noise.strength, share=noise.share,
        images=place / cell.data.images, split=files.split, seed=cell.seed, settings={**ignore, **noise.settings},
    )  # fmt: skip
