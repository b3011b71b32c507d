"""A benchmark in one TOML file: which data sets, what noise, which methods, seeds and budget.

    root = "data"                                  # `docs/bench.md` says what each key means
    seeds = [0, 1, 2]
    methods = ["cross-entropy", {name = "self-cleansing", settings = {preset = "paper"}}]

    [budget]
    epochs = 10

    [[sets]]
    name = "hippocampus"
    data = "samples"
    noise = [{name = "clean"}, {name = "markov", share = 0.4, settings = {theta1 = 0.8}}]

All names, settings and folders are checked before anything is trained.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from napari_noisylabel.arrays.noise import PUBLISHED, check_name, corrupt
from napari_noisylabel.engine.filter import FilterRequest
from napari_noisylabel.engine.settings import check_engine
from napari_noisylabel.errors import BadSetting, InputError, UnreadableFile
from napari_noisylabel.io.files import reading
from napari_noisylabel.methods import is_weak, method_info, methods
from napari_noisylabel.samples import hippocampus_folder
from napari_noisylabel.study.corrupt import DEFAULT_SEVERITY, FOLDER_SETTINGS

BASELINE = "cross-entropy"
CLEAN = "clean"
SAMPLES = "samples"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Noise(_Part):
    """What is wrong with the labels: a noise model, nothing ("clean"), or a folder drawn by somebody else."""

    name: str = ""
    given: str = Field("", description="Folder of given labels instead of a noise model")
    severity: float | None = Field(None, ge=0, le=1)
    share: float = Field(1.0, ge=0, le=1, description="Of the training cases that is spoiled")
    settings: dict[str, Any] = Field(default_factory=dict, description="Arguments of `corrupt`")
    label: str = Field("", description="Name in the table")

    @model_validator(mode="after")
    def _one_source(self) -> Noise:
        if bool(self.name) == bool(self.given):
            raise ValueError("noise has either a name or a folder in given")
        if not self.is_made and (self.severity is not None or self.settings or self.share != 1.0):
            raise ValueError(f"{self.name or 'given labels'} takes no severity, share or settings")
        return self

    @property
    def is_made(self) -> bool:
        """True where labels are spoiled by a noise model."""
        return not self.given and self.name != CLEAN

    @property
    def strength(self) -> float | None:
        """The severity that `corrupt` is called with; None for a published setting, and where nothing is spoiled."""
        if not self.is_made or self.name in PUBLISHED or self.severity is not None:
            return self.severity
        return DEFAULT_SEVERITY

    @property
    def shown(self) -> str:
        """The name in the table: the label, or name and settings."""
        values = " ".join(f"{key}={_shown(value)}" for key, value in self.settings.items())
        return self.label or f"{self.name or self.given} {values}".strip()

    def check(self) -> None:
        """Refuse what `corrupt` would refuse. Raises UnknownName, BadSetting."""
        if not self.is_made:
            return
        check_name(self.name)
        own = {key: value for key, value in self.settings.items() if key not in FOLDER_SETTINGS}
        nothing, image = np.zeros((2, 2), np.uint8), np.zeros((1, 2, 2), np.float32)
        corrupt(nothing, self.name, self.strength, np.random.default_rng(0), image=image, **own)


class DataSet(_Part):
    """Images with true labels. Paths are relative to `data`, which is a folder below the protocol's root."""

    name: str = Field(min_length=1)
    data: str = Field(min_length=1, description="Folder below root, or samples")
    images: str = "images"
    labels: str = Field("labels", description="Folder of the true labels")
    split: str = Field("", description="JSON file; val and test cases are held out")
    held_out: tuple[str, ...] = Field((), description="Cases that are held out, instead of a split")
    groups: str = Field("", description="CSV file or regular expression: which person a case is of")
    cases: int = Field(0, ge=0, description="Only the first training cases by name; 0: all")
    ignore: int | None = None
    noise: tuple[Noise, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> DataSet:
        _require_distinct([noise_key(n) for n in self.noise], "noise")
        if self.split and self.held_out:
            raise ValueError("cases are held out by split or by held_out, not by both")
        return self


class MethodChoice(_Part):
    """A method with settings; `label` is its name in the table. One that learns from tags is marked there."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    label: str = ""

    @property
    def shown(self) -> str:
        values = " ".join(f"{key}={_shown(value)}" for key, value in self.settings.items())
        name = self.label or f"{self.name} {values}".strip()
        return f"{name} (tags only)" if is_weak(self.name) else name


class Budget(_Part):
    """What each training may cost; the same for all."""

    epochs: int = Field(0, ge=0, description="0: by the size of the data")
    folds: int = Field(2, ge=2)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    engine: dict[str, Any] = Field(default_factory=dict)


class FilterChoice(_Part):
    """How scores become regions; by default as the program does it."""

    level: str = "case"
    threshold: float = 0.0

    @property
    def is_default(self) -> bool:
        return self == FilterChoice()


class Protocol(_Part):
    """A benchmark. `folder` is where its file lies."""

    folder: Path = Field(Path("."), exclude=True)
    title: str = ""
    root: str = ""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    methods: tuple[MethodChoice, ...] = Field(min_length=1)
    verified: int = Field(0, ge=0, description="First training cases that get their true labels before training")
    cleanlab: bool = Field(True, description="Also score cross-entropy's out-of-fold probabilities with cleanlab")
    budget: Budget = Budget()
    filter: FilterChoice = FilterChoice()
    sets: tuple[DataSet, ...] = Field(min_length=1)

    @field_validator("methods", mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        if value == "all":  # those that learn from tags alone are no rivals of those that learn from masks
            value = [name for name, info in methods().items() if not info.weak]
        if not isinstance(value, list | tuple):
            raise ValueError('methods are "all" or a list of names')
        return [{"name": item} if isinstance(item, str) else item for item in value]

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        _require_distinct(self.seeds, "seeds")
        _require_distinct([m.shown for m in self.methods], "methods")
        _require_distinct([s.name for s in self.sets], "sets")
        if min(self.seeds) < 0:
            raise ValueError("a seed is 0 or more")
        return self

    @property
    def baseline(self) -> MethodChoice | None:
        """The first cross-entropy among the methods."""
        return next((m for m in self.methods if m.name == BASELINE), None)

    def place(self, data: DataSet) -> Path:
        """The folder of a data set."""
        return hippocampus_folder() if data.data == SAMPLES else self.folder / self.root / data.data

    def groups_of(self, data: DataSet) -> str | Path:
        """The regular expression, or the CSV file: in the data set's folder or beside the protocol."""
        if not data.groups.lower().endswith(".csv"):
            return data.groups
        own = self.place(data) / data.groups
        return own if own.exists() else self.folder / data.groups


def read_protocol(path: Path | str, data: Path | str | None = None) -> Protocol:
    """The protocol in a TOML file, all names, settings and folders checked.

    `data` is a folder that replaces `root`.

    Raises
    ------
    UnreadableFile : no such file, no TOML, a folder or file that a data set names is not there.
    BadSetting, UnknownName : a key, method, noise model or setting that cannot be; the sentence says where.
    """
    path = Path(path)
    with reading(path, "TOML"):
        text = path.read_text("utf-8")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UnreadableFile(f"a protocol must be TOML, and {path} is not: {error}. Correct it.") from error
    if data is not None:
        values["root"] = str(Path(data).absolute())
    try:
        protocol = Protocol(**{**values, "folder": path.absolute().parent})
    except ValidationError as error:
        raise BadSetting(_sentence(error, path)) from None
    _check(protocol, path)
    return protocol


def noise_key(noise: Noise) -> tuple[str, float, float | None]:
    """What tells one noise from another in the table."""
    return noise.shown, noise.share, noise.strength


# ---------------------------------------------------------------- helpers, in order of use


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _require_distinct(values: Iterable[Any], what: str) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            name = value[0] if isinstance(value, tuple) else value
            raise ValueError(f"{what} must differ, and {name!r} comes twice; give one of them another label")
        seen.add(value)


def _sentence(error: ValidationError, path: Path) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the protocol"
    if first["type"] == "extra_forbidden":
        model: Any = Protocol
        for part in first["loc"][:-1]:
            model = _MODELS.get(str(part), model)
        return f"there is no key {where!r} in a protocol, see {path}: the keys there are {', '.join(_keys(model))}."
    if first["type"] == "missing":
        return f"a protocol needs the key {where!r}, and {path} lacks it. Add it."
    message = first["msg"].removeprefix("Value error, ")
    got = "" if isinstance(first.get("input"), dict | BaseModel) else f", got {first.get('input')!r}"
    return f"{where} in {path} is not usable: {message[0].lower()}{message[1:]}{got}. Correct it."


_MODELS = {"sets": DataSet, "noise": Noise, "methods": MethodChoice, "budget": Budget, "filter": FilterChoice}


def _keys(model: Any) -> Sequence[str]:
    return [name for name in model.model_fields if name != "folder"]


def _check(protocol: Protocol, path: Path) -> None:
    """Everything that could only fail later, with the place it stands at."""
    for choice in protocol.methods:
        _placed(f"methods of {path}", lambda own=choice: method_info(own.name).check(own.settings))
    _placed(f"budget of {path}", lambda: check_engine(protocol.budget.engine))
    wanted = FilterRequest("", protocol.filter.level, protocol.filter.threshold)
    _placed(f"filter of {path}", wanted.checked)
    for data in protocol.sets:
        for noise in data.noise:
            _placed(f"set {data.name!r} of {path}", noise.check)
        _check_files(protocol, data)


def _placed(where: str, check: Any) -> None:
    try:
        check()
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error


def _check_files(protocol: Protocol, data: DataSet) -> None:
    place = protocol.place(data)
    folders = [data.images, data.labels, *(n.given for n in data.noise if n.given)]
    missing = [place / f for f in folders if not (place / f).is_dir()]
    if data.split and not (place / data.split).is_file():
        missing.append(place / data.split)
    groups = protocol.groups_of(data)
    if isinstance(groups, Path) and not groups.is_file():
        missing.append(groups)
    if missing:
        raise UnreadableFile(
            f"set {data.name!r} needs {missing[0]}, which is not there. Correct the protocol, or give the "
            "folder of the data sets with --data DIR."
        )


def described(model: BaseModel) -> Mapping[str, Any]:
    """What a part of a protocol says, ready for JSON, without its names in the table."""
    return model.model_dump(mode="json", exclude={"label"})
