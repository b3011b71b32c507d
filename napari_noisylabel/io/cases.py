"""From checked files to the records of a project, and from a record to its arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import BadImage, BadLabels, BadSetting, SourceChanged, UnknownName
from napari_noisylabel.io.checks import CheckedCase, check_grid
from napari_noisylabel.io.files import require_unchanged
from napari_noisylabel.io.flat import COLOUR
from napari_noisylabel.io.values import class_indices
from napari_noisylabel.io.volumes import read_image, read_labels
from napari_noisylabel.records import Case, SourceFile, Track

BACKGROUND = "background"


def make_tracks(
    checked: Iterable[CheckedCase],
    class_names: Sequence[str] | Mapping[str, Sequence[str]] = (),
    ignore: int | None = None,
) -> tuple[Track, ...]:
    """The tracks of the checked cases: classes are the sorted non-zero values over all label files.

    Parameters
    ----------
    class_names : names of the non-zero values in that order, for all tracks or per track. Without
        them a class is called by its value.
    ignore : value of voxels without annotation; no class.

    Raises
    ------
    BadLabels : a track without a single labelled voxel, another number of classes than of names, a
        rater's value that no track has.
    BadSetting : `ignore` is 0, or names are empty or double.
    """
    if ignore == 0:
        raise BadSetting("the value to ignore must not be 0, which is background. Give another value.")
    checked = list(checked)
    names = dict.fromkeys(track for case in checked for track in case.label_values)  # in the order given
    tracks = tuple(_make_track(name, checked, class_names, ignore) for name in names)
    _check_raters(checked, tracks, ignore)
    return tracks


def make_cases(
    checked: Iterable[CheckedCase],
    *,
    split: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
    tags: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[Case, ...]:
    """The records of checked cases, sorted by id.

    Parameters
    ----------
    split : `held_out` per case id, as `read_split` gives it. A case that it does not list trains only
        where it lists no training case at all.
    groups : person per case id; without it each case is a group.
    tags : image-level tags per case id.

    Raises
    ------
    BadImage : cases differ in their number of channels or axes.
    BadSetting : a case that the split forgets, or a group divided between its parts.
    """
    checked = sorted(checked, key=lambda case: case.id)
    _check_alike(checked)
    cases = tuple(
        Case(
            id=c.id,
            group=(groups or {}).get(c.id, c.id),
            geometry=c.geometry,
            images=c.images,
            labels=dict(c.labels),
            raters=dict(c.raters),
            tags=dict((tags or {}).get(c.id, {})),
            held_out=_held_out(c.id, split),
        )
        for c in checked
    )
    _check_groups(cases)
    return cases


def load_image(case: Case) -> np.ndarray:
    """The image of a case, (C, *spatial) float32, channels in the order of its files.

    Raises
    ------
    SourceChanged : a file is not the one that the project was made from (by its hash).
    """
    volumes = [_unchanged(read_image(require_unchanged(f)).array, case.geometry, f) for f in case.images]
    if len(volumes) == 1:
        return np.ascontiguousarray(volumes[0], dtype=np.float32)
    image = np.empty((sum(len(v) for v in volumes), *case.geometry.shape), dtype=np.float32)
    np.concatenate(volumes, out=image)
    return image


def load_labels(case: Case, track: Track) -> np.ndarray:
    """The given labels of a case as class indices of `track`, (*spatial) uint8.

    Raises
    ------
    UnknownName : the case has no labels of this track.
    SourceChanged : the file is not the one that the project was made from.
    """
    if track.name not in case.labels:
        raise UnknownName(f"case {case.id!r} has no labels of track {track.name!r}, but of {list(case.labels)}.")
    return _indices(case.labels[track.name], case, track)


def load_rater(case: Case, rater: str, track: Track) -> np.ndarray:
    """A further rater's labels as class indices of `track`, (*spatial) uint8; raises as `load_labels`."""
    if rater not in case.raters:
        raise UnknownName(f"case {case.id!r} has no labels by rater {rater!r}; it has {list(case.raters)}.")
    return _indices(case.raters[rater], case, track)


