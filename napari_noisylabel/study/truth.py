"""The truth that people measure against: label files beside a project, by case and track."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_noisylabel.errors import NoPairs, NothingToDo, UnpairedFiles
from napari_noisylabel.io.cases import load_file
from napari_noisylabel.io.files import list_folder
from napari_noisylabel.io.volumes import case_id, is_known
from napari_noisylabel.records import Case, Run, RunState, Track
from napari_noisylabel.store import ProjectStore


@dataclass(frozen=True)
class Truth:
    """Which file tells the truth of which case. Files without a case are left out."""

    files: Mapping[str, Mapping[str, Path]]  # track -> case id -> file
    cases: tuple[Case, ...]

    def training(self, track: Track) -> Iterator[tuple[Case, np.ndarray]]:
        """Labelled cases that are not held out, with their true class indices (*spatial) uint8."""
        yield from self._read(track, held_out=False)

    def held_out(self, track: Track) -> Iterator[tuple[Case, np.ndarray]]:
        """Held-out cases with their true class indices."""
        yield from self._read(track, held_out=True)

    def _read(self, track: Track, held_out: bool) -> Iterator[tuple[Case, np.ndarray]]:
        for case in self.cases:
            path = self.files[track.name].get(case.id)
            if path is not None and bool(case.held_out) == held_out and (held_out or case.is_labelled(track.name)):
                yield case, load_file(path, case, track)


def find_truth(store: ProjectStore, folder: Path, tracks: tuple[Track, ...]) -> Truth:
    """The truth files in `folder`, or in one folder per track inside it.

    Raises
    ------
    UnreadableFile : the folder is not there.
    UnpairedFiles : two files for one case. NoPairs : not one file belongs to a case.
    """
    files = {}
    for track in tracks:
        own = folder / track.name
        if not own.is_dir() and len(tracks) > 1:
            raise NoPairs(
                f"several tracks have a folder of truth each, and {own} is not there. "
                "Make it, or choose one of the tracks."
            )
        files[track.name] = _by_case(own if own.is_dir() else folder)
    truth = Truth(files, store.cases())
    known = {case.id for case in truth.cases}
    if not any(known & set(of_track) for of_track in files.values()):
        raise NoPairs(
            f"a truth file must have the name of a case, and not one file in {folder} has "
            f"(a case is called {min(known, default='')!r}). Give the folder that holds the true labels."
        )
    return truth


def choose_tracks(store: ProjectStore, track: str | None) -> tuple[Track, ...]:
    """All tracks, or the one that was named. Raises UnknownName."""
    return (store.track(track),) if track else store.tracks


def choose_run(store: ProjectStore, run: str | None) -> Run | None:
    """The run that was named, or the latest complete one. Raises UnknownName, NothingToDo."""
    if run is None:
        return store.latest_complete_run()
    found = store.run(run)
    if found.state != RunState.COMPLETE:
        raise NothingToDo(f"run {found.id} is {found.state}, without scores. Resume it, or choose another run.")
    return found


def class_keys(tracks: tuple[Track, ...], track: Track) -> list[str]:
    """The names under which figures of the foreground classes go: CLASS, or TRACK/CLASS of several tracks."""
    return [f"{track.name}/{c}" if len(tracks) > 1 else c for c in track.classes[1:]]


def _by_case(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_folder(folder):
        if is_known(path):
            name = case_id(path)
            if name in found:
                raise UnpairedFiles(
                    f"a case has one true label file, but {folder} holds {found[name].name} and {path.name}. "
                    "Remove one."
                )
            found[name] = path
    return found
