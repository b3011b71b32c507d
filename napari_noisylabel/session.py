"""What the reviewer is looking at: one evented object that the panels follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import numpy as np
from psygnal import SignalGroupDescriptor

from napari_noisylabel.records import Case, CaseView, Filter, Region, Report, Run, Track


class Stage(StrEnum):
    """The panel in front; the tabs follow the order of the flow."""

    PROJECT = "project"
    TRAIN = "train"
    FILTER = "filter"
    REVIEW = "review"
    EXPORT = "export"


@dataclass(frozen=True)
class Counters:
    """How far the review is: regions decided, regions left, millilitres changed."""

    seen: int = 0
    left: int = 0
    changed_ml: float = 0.0


@dataclass(frozen=True, eq=False)
class Scores:
    """Histograms of a run's scores, so that windows can filter without reading maps.

    `counts[track]` is (K, n_bins), training cases only, verified voxels left out; `edges` are
    (n_bins + 1,) in nats; `likelihood_counts[track]` is (256,): voxels that a proposal would
    change, per uint8 likelihood of the current filter. `excess[track]` is (N, K): how far each
    training case's objects are from the networks, over 1 is bad (`arrays.likelihood.excess`).
    """

    edges: np.ndarray
    counts: dict[str, np.ndarray]
    likelihood_counts: dict[str, np.ndarray] = field(default_factory=dict)
    excess: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class ReviewSession:
    """What the reviewer has open. Plain state: no Qt, no napari, no torch.

    Tuples are replaced, never appended to, so that every change is an event:
    `session.events.queue.connect(show)` or `session.events.connect(show_anything)`.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    stage: Stage = Stage.PROJECT
    project: Path | None = None
    name: str = ""
    read_only: bool = False
    by: str = ""
    tracks: tuple[Track, ...] = ()
    cases: tuple[Case, ...] = ()
    runs: tuple[Run, ...] = ()
    run: Run | None = None
    filter: Filter | None = None
    scores: Scores | None = None
    queue: tuple[Region, ...] = ()
    cursor: int = 0
    view: CaseView | None = None
    track: str = ""
    draft: bool = False
    counters: Counters = Counters()
    progress: Report | None = None
    curve: tuple[Report, ...] = ()
    notice: str = ""

    @property
    def current(self) -> Region | None:
        """The region under review, if the queue has one."""
        return self.queue[self.cursor] if 0 <= self.cursor < len(self.queue) else None

    @property
    def is_training(self) -> bool:
        """True while a worker runs."""
        return self.progress is not None and self.progress.kind not in ("done", "stopped", "failed")
