"""Which files belong together: images, their labels per track, and further raters, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from napari_noisylabel.errors import NoPairs, UnpairedFiles
from napari_noisylabel.io.files import list_folder
from napari_noisylabel.io.volumes import KNOWN_EXTENSIONS, case_id, is_known

CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's channel suffix
MOST_CHANNELS = 8  # numbered frames without labels are not taken for channels of one case


@dataclass(frozen=True)
class FoundCase:
    """The files of one case, not opened yet. `images` has one path per channel."""

    id: str
    images: tuple[Path, ...]
    labels: Mapping[str, Path] = field(default_factory=dict)
    raters: Mapping[str, Path] = field(default_factory=dict)


def find_cases(
    images: Path | str,
    labels: Mapping[str, Path | str],
    raters: Mapping[str, Path | str] | None = None,
    *,
    unlabelled: bool = False,
) -> list[FoundCase]:
    """The cases of an image folder, sorted by id.

    Parameters
    ----------
    images : folder; a case's id is the file name minus its known extension and, where labels are
        named without it, minus nnU-Net's `_0000`.
    labels, raters : one folder per track and per further rater.
    unlabelled : True lets images without any label pass.

    Raises
    ------
    NoPairs : no image at all, or not one image with a label.
    UnpairedFiles : a label without image, an image without label, two files for one id, a missing channel.
    UnreadableFile : a folder is not there or may not be read.
    """
    label_files = {track: _files_by_id(Path(folder)) for track, folder in labels.items()}
    rater_files = {name: _files_by_id(Path(folder)) for name, folder in (raters or {}).items()}
    named = set().union(*label_files.values(), *rater_files.values())
    image_files = _channels_by_id(Path(images), named)
    _check_pairs(Path(images), set(image_files), label_files, rater_files, unlabelled)
    return [
        FoundCase(
            id=name,
            images=paths,
            labels={track: files[name] for track, files in label_files.items() if name in files},
            raters={rater: files[name] for rater, files in rater_files.items() if name in files},
        )
        for name, paths in sorted(image_files.items())
    ]


def _files_by_id(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_folder(folder):
        if not is_known(path):
            continue
        name = case_id(path)
        if name in found:
            raise UnpairedFiles(
                f"a case must have one file per folder, but {folder} holds {found[name].name} and "
                f"{path.name} for {name!r}. Remove one."
            )
        found[name] = path
    return found


def _channels_by_id(folder: Path, named: set[str]) -> dict[str, tuple[Path, ...]]:
    files = _files_by_id(folder)
    joined = _join(files.keys(), named)
    cases: dict[str, dict[str, Path]] = {}
    for stem, path in files.items():
        match = CHANNEL.fullmatch(stem) if stem in joined else None
        name, channel = match.groups() if match else (stem, "")
        cases.setdefault(name, {})[channel] = path
    channels = set().union(*cases.values())
    for name, of_case in cases.items():
        missing = sorted(channels - set(of_case))
        if missing:
            what = f"channel {', '.join(missing)}" if missing[0] else "the image without channel number"
            raise UnpairedFiles(
                f"all cases must have the same channels, but case {name!r} lacks {what} in {folder}. "
                "Add the file, or take the case out."
            )
    return {name: tuple(path for _, path in sorted(of_case.items())) for name, of_case in cases.items()}


def _join(stems: Iterable[str], named: set[str]) -> set[str]:
    """The stems whose last four digits are a channel number.

    `scan_0001` is a case where a label is called so; a channel of `scan` where a label is called that.
    Images that no label speaks of follow the others of the folder.
    """
    numbered = {s: m.groups() for s in stems if (m := CHANNEL.fullmatch(s)) and s not in named}
    by_label = {s for s, (name, _) in numbered.items() if name in named}
    if by_label:
        return set(numbered)
    if named & set(stems) or len(numbered) < len(set(stems)):
        return set()
    cases: dict[str, set[int]] = {}
    for name, number in numbered.values():
        cases.setdefault(name, set()).add(int(number))
    sets = {frozenset(numbers) for numbers in cases.values()}
    whole = len(sets) == 1 and sets <= {frozenset(range(n)) for n in range(1, MOST_CHANNELS + 1)}
    return set(numbered) if whole and not named else set()


def _check_pairs(
    folder: Path,
    images: set[str],
    labels: Mapping[str, Mapping[str, Path]],
    raters: Mapping[str, Mapping[str, Path]],
    unlabelled: bool,
) -> None:
    if not images:
        raise NoPairs(
            f"no image found in {folder}: none of its files ends in {', '.join(sorted(KNOWN_EXTENSIONS))}. "
            "Give the folder that holds the images."
        )
    labelled = set().union(*labels.values()) if labels else set()
    if not labelled & images and not unlabelled:
        example = f" (image {min(images)!r}, label {min(labelled)!r})" if labelled else ""
        raise NoPairs(
            f"an image and its label must have the same name, and not one of the {len(images)} images "
            f"in {folder} has a label{example}. Rename the files, or give the folder that holds their labels."
        )
    for kind, folders in (("label", labels), ("rater", raters)):
        for name, files in folders.items():
            alone = set(files) - images
            if alone:
                raise UnpairedFiles(
                    f"labels must have an image of the same name, but of {kind} {name!r} {_some(alone)} "
                    "have none. Add the images, or remove these files."
                )
    if images - labelled and not unlabelled:
        raise UnpairedFiles(
            f"images must have a label of the same name, but {_some(images - labelled)} have none. "
            "Add the labels, or allow unlabelled images (--unlabelled)."
        )


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
