"""A workbench with a real session and tiny phantoms, that decides in memory and trains nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.geometry import Geometry
from napari_noisylabel.errors import NothingToDo
from napari_noisylabel.records import (
    Case,
    CaseView,
    Filter,
    FilterLevel,
    MixtureFit,
    Region,
    RegionState,
    Report,
    Run,
    RunState,
    SourceFile,
    Track,
    Verdict,
)
from napari_noisylabel.session import Counters, ReviewSession, Scores

SHAPE, SPACING = (12, 40, 56), (3.0, 1.0, 0.8)
TRACK = Track("labels", ("background", "anterior", "posterior"), (0, 1, 2))
STATES = {
    Verdict.ACCEPTED: RegionState.ACCEPTED,
    Verdict.REJECTED: RegionState.REJECTED,
    Verdict.EDITED: RegionState.EDITED,
    Verdict.UNSURE: RegionState.UNSURE,
}


def lps_affine(spacing=SPACING):
    """(Z, Y, X) index to RAS+ mm for an array already upright: z up, y back, x to the left."""
    z, y, x = spacing
    return ((0.0, 0.0, -x, 20.0), (0.0, -y, 0.0, 15.0), (z, 0.0, 0.0, -10.0), (0.0, 0.0, 0.0, 1.0))


def phantom(seed, shape=SHAPE):
    """Image, truth and given labels: two ellipsoids, one shrunk on a side, one with a swapped part."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    unit = [(g - s / 2) / s for g, s in zip(grid, shape, strict=True)]
    truth = np.zeros(shape, np.uint8)
    truth[unit[0] ** 2 + (unit[1] / 0.8) ** 2 + ((unit[2] + 0.14) / 0.7) ** 2 < 0.09] = 1
    truth[unit[0] ** 2 + (unit[1] / 0.8) ** 2 + ((unit[2] - 0.14) / 0.7) ** 2 < 0.09] = 2
    given = truth.copy()
    given[(truth == 1) & (unit[2] < -0.24)] = 0
    given[(truth == 2) & (unit[1] > 0.12)] = 1
    given[shape[0] // 2, 2:6, 3:8] = 2
    image = ndimage.gaussian_filter(np.array([90.0, 180.0, 240.0])[truth] + rng.normal(0, 25, shape), 0.7)
    return image.astype(np.float32), truth, given


def make_case(number, shape=SHAPE, affine=None):
    """A case on the phantom's grid."""
    source = SourceFile(Path(f"/data/labels/case-{number}.nii.gz"), 1, 1, "0")
    geometry = Geometry(shape, affine or lps_affine())
    return Case(f"case-{number}", f"p{number}", geometry, (source,), {"labels": source})


def find(case, given, truth, likelihood, first_id):
    """Regions of one case, per class pair."""
    spot = float(np.prod(case.geometry.spacing))
    for from_class in range(3):
        for to_class in range(3):
            mask = (given == from_class) & (truth == to_class)
            if from_class == to_class or not mask.any():
                continue
            parts, n = ndimage.label(mask)
            for i, box in enumerate(ndimage.find_objects(parts), 1):
                voxels = int((parts[box] == i).sum())
                p = float(likelihood[parts == i].mean() / 255)
                yield Region(
                    first_id,
                    "run-001",
                    case.id,
                    "labels",
                    from_class,
                    to_class,
                    tuple(s.start for s in box),
                    tuple(s.stop for s in box),
                    voxels,
                    voxels * spot,
                    p,
                    2.0,
                    p * voxels,
                    0.02,
                )
                first_id += 1


class FakeWatch:
    """Remembers what it was asked."""

    def __init__(self):
        self.is_alive, self.asked, self.run_id = True, [], "run-002"

    def stop(self):
        self.asked.append("stop")
        self.is_alive = False

    stop_now = stop

    def person_at_work(self):
        self.asked.append("give way")


class FakeWorkbench:
    """The interface of the workbench, on phantoms kept in memory. `calls` lists what was asked."""

    def __init__(self, n_cases=3, affine=None):
        self.session = ReviewSession(by="tester")
        self.store = None
        self.calls = []
        self.watch = None
        self.affine = affine
        self.n_cases = n_cases
        self.volumes = {}
        self._done = []

    def open(self, folder, *, read_only=False, by=""):
        self.calls.append(("open", folder))
        cases = tuple(make_case(i, affine=self.affine) for i in range(1, self.n_cases + 1))
        regions = []
        for number, case in enumerate(cases):
            image, truth, given = phantom(number, case.geometry.shape)
            likelihood = np.where(given != truth, 235 - 20 * given, 10).astype(np.uint8)
            self.volumes[case.id] = [image, truth, given, given.copy(), likelihood]
            regions += find(case, given, truth, likelihood, len(regions) + 1)
        s = self.session
        s.project, s.name, s.tracks, s.track = Path(folder), "hippocampus", (TRACK,), "labels"
        s.cases = cases
        s.run = Run("run-001", "self-cleansing", {}, {}, 0, 2, 30, 0, RunState.COMPLETE, "2025-01-01T00:00:00Z")
        s.runs = (s.run,)
        s.filter, s.scores = filter_and_scores()
        s.queue = tuple(sorted(regions, key=lambda r: -r.gain))
        s.cursor = 0
        s.counters = Counters(0, len(regions), 0.0)
        return s

    def read(self, folder, *, read_only=False):
        return folder

    def enter(self, project, *, by=""):
        return self.open(project, by=by)

    def close_project(self):
        pass

    def load(self, case_id):
        self.calls.append(("load", case_id))
        image, truth, given, corrected, likelihood = self.volumes[case_id]
        case = next(c for c in self.session.cases if c.id == case_id)
        return CaseView(
            case,
            (image,),
            {"labels": given},
            {"labels": corrected},
            {"labels": likelihood},
            {"labels": truth},
        )

    def show(self, view):
        self.session.view = view

    def select(self, index):
        self.session.cursor = index

    def poll(self):
        self.calls.append(("poll",))

    def close(self):
        self.calls.append(("close",))

    def review(self, verdict, region=None, *, by="", case="", track="", labels=None, note=""):
        self.calls.append(("review", verdict))
        s = self.session
        if verdict is Verdict.UNDONE:
            return self._undo()
        if verdict is Verdict.VERIFIED:
            return None
        if s.current is None:
            raise NothingToDo("there is no region to decide on. Lower the threshold or train again.")
        before = self.volumes[s.current.case][3].copy()
        self._done.append((s.queue, s.cursor, s.counters, s.current.case, before))
        if verdict is Verdict.ACCEPTED:
            self._accept(s.current)
        changed = replaced(s.queue, s.cursor, STATES[verdict])
        s.queue = changed
        s.draft = False
        ml = s.counters.changed_ml + (s.queue[s.cursor].ml if verdict is Verdict.ACCEPTED else 0)
        s.counters = Counters(s.counters.seen + 1, s.counters.left - 1, ml)
        return None

    def _accept(self, region):
        _, truth, _, corrected, _ = self.volumes[region.case]
        box = tuple(slice(a, b) for a, b in zip(region.start, region.stop, strict=True))
        mask = (corrected[box] == region.from_class) & (truth[box] == region.to_class)
        corrected[box][mask] = region.to_class

    def _undo(self):
        if not self._done:
            raise NothingToDo("there is nothing to undo.")
        s = self.session
        s.queue, at, s.counters, case, before = self._done.pop()
        self.volumes[case][3][:] = before
        return SimpleNamespace(region=s.queue[at].id)

    def save_draft(self, track, labels, box=None):
        self.calls.append(("save_draft", track, labels.shape))
        self.session.draft = True

    def discard_draft(self, track):
        self.calls.append(("discard_draft", track))
        self.session.draft = False

    def stop(self):
        self.watch.stop()

    def affinity(self, case_id, index, axis=0):
        self.calls.append(("affinity", case_id, index, axis))
        whole = np.linspace(-1, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
        return whole.take(index[axis], axis)

    def start_propose(self, level="case", threshold=0.0):
        self.calls.append(("start_propose", level, threshold))
        return FakeWatch()

    def retrain(self, method="self-cleansing", **settings):
        self.calls.append(("retrain", method, settings))
        self.watch = FakeWatch()
        self.session.progress = Report("run-002", "start", epochs=30, total=600)
        return self.watch

    def export(self, out, *, format="same", what="corrected", overwrite=False):
        self.calls.append(("export", out, format, what, overwrite))
        return SimpleNamespace(files=[Path(out) / "case-1.nii.gz"], origin=Path(out) / "origin.json")


def replaced(queue, at, state):
    """The queue with the region at `at` in another state."""
    return (*queue[:at], dataclasses.replace(queue[at], state=state), *queue[at + 1 :])


def filter_and_scores():
    """A mixture of two clear components, and histograms that it fits."""
    fit = MixtureFit((-3.0, 0.5), (0.8, 0.5), (0.9, 0.1), True, "", 10_000)
    none = MixtureFit((-3.0, -3.0), (0.8, 0.8), (1.0, 0.0), False, "one component explains the scores as well", 900)
    edges = np.exp(np.linspace(-7, 3, 513))
    rng = np.random.default_rng(0)
    draws = np.exp(np.concatenate([rng.normal(-3, 0.8, 9000), rng.normal(0.5, 0.5, 1000)]))
    counts = np.stack([np.histogram(draws, edges)[0]] * 3)
    above = np.linspace(300, 1, 256).astype(np.int64)
    distances = np.exp(np.stack([rng.normal(-1, 0.3, 60)] * 3, axis=1))
    distances[:12, 1:] = 3.0
    distances[-1, 2] = np.nan
    scores = Scores(edges, {"labels": counts}, {"labels": above}, {"labels": distances})
    return Filter("run-001", 1, FilterLevel.VOXEL, 0.5, {"labels": (none, fit, fit)}), scores
