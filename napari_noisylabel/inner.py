"""What a method shows of itself while it trains, in types that windows and reports can draw.

A method gives a list of these after each epoch; they are stored as JSON in the run's journal and
read back by whoever draws them, without knowing the method. Maps of single cases are no part of
it: they are stored beside the scores (`Method.maps`).

    stored = to_json([Curve("beta", {"beta": 0.5}), ...])
    shown = from_json(stored)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from napari_noisylabel.errors import UnreadableFile
from napari_noisylabel.records import MixtureFit


@dataclass(frozen=True)
class Curve:
    """One value per series and epoch; the epochs make the curve. None where nothing was measured."""

    name: str
    values: Mapping[str, float | None]
    unit: str = ""


@dataclass(frozen=True)
class Matrix:
    """A table of numbers with named rows and columns, such as a transition matrix.

    `spread` has the standard error of each value, in the same shape; empty where none was measured.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    spread: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Mixtures:
    """A histogram of scores per series with the mixture that was fitted to it.

    `counts[series]` are over equal bins from `low` to `high`; `fits` may lack a series.
    """

    name: str
    low: float
    high: float
    counts: Mapping[str, tuple[int, ...]]
    fits: Mapping[str, MixtureFit] = field(default_factory=dict)
    threshold: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Fit:
    """Points that were measured, the curve fitted to them, and where it triggered something.

    `x` and `y` are what was measured, `fitted` the curve at the same places (empty without a fit),
    `mark` the place on x that the fit decided (None: not yet), `note` why in words.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    fitted: tuple[float, ...] = ()
    mark: float | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Note:
    """One sentence that a person should read, such as why nothing was corrected."""

    name: str
    text: str


InnerState = Curve | Matrix | Mixtures | Fit | Note
_KINDS: Mapping[str, type[Any]] = {t.__name__.lower(): t for t in (Curve, Matrix, Mixtures, Fit, Note)}


def to_json(items: Sequence[InnerState]) -> list[dict[str, Any]]:
    """Plain JSON values, each with its "kind"."""
    return [{"kind": type(item).__name__.lower(), **asdict(item)} for item in items]


def from_json(stored: Sequence[Mapping[str, Any]]) -> list[InnerState]:
    """What `to_json` stored. Kinds that this version does not know are left out. Raises UnreadableFile."""
    found: list[InnerState] = []
    for item in stored:
        values = dict(item)
        kind = _KINDS.get(values.pop("kind", ""))
        if kind is None:
            continue
        try:
            found.append(kind(**{name: _restored(name, value) for name, value in values.items()}))
        except TypeError as error:
            raise UnreadableFile(f"an inner state of kind {item['kind']!r} lacks what it needs: {error}.") from None
    return found


def _restored(name: str, value: Any) -> Any:
    """Lists become tuples again, fits become records."""
    if name == "fits":
        return {series: MixtureFit.from_json(fit) for series, fit in value.items()}
    if isinstance(value, list):
        return tuple(_restored("", v) for v in value)
    if isinstance(value, dict):
        return {k: _restored("", v) for k, v in value.items()}
    return value