def load_file(path: Path | str, case: Case, track: Track) -> np.ndarray:
    """Labels of `case` from a file outside the project (truth, a corrected file), as class indices."""
    path = Path(path)
    volume = read_labels(path)
    check_grid(volume.geometry, case.geometry, "labels", path, case.id)
    return class_indices(volume.array, track, str(path))


def _indices(source: SourceFile, case: Case, track: Track) -> np.ndarray:
    values = _unchanged(read_labels(require_unchanged(source)).array, case.geometry, source)
    return class_indices(values, track, str(source.path))


def _unchanged(array: np.ndarray, geometry: Geometry, source: SourceFile) -> np.ndarray:
    if array.shape[-geometry.ndim :] != geometry.shape:
        raise SourceChanged(
            f"{source.path} has shape {array.shape}, and the project expects {geometry.shape}. Make a new project."
        )
    return array


def _make_track(
    name: str,
    checked: Sequence[CheckedCase],
    class_names: Sequence[str] | Mapping[str, Sequence[str]],
    ignore: int | None,
) -> Track:
    found = {v for case in checked for v in case.label_values.get(name, ())} - {0, ignore}
    values = sorted(found)
    if not values:
        raise BadLabels(
            f"a track must have labelled voxels, but all label files of track {name!r} are empty. "
            "Check that this is the folder with the labels."
        )
    wanted = class_names.get(name, ()) if isinstance(class_names, Mapping) else class_names
    names = [str(n).strip() for n in wanted] or [_value_name(v) for v in values]
    if len(names) != len(values):
        raise BadLabels(
            f"each class needs one name, but the labels of track {name!r} hold {len(values)} values "
            f"{values[:8]} besides 0, and {len(names)} names came: {', '.join(names[:8])}. "
            "Name them all, in this order."
        )
    if "" in names or len({BACKGROUND, *names}) != len(names) + 1:
        raise BadSetting(f"class names must differ and not be {BACKGROUND!r} or empty: {', '.join(names)}.")
    return Track(name, (BACKGROUND, *names), (0, *values), ignore)


def _value_name(value: int) -> str:
    return f"#{value - COLOUR:06x}" if COLOUR <= value < 2 * COLOUR else str(value)


def _check_raters(checked: Sequence[CheckedCase], tracks: Sequence[Track], ignore: int | None) -> None:
    known = {v for track in tracks for v in track.values} | {0, ignore}
    for case in checked:
        for rater, values in case.rater_values.items():
            strange = sorted(set(values) - known)
            if strange and tracks:
                raise BadLabels(
                    f"raters must use the values of the labels, but {rater!r} has {strange[:5]} "
                    f"in case {case.id!r}. Correct the file."
                )


def _check_alike(checked: Sequence[CheckedCase]) -> None:
    for case in checked[1:]:
        first = checked[0]
        if (case.n_channels, case.geometry.ndim) != (first.n_channels, first.geometry.ndim):
            raise BadImage(
                f"all cases must have the same channels and axes, but {first.id!r} has {first.n_channels} "
                f"channels in {first.geometry.ndim}-D and {case.id!r} {case.n_channels} "
                f"in {case.geometry.ndim}-D. Put them into projects of their own."
            )


def _held_out(name: str, split: Mapping[str, str] | None) -> str:
    if not split or name in split:
        return (split or {}).get(name, "")
    if "" in split.values():
        raise BadSetting(f"a split must list every case, but {name!r} is in none of its parts. Add it.")
    return ""


def _check_groups(cases: Sequence[Case]) -> None:
    part_of: dict[str, str] = {}
    for case in cases:
        if part_of.setdefault(case.group, case.held_out) != case.held_out:
            raise BadSetting(
                f"a group must not be divided between training and held-out cases, but {case.group!r} is "
                f"(case {case.id!r}). Correct the split or the groups."
            )
