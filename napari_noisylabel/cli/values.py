"""Values that come as text: KEY=VALUE, NAME=DIR, lists of names; and opening a project."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import typer

from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.engine.watch import worker_is_alive
from napari_noisylabel.errors import BadSetting, ProjectLocked, ReadOnlyProject, UnknownName
from napari_noisylabel.methods import method_info
from napari_noisylabel.records import RunState
from napari_noisylabel.workbench import Workbench

PROJECT = typer.Argument(..., help="Folder of the project", show_default=False)
JSON = typer.Option(False, "--json", help="Print one JSON document on standard output")
BY = typer.Option("", "--by", metavar="NAME", help="Who decides; by default the login name", show_default=False)
TRACK = typer.Option("", "--track", metavar="NAME", help="One track; by default all", show_default=False)
RUN = typer.Option(None, "--run", metavar="RUN", help="A run; by default the latest complete one", show_default=False)
Word = TypeVar("Word", bound=StrEnum)

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="A setting; may come several times", show_default=False)


@contextmanager
def reading(project: Path) -> Iterator[Workbench]:
    """The project, open for reading. Runs that ended unwatched are taken in first, if one may write."""
    workbench = Workbench()
    try:
        workbench.open(project, read_only=True)
        if _has_unwatched_runs(workbench):
            try:
                workbench.open(project)
            except (ProjectLocked, ReadOnlyProject):
                workbench.open(project, read_only=True)
        yield workbench
    finally:
        workbench.close()


@contextmanager
def writing(project: Path, by: str = "") -> Iterator[Workbench]:
    """The project, open for writing: nobody else writes to it meanwhile."""
    workbench = Workbench()
    try:
        workbench.open(project, by=by)
        yield workbench
    finally:
        workbench.close()


def key_values(texts: Sequence[str], option: str) -> dict[str, str]:
    """`["a=1", "b=x"]` as a dictionary. Raises BadSetting."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key or not value:
            raise BadSetting(f"{option} takes NAME=VALUE, got {text!r}. Write it with an equals sign.")
        if key in found:
            raise BadSetting(f"{option} names {key!r} twice. Give one value.")
        found[key] = value.strip()
    return found


def split_settings(method: str, texts: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What `--set` says to the method, and what to the engine. Raises BadSetting, UnknownName."""
    known, engine = method_info(method).settings.model_fields, EngineSettings.model_fields
    values = key_values(texts, "--set")
    strange = [key for key in values if key not in known and key not in engine]
    if strange:
        raise BadSetting(
            f"there is no setting {strange[0]!r}: method {method} has {', '.join(known)}; "
            f"the engine has {', '.join(engine)}."
        )
    of_method = {k: v for k, v in values.items() if k in known}
    return of_method, {k: v for k, v in values.items() if k not in known}


def plain_value(text: str) -> Any:
    """A number, True, False or None where `text` spells one, else the text."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        parsed = _parsed(text, kind)
        if parsed is not None:
            return parsed
    return text


def class_names(texts: Sequence[str]) -> list[str] | dict[str, list[str]]:
    """`NAME,NAME` for all tracks, or `TRACK=NAME,NAME` per track."""
    if not any("=" in text for text in texts):
        return [name.strip() for text in texts for name in text.split(",")]
    return {track: [n.strip() for n in names.split(",")] for track, names in key_values(texts, "--classes").items()}


def words(texts: Sequence[str], known: type[Word], option: str) -> list[Word]:
    """`WORD,WORD`, or the option several times, as members of `known`. Raises UnknownName."""
    said = [word.strip().lower() for text in texts for word in text.split(",")]
    for word in said:
        if word not in list(known):
            raise UnknownName(
                f"{option} takes {', '.join(known)}, got {word!r}. `noisylabel methods` says what they stand for."
            )
    return [known(word) for word in dict.fromkeys(said)]


def _parsed(text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


def _has_unwatched_runs(workbench: Workbench) -> bool:
    store = workbench.store
    running = [run for run in store.runs() if run.state == RunState.RUNNING]
    return any(not worker_is_alive(store.run_folder(run.id)) for run in running)
