"""`project.json`: the project's name, its schema, its tracks and their classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_noisylabel.errors import BadSetting, NotAProject, UnreadableFile
from napari_noisylabel.records import Track
from napari_noisylabel.store.files import plain_name, read_json, write_json
from napari_noisylabel.store.schema import newest, refuse_newer

MANIFEST_FILE = "project.json"
DATABASE_FILE = "project.sqlite"


@dataclass(frozen=True)
class Manifest:
    """What `project.json` says; `schema` is that of the file, 0 for one that is not written yet."""

    name: str
    tracks: tuple[Track, ...]
    schema: int = 0


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `project.json`, unless it says the same already.

    Raises
    ------
    BadSetting : track names that are not plain or come twice.
    """
    names = [plain_name(track.name, "a track's name") for track in manifest.tracks]
    if len(set(names)) < len(names) or not names:
        raise BadSetting(f"a project needs one track or more, with names that differ; got {names}.")
    if manifest.schema != newest():
        tracks = [asdict(track) for track in manifest.tracks]
        write_json(folder / MANIFEST_FILE, {"schema": newest(), "name": manifest.name, "tracks": tracks})


def read_manifest(folder: Path) -> Manifest:
    """What `project.json` in `folder` says.

    Raises
    ------
    NotAProject : there is none, or it is damaged. NewerSchema : of a later version.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise NotAProject(f"{folder} holds no project ({MANIFEST_FILE} is missing). Make one with `noisylabel new`.")
    try:
        content = read_json(path)
        refuse_newer(int(content["schema"]), folder)
        tracks = tuple(_track(value) for value in content["tracks"])
        return Manifest(str(content["name"]), tracks, int(content["schema"]))
    except (KeyError, TypeError, ValueError, UnreadableFile) as error:
        raise NotAProject(f"{path} is damaged: {error}. Restore it from a copy.") from error


def _track(value: dict[str, Any]) -> Track:
    ignore = value["ignore"]
    return Track(
        name=plain_name(str(value["name"]), "a track's name"),
        classes=tuple(str(name) for name in value["classes"]),
        values=tuple(int(number) for number in value["values"]),
        ignore=None if ignore is None else int(ignore),
    )
