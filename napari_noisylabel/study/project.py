"""From folders of files to a project: pair them, open each once, and only then write anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_noisylabel.errors import BadSetting, NoPairs, ProjectExists
from napari_noisylabel.io.folders import (
    CheckedCase,
    FoundCase,
    Problem,
    check_cases,
    check_tags,
    examine_cases,
    find_cases,
    make_cases,
    make_tracks,
    read_groups,
    read_split,
    read_tags,
    track_of_tags,
)
from napari_noisylabel.io.tags import TRACK as TAG_TRACK
from napari_noisylabel.io.tags import Tags
from napari_noisylabel.records import Case, Track
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.manifest import DATABASE_FILE

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""

ClassNames = Sequence[str] | Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class ProjectPlan:
    """What a project would hold; `problems` keep cases out and are empty once it is made."""

    tracks: tuple[Track, ...]
    cases: tuple[Case, ...]
    problems: tuple[Problem, ...] = ()


def make_project(
    folder: Path | str,
    images: Path | str,
    labels: Mapping[str, Path | str],
    *,
    raters: Mapping[str, Path | str] | None = None,
    split: Path | str | None = None,
    groups: Path | str | None = None,
    class_names: ClassNames = (),
    ignore: int | None = None,
    tags: Path | str | None = None,
    unlabelled: bool = False,
    name: str = "",
    progress: Progress | None = None,
) -> ProjectPlan:
    """Check every file, then make a project in `folder`, which must be absent or empty.

    Parameters
    ----------
    images : folder of images; `_0000` suffixes are channels of one case.
    labels, raters : one folder per track, and per further rater. No labels at all are fine with `tags` that
        have a column "findings": then the findings are the classes.
    split : JSON file whose `val` and `test` cases are held out.
    groups : CSV file or regular expression that says which person a case is of.
    class_names : names of the non-zero values in their order, for all tracks or per track.
    ignore : value of voxels without annotation.
    tags : CSV file of image-level tags; lets images without label pass, as `unlabelled` does.
    name : of the project, by default the folder's.
    progress : called in this thread after each case.

    Raises
    ------
    InputError : the files cannot be used together (see `io.folders`). Nothing is written then.
    ProjectExists, ReadOnlyProject, DiskFull : the folder cannot be made.
    """
    folder = Path(folder).absolute()
    if (folder / DATABASE_FILE).exists():  # before minutes of checking
        raise ProjectExists(f"{folder} holds a project already. Open it, or choose another folder.")
    plan = plan_project(
        images, labels, raters=raters, split=split, groups=groups, class_names=class_names, ignore=ignore,
        tags=tags, unlabelled=unlabelled, progress=progress,
    )  # fmt: skip
    ProjectStore.create(folder, name or folder.name, plan.tracks, plan.cases).close()
    return plan


def plan_project(
    images: Path | str, labels: Mapping[str, Path | str], *, raters: Mapping[str, Path | str] | None = None,
    split: Path | str | None = None, groups: Path | str | None = None, class_names: ClassNames = (),
    ignore: int | None = None, tags: Path | str | None = None, unlabelled: bool = False,
    progress: Progress | None = None,
) -> ProjectPlan:  # fmt: skip
    """What `make_project` would make of these files, without writing. Raises its InputErrors."""
    known_tags = read_tags(tags) if tags is not None else None
    found = _find(images, labels, raters, unlabelled, known_tags)
    checked = check_cases(found, progress=progress)
    return _plan(found, checked, split, groups, class_names, ignore, known_tags)


def check_project(
    images: Path | str, labels: Mapping[str, Path | str], *, raters: Mapping[str, Path | str] | None = None,
    split: Path | str | None = None, groups: Path | str | None = None, class_names: ClassNames = (),
    ignore: int | None = None, tags: Path | str | None = None, unlabelled: bool = False,
    progress: Progress | None = None,
) -> ProjectPlan:  # fmt: skip
    """Like `plan_project`, but a case that cannot be used is listed in `problems` and stops nothing."""
    known_tags = read_tags(tags) if tags is not None else None
    found = _find(images, labels, raters, unlabelled, known_tags)
    checked, problems = examine_cases(found, progress=progress)
    if not checked:
        return ProjectPlan((), (), tuple(problems))
    plan = _plan(found, checked, split, groups, class_names, ignore, known_tags)
    return ProjectPlan(plan.tracks, plan.cases, tuple(problems))


# ---------------------------------------------------------------- helpers, in order of use


def _find(
    images: Path | str, labels: Mapping[str, Path | str], raters: Mapping[str, Path | str] | None, unlabelled: bool,
    tags: Tags | None,
) -> list[FoundCase]:  # fmt: skip
    if not labels and tags is None:
        raise NoPairs(
            "a project needs the labels that are to be checked, or image-level tags. Give the labels' folder, or one "
            "per track, or a table of tags."
        )
    return find_cases(images, labels, raters, unlabelled=unlabelled or tags is not None)


def _plan(
    found: Sequence[FoundCase], checked: Sequence[CheckedCase], split: Path | str | None, groups: Path | str | None,
    class_names: ClassNames, ignore: int | None, tags: Tags | None,
) -> ProjectPlan:  # fmt: skip
    tracks = make_tracks(checked, class_names, ignore)
    if not tracks and tags is not None:
        own = class_names.get(TAG_TRACK, ()) if isinstance(class_names, Mapping) else class_names
        tracks = (track_of_tags(tags, own, ignore),)
    if tags is not None:
        check_tags(tags, {c.id for c in found}, tracks)
    if isinstance(class_names, Mapping):
        strange = sorted(set(class_names) - {t.name for t in tracks})
        if strange:
            raise BadSetting(f"classes were named for track {strange[0]!r}, and there is none. Give its folder, too.")
    cases = make_cases(
        checked,
        split=read_split(split) if split is not None else None,
        groups=read_groups(groups, [c.id for c in checked]) if groups is not None else None,
        tags=tags,
    )
    return ProjectPlan(tracks, cases)
