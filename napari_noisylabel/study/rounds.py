"""Rounds of relabelling under a budget: ask about some regions, train again on what was answered, ask again.

The active part of Khanal et al., MICCAI 2024, on the review queue: candidates are the regions of the latest run, a
sampler orders them, an oracle who knows the truth decides on as many as the budget buys, and the next run trains on
the labels as they are then. Nothing else of the truth reaches a training (the authors' code corrects more than was
bought: see docs/methods/active-refinement.md).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_noisylabel.arrays.labels import VoxelRuns, encode_indices
from napari_noisylabel.arrays.metrics import dice_per_class
from napari_noisylabel.decisions import decide
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.errors import BadSetting, NothingToDo
from napari_noisylabel.records import IGNORE, Event, Region, RegionState, Run, Track, Verdict
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.copies import copy_project
from napari_noisylabel.store.events import now
from napari_noisylabel.study.evaluate import mean_or_none, means_per_class
from napari_noisylabel.study.samplers import order_regions, require_order
from napari_noisylabel.study.simulate import DecidedLabels
from napari_noisylabel.study.training import Hear, watch_to_the_end
from napari_noisylabel.study.truth import choose_run, choose_tracks, find_truth
from napari_noisylabel.workbench import Workbench

ORACLES = ("verdict", "redraw")
BY = "oracle"
ENOUGH = 1.5
"""A hit rate under so many times the rate of wrong voxels says that asking on finds little more than chance."""


@dataclass(frozen=True)
class Plan:
    """What is asked, and what trains on the answers.

    `budget` is in regions per round; with `opening`, the first region of each case in a round costs so
    much more. The oracle accepts or rejects ("verdict"), or draws the region as it truly is ("redraw").
    """

    rounds: int = 3
    budget: int = 20
    order: str = "gain"
    oracle: str = "verdict"
    opening: float = 0.0
    method: str = "active-refinement"
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    folds: int = 2
    seed: int = 0
    device: str = "auto"

    def check(self) -> None:
        """Raises BadSetting, UnknownName."""
        require_order(self.order)
        if self.rounds < 1:
            raise BadSetting(f"there is at least one round, got {self.rounds}. Give --rounds 1 or more.")
        if self.budget < 1 + self.opening:
            raise BadSetting(
                f"a round's budget pays for at least one region ({1 + self.opening:g}), got {self.budget}: nothing "
                "could be asked. Give a larger --budget."
            )
        if self.oracle not in ORACLES:
            raise BadSetting(f"an oracle is {' or '.join(ORACLES)}, got {self.oracle!r}. Choose one of them.")
        if self.opening < 0:
            raise BadSetting(f"opening a case costs 0 or more, got {self.opening:g}. Give another cost.")


def simulate_rounds(
    store: ProjectStore, truth: Path | str, plan: Plan, *, run: str | None = None, track: str | None = None,
    hear: Hear = lambda report: None,
) -> dict[str, Any]:  # fmt: skip
    """Rounds of asking and training, on a copy of the project that is removed at the end; nothing is written in it.

    The first round asks about the regions of `run` (the latest complete one; a run is trained where there is none),
    each later one about those of a run on the labels that the rounds before left. Earlier decisions are there, too.

    Parameters
    ----------
    truth, track : as in `evaluate`. Cases without truth are not asked about.
    hear : gets every report of the trainings.

    Returns
    -------
    `{"order", "method", "oracle", "start", "end", "curve", "rounds", "changes", "note"}`: `curve[i]` is the mean Dice
    of the labels after i regions; a round has what it asked and found (`run`, `queue`, `asked`, `changed`,
    `unsure`, `hit_rate`, `voxels`, `cost`, `share_of_queue`, `dice`, `wrong_share`, `hits` per class,
    `proposal` and `held_out`: Dice of the networks that it started from); `changes[TRACK][from][to]` counts regions.

    Raises
    ------
    BadSetting : the plan, a budget of 0 for instance. NothingToDo : no region to ask about, or
    the oracle decides on none. RunFailed : a training. What `evaluate` raises of the truth.
    """
    plan.check()
    tracks = choose_tracks(store, track)
    chosen = choose_run(store, run)
    with tempfile.TemporaryDirectory(prefix="noisylabel-rounds-", ignore_cleanup_errors=True) as aside:
        folder = copy_project(store, Path(aside) / "project", [] if chosen is None else [chosen.id])
        workbench = Workbench()
        try:
            workbench.open(folder, by=BY)
            current = workbench.store.run(chosen.id) if chosen is not None else _train(workbench, plan, hear)
            return _Rounds(workbench, Path(truth), tracks, plan, hear).go(current)
        finally:
            workbench.close()


def affordable(regions: Sequence[Region], budget: float, opening: float = 0.0) -> tuple[list[Region], float]:
    """The first regions that a budget pays for, and what they cost: 1 each, and `opening` once per case.

    A region that is too dear ends it: the order is that of a queue.
    """
    taken: list[Region] = []
    cost, opened = 0.0, set()
    for region in regions:
        price = 1 + (opening if region.case not in opened else 0)
        if cost + price > budget + 1e-9:
            break
        taken.append(region)
        cost += price
        opened.add(region.case)
    return taken, cost


# ---------------------------------------------------------------- the rounds


class _Rounds:
    """The labels as the oracle leaves them, and the record of what it cost."""

    def __init__(self, workbench: Workbench, truth: Path, tracks: tuple[Track, ...], plan: Plan, hear: Hear) -> None:
        self.workbench, self.store = workbench, workbench.store
        self.truth, self.tracks, self.plan, self.hear = truth, tracks, plan, hear
        self.table = DecidedLabels(self.store, truth, tracks)
        self.curve = [self.table.dice_mean()]
        self.rounds: list[dict[str, Any]] = []
        self.changes = {t.name: np.zeros((t.n_classes, t.n_classes), int) for t in tracks}
        self.cost = 0.0

    def go(self, run: Run) -> dict[str, Any]:
        base, note = self.table.wrong_share(), ""
        for number in range(self.plan.rounds):
            if number:
                run = _train(self.workbench, self.plan, self.hear)
            open_ = self.store.regions(run=run.id, states=[RegionState.OPEN])
            candidates = [r for r in open_ if self.table.knows(r)]
            if not candidates:
                if not number:
                    raise NothingToDo(
                        f"run {run.id} has no open region of a case with truth: there is nothing to ask about. "
                        "Filter again with a lower threshold."
                    )
                note = f"after round {number} no region was left to ask about"
                break
            self.rounds.append(self._ask(run, number, candidates))
            if self.rounds[-1]["hit_rate"] < ENOUGH * base and not note:
                note = f"in round {number + 1} the oracle changed hardly more than chance finds: asking on may not pay"
        return {
            "order": self.plan.order, "method": self.plan.method, "oracle": self.plan.oracle,
            "start": self.curve[0], "end": self.curve[-1], "curve": self.curve, "rounds": self.rounds,
            "changes": {name: counts.tolist() for name, counts in self.changes.items()}, "note": note,
        }  # fmt: skip

    def _ask(self, run: Run, number: int, candidates: Sequence[Region]) -> dict[str, Any]:
        """One round: order, buy, decide, write down."""
        queue = order_regions(self.store, run, candidates, self.plan.order, self.plan.seed + number)
        bought, cost = affordable(queue, self.plan.budget, self.plan.opening)
        events = [self._answer(region) for region in bought]
        unsure = sum(e.verdict is Verdict.UNSURE for e in events)
        if unsure == len(bought):
            raise NothingToDo(
                f"the oracle decided on none of the {len(bought)} regions of round {number + 1}, so another training "
                "would see the same labels: the truth has no annotation there. Give truth for these cases."
            )
        self.store.append_all(events)
        self.cost += cost
        changed = [r for r, e in zip(bought, events, strict=True) if _changes(e)]
        voxels = sum(int(_changed_voxels(e).sum()) for e in events)
        return {
            "round": number + 1, "run": run.id, "queue": len(candidates), "asked": len(bought),
            "changed": len(changed), "unsure": unsure, "hit_rate": len(changed) / len(bought), "voxels": voxels,
            "cost": self.cost, "share_of_queue": len(bought) / len(candidates), "dice": self.curve[-1],
            "wrong_share": self.table.wrong_share(), "hits": self._per_class(bought, changed),
            **self._networks(run),
        }  # fmt: skip

    def _answer(self, region: Region) -> Event:
        """The oracle's event on one region; it has looked at the truth of these voxels, and of no others."""
        where, true = self.table.look(region)
        if not where.size:
            self.curve.append(self.curve[-1])
            return decide(self.store, region, Verdict.UNSURE, BY)
        if self.plan.oracle == "redraw":
            event = _redrawn(region, where, true)
            self.table.paint(region, where, true)
        else:
            accepted = self.table.decide(region)
            event = decide(self.store, region, Verdict.ACCEPTED if accepted else Verdict.REJECTED, BY)
        if _changes(event):
            for cls, n in zip(*np.unique(event.runs.after, return_counts=True), strict=True):
                if n and cls != region.from_class:
                    self.changes[region.track][region.from_class, int(cls)] += 1
        self.curve.append(self.table.dice_mean())
        return event

    def _per_class(self, bought: Sequence[Region], changed: Sequence[Region]) -> dict[str, list[int]]:
        """Per "TRACK/CLASS" given: how many regions were changed, and how many asked about."""
        found = {}
        for track in self.tracks:
            for k, name in enumerate(track.classes):
                asked = [r for r in bought if (r.track, r.from_class) == (track.name, k)]
                if asked:
                    hits = sum(r in changed for r in asked)
                    found[f"{track.name}/{name}"] = [hits, len(asked)]
        return found

    def _networks(self, run: Run) -> dict[str, float | None]:
        """Mean Dice of the run's proposals: out of fold, and of held-out cases."""
        files, found = find_truth(self.store, self.truth, self.tracks), {}
        for name, part in (("proposal", files.training), ("held_out", files.held_out)):
            figures: dict[str, float | None] = {}
            for track in self.tracks:
                rows = []
                for case, true in part(track):
                    own = CaseScores(self.store.run_folder(run.id), case.id).read(f"{track.name}.proposal")
                    if own is not None:
                        rows.append(dice_per_class(np.where(true == IGNORE, IGNORE, own), true, track.n_classes)[1:])
                if rows:
                    figures |= means_per_class(self.tracks, track, rows)
            found[name] = mean_or_none(figures.values()) if figures else None
        return found


# ---------------------------------------------------------------- helpers, in order of use


def _train(workbench: Workbench, plan: Plan, hear: Hear) -> Run:
    """A run on the labels of now, complete, with its regions in the project."""
    watch = workbench.retrain(
        plan.method, settings=plan.settings, engine=plan.engine, epochs=plan.epochs, folds=plan.folds, seed=plan.seed,
        device=plan.device,
    )  # fmt: skip
    return watch_to_the_end(workbench, watch, hear, "Try again.")


def _redrawn(region: Region, where: np.ndarray, true: np.ndarray) -> Event:
    runs = encode_indices(where, region.from_class, true)
    return Event(0, now(), BY, Verdict.EDITED, region.case, region.track, runs, region.run, region.id)


def _changed_voxels(event: Event) -> np.ndarray:
    """Lengths of the runs in which the event changed something."""
    runs: VoxelRuns = event.runs
    return runs.lengths[runs.before != runs.after]


def _changes(event: Event) -> bool:
    return bool(_changed_voxels(event).size)
