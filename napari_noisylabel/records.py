"""The frozen records that travel between the rooms. No Qt, no napari, no torch.

Labels inside the program are class indices: 0 is background, 1..K-1 the classes of a track in
the order of their source values, `IGNORE` a voxel that nobody annotated. Arrays are (*spatial) =
(Z, Y, X) or (Y, X); a region's or an event's voxels are runs in the array's C order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.arrays.labels import VoxelRuns

IGNORE = 255
"""Class index of a voxel without annotation, in every label array of the program."""

FINDINGS = "findings"
"""The tag that names the classes which an image shows; empty where it shows none."""


# ---------------------------------------------------------------- what the person brought


@dataclass(frozen=True)
class SourceFile:
    """A given file as it was when the project was made. It is never written."""

    path: Path
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Track:
    """One exclusive label map: a network has one softmax head per track.

    `values[i]` is the value of class `i` in the source files (`values[0]` is 0, background) and
    `classes[i]` its name. `ignore` is the source value of voxels without annotation.
    """

    name: str
    classes: tuple[str, ...]
    values: tuple[int, ...]
    ignore: int | None = None

    @property
    def n_classes(self) -> int:
        """K, background included."""
        return len(self.classes)


@dataclass(frozen=True)
class Case:
    """One study. `images` has one file per channel; `labels` one per track.

    `held_out` is "" for a case that may train, else the name of its part ("val", "test").
    `labels` lacks the tracks for which this case has no annotation.
    """

    id: str
    group: str
    geometry: Geometry
    images: tuple[SourceFile, ...]
    labels: Mapping[str, SourceFile]
    raters: Mapping[str, SourceFile] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    held_out: str = ""

    @property
    def findings(self) -> tuple[str, ...] | None:
        """The classes that the image shows by its tags; None where nobody has said."""
        text = self.tags.get(FINDINGS)
        return None if text is None else split_findings(text)

    def is_blank(self, track: str) -> bool:
        """True without a mask of the track, but with findings: its mask starts empty, to be drawn in review."""
        return track not in self.labels and self.findings is not None

    def is_labelled(self, track: str) -> bool:
        """True where the case has labels of the track to review: given ones, or a blank mask."""
        return track in self.labels or self.findings is not None


def split_findings(text: str) -> tuple[str, ...]:
    """The names in a tag: "polyp; ulcer" -> ("polyp", "ulcer"). Divided by ; | or a comma; "none" is nothing."""
    names = (part.strip() for part in re.split(r"[;|,]", text))
    return tuple(dict.fromkeys(name for name in names if name and name.lower() != "none"))


def found_classes(case: Case, track: Track) -> tuple[int, ...] | None:
    """Class indices of `track` that the tags of a case name, as CLASS or TRACK/CLASS; None where nobody has said."""
    names = case.findings
    if names is None:
        return None
    return tuple(k for k, c in enumerate(track.classes) if k and {c, f"{track.name}/{c}"} & set(names))


# ---------------------------------------------------------------- what a network found


class RunState(StrEnum):
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    COMPLETE = "complete"


@dataclass(frozen=True)
class Run:
    """One training: what it was asked to do, and how far it came.

    `label_version` is the number of the last event in the labels that it started from (0: the
    given labels). `settings` are those of the method, `engine` those of the engine.
    """

    id: str
    method: str
    settings: Mapping[str, Any]
    engine: Mapping[str, Any]
    seed: int
    folds: int
    epochs: int
    label_version: int
    state: RunState
    created: str
    finished: str = ""
    message: str = ""


class FilterLevel(StrEnum):
    VOXEL = "voxel"
    REGION = "region"
    CASE = "case"


@dataclass(frozen=True)
class MixtureFit:
    """A two-component Gaussian mixture of the scores of one class; component 0 is the clean one.

    `split` is False where the guards refused it; `reason` says why, in words. `means`, `sds`
    and `weights` are on the transformed score axis (see `arrays.likelihood`); scores up to
    `clean_below` are clean whatever the fit says.
    """

    means: tuple[float, float]
    sds: tuple[float, float]
    weights: tuple[float, float]
    split: bool
    reason: str
    n: float
    clean_below: float = -1e6

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MixtureFit:
        """The fit of `asdict(fit)` after a trip through JSON, which has no tuples."""
        return cls(**{**values, **{key: tuple(values[key]) for key in ("means", "sds", "weights")}})


@dataclass(frozen=True)
class Filter:
    """How a run's scores become noise likelihoods and regions. `fits[track][class index]`.

    `version` counts up per run; `threshold` is in likelihood units, [0, 1].
    """

    run: str
    version: int
    level: FilterLevel
    threshold: float
    fits: Mapping[str, tuple[MixtureFit, ...]]
    note: str = ""


class RegionState(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EDITED = "edited"
    UNSURE = "unsure"
    GONE = "gone"  # a later filter or decision took its voxels away


@dataclass(frozen=True)
class Region:
    """One decision: voxels of one case that are `from_class` now and `to_class` in the proposal.

    `start` and `stop` are the bounding box in array indices, half open. `likelihood` is the
    mean over its voxels, `score` their mean score in nats, `gain` = likelihood x voxels,
    `share_above` the share of the track's voxels of that class with a higher score.
    `votes`, of an ensemble only: per run it combines, the share of the voxels for which that run
    proposes `to_class`. A `weak` one goes back to image-level tags, or to networks that have not
    learnt the class: it is shown as such, and never accepted in bulk. `id` is 0 until the store has given it one.
    """

    id: int
    run: str
    case: str
    track: str
    from_class: int
    to_class: int
    start: tuple[int, ...]
    stop: tuple[int, ...]
    voxels: int
    volume_mm3: float
    likelihood: float
    score: float
    gain: float
    share_above: float = 0.0
    state: RegionState = RegionState.OPEN
    votes: tuple[float, ...] = ()
    weak: bool = False

    @property
    def for_it(self) -> int:
        """Runs of an ensemble that propose the same for most of the voxels."""
        return sum(share > 0.5 for share in self.votes)

    @property
    def ml(self) -> float:
        """Volume in millilitres."""
        return self.volume_mm3 / 1000.0

    @property
    def center(self) -> tuple[int, ...]:
        """The middle of the bounding box, in array indices."""
        return tuple((a + b - 1) // 2 for a, b in zip(self.start, self.stop, strict=True))


# ---------------------------------------------------------------- what a person decided


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EDITED = "edited"
    VERIFIED = "verified"  # a whole case of a track is right
    UNSURE = "unsure"  # changes nothing, verifies nothing
    UNDONE = "undone"
    REDONE = "redone"


@dataclass(frozen=True)
class Event:
    """One line of the append-only log.

    `runs` are the voxels decided on with their class before and after; the two are equal where
    the label stood. UNDONE and REDONE carry the voxels of the event they act on (`target`), with
    before and after exchanged or not, so that replaying all events in order gives the labels.
    `number` is 0 until the store has given it one.
    """

    number: int
    time: str
    by: str
    verdict: Verdict
    case: str
    track: str
    runs: VoxelRuns
    run: str = ""
    region: int = 0
    target: int = 0
    note: str = ""


# ---------------------------------------------------------------- what a worker reports


@dataclass(frozen=True)
class Report:
    """One line of `events.jsonl`. `kind` says which of the fields mean something.

    kinds: "start", "step" (throttled), "epoch", "phase" (score, propose), "done", "stopped",
    "failed". `done` and `total` are steps of the whole run; `left_s` an estimate in seconds.
    `losses` are means over the epoch, in nats; `dice` per "TRACK/CLASS" of the fold's unseen
    cases against the labels the run trains on. `inner` is the method's own state for display, as
    `napari_noisylabel.inner` stores it.
    """

    run: str
    kind: str
    fold: int = 0
    epoch: int = 0
    epochs: int = 0
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    left_s: float | None = None
    stage: str = ""
    message: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)
    dice: Mapping[str, float | None] = field(default_factory=dict)
    inner: Sequence[Mapping[str, Any]] = ()


# ---------------------------------------------------------------- what the window shows


@dataclass(frozen=True, eq=False)
class CaseView:
    """Everything the window shows of one case. Arrays are in the file's order, never resampled.

    `given`, `decided` and `corrected` are class indices per track. `decided` is what the log says
    as of event `label_version`, `corrected` the same with brush strokes that are no decision yet;
    both are this view's own and writable, the others are read-only. `likelihood` is uint8 (255 =
    surely wrong) and absent without a run. `proposal` likewise holds class indices per track, and
    `activation` (uint8) where a classifier that only knows tags sees a finding.
    """

    case: Case
    images: tuple[np.ndarray, ...]
    given: Mapping[str, np.ndarray]
    corrected: Mapping[str, np.ndarray]
    likelihood: Mapping[str, np.ndarray] = field(default_factory=dict)
    proposal: Mapping[str, np.ndarray] = field(default_factory=dict)
    decided: Mapping[str, np.ndarray] = field(default_factory=dict)
    label_version: int = 0
    note: str = ""
    activation: Mapping[str, np.ndarray] = field(default_factory=dict)
