"""From out-of-fold probabilities to what a reviewer sees, beside cleanlab: `python benchmarks/bench_scores.py`.

Both get the same labels and probabilities of made-up volumes, in one process. The program: score,
proposal, likelihood and regions, with its own functions, as scoring and filtering call them (case level); cleanlab:
`get_label_quality_scores` (softmin) and `find_label_issues` with `n_jobs=1` and its own batch size (a volume at a time;
one batch of all was slower).
The networks that saw a case are played by the same probabilities: they cost what others would. Reading and writing
files counts for neither, nor does what is kept only to be looked at (the probabilities as bytes). Both are given their
probabilities ready made: the program half floats, as networks leave them for it, cleanlab float32. Seconds are of
processor time, which a busy machine changes least; with OMP_NUM_THREADS=1 they are seconds of one thread.
Goal: at least 5 times faster. Takes about a minute; `--cases N` and `--shape Z Y X` change the size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays import likelihood as lk
from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.arrays.regions import find_regions
from napari_noisylabel.engine.filter import THRESHOLDS
from napari_noisylabel.engine.score import _distances
from napari_noisylabel.methods import method_info
from napari_noisylabel.methods.base import Evidence
from napari_noisylabel.records import FilterLevel, Track
from napari_noisylabel.study.bench.baseline import as_probabilities

SPACING = (1.5, 1.0, 1.0)
CLASSES = ("background", "a", "b")
GOAL = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--shape", type=int, nargs=3, default=(48, 96, 96))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cases = [made_up(i, tuple(options.shape)) for i in range(options.cases)]
    voxels = sum(labels.size for labels, _ in cases)
    print(
        f"{len(cases)} cases, {voxels / 1e6:.1f} million voxels, {len(CLASSES)} classes; median of {options.repeats}\n"
    )
    both = {"the program": the_program, "cleanlab": cleanlab}
    ready = {"the program": halved(cases), "cleanlab": stacked(cases)}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in both}
    for _ in range(options.repeats):  # in turn, so that a busy moment meets both
        for name, work in both.items():
            taken[name].append(work(ready[name]))
    totals = {}
    for name, runs in taken.items():
        totals[name] = float(np.median([sum(run.values()) for run in runs]))
        for step in runs[0]:
            row(f"{name}: {step}", float(np.median([run[step] for run in runs])))
        row(f"{name}, in all", totals[name])
    ratio = totals["cleanlab"] / totals["the program"]
    print(f"\n{ratio:.1f} times faster (goal: {GOAL:.0f})")


def made_up(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Spoiled labels (Z, Y, X) uint8 and probabilities (K, Z, Y, X) uint8 of a network that knows the truth roughly."""
    rng = np.random.default_rng(seed)
    true = phantom(shape, SPACING, len(CLASSES), rng)[1]
    labels = corrupt(true, "mixed", 0.5, rng, SPACING).labels
    logits = [ndimage.gaussian_filter((true == k).astype(np.float32), 1.5) * 12 for k in range(len(CLASSES))]
    doubt = [
        ndimage.gaussian_filter(rng.normal(0, 10, shape), 2.0) for _ in CLASSES
    ]  # smooth, as a network's errors are
    odds = np.exp(np.array(logits) + doubt)
    return labels.astype(np.uint8), np.round(255 * odds / odds.sum(0)).astype(np.uint8)


def the_program(cases: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Seconds of scoring, of filtering at case level, and of the regions."""
    track, info = Track("labels", CLASSES, tuple(range(len(CLASSES)))), method_info("cross-entropy")
    method, n, clock = info.make(info.check({})), len(CLASSES), Clock()
    scored = clock("score and proposal", lambda: [scores(method, track, *case) for case in cases])
    shown = clock("likelihood", lambda: likelihoods(cases, scored, n))
    clock("regions", lambda: [regions(c[0], s, m) for c, s, m in zip(cases, scored, shown, strict=True)])
    return clock.seconds


def scores(method: Any, track: Track, labels: np.ndarray, probs: np.ndarray) -> dict[str, np.ndarray]:
    """What `engine.score.score_case` computes of a case for its regions."""
    evidence = Evidence("case", track, probs, labels, SPACING, None)
    proposal, opposed = (method.propose(evidence).astype(np.uint8) for _ in range(2))
    stored = lk.to_uint16(method.score(evidence))
    lk.score_histogram(stored, labels, track.n_classes, None)
    moved = _distances(labels, proposal, opposed, track.n_classes, (0, 1, 2), None)
    rejected = lk.as_uint8(lk.rejection(probs, probs, labels))
    return {"proposal": proposal, "score": stored, "rejection": rejected, "moved": np.array(moved)}


def likelihoods(cases: list[Any], scored: list[dict[str, np.ndarray]], n: int) -> list[np.ndarray]:
    """What `engine.filter.refilter` computes at case level."""
    moved = np.array([lk.excess(s["moved"][1], s["moved"][2]) for s in scored])
    fits = [lk.fit_cases(moved[:, k]) for k in range(n)]
    maps = []
    for (labels, _), own, found in zip(cases, moved, scored, strict=True):
        bad = [0.0, *(float(lk.case_likelihood(fits[k], own[k])) for k in range(1, n))]
        maps.append(lk.case_map(np.array(bad), labels, found["proposal"], found["rejection"]))
    return maps


def regions(labels: np.ndarray, scored: dict[str, np.ndarray], shown: np.ndarray) -> np.ndarray:
    enough = shown >= np.ceil(THRESHOLDS[FilterLevel.CASE] * 255 - 1e-6)
    found = find_regions(labels, scored["proposal"], enough, SPACING)
    return found.means(shown) * found.sizes  # the gain, by which they are ranked


def halved(cases: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels, and probabilities (K, Z, Y, X) float16, as a prediction holds them."""
    return [(labels, (probs / np.float32(255)).astype(np.float16)) for labels, probs in cases]


def stacked(cases: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N, Z * Y, X) and probabilities (N, K, Z * Y, X) float32, as cleanlab takes them."""
    width = cases[0][0].shape[-1]
    labels = np.stack([c[0].reshape(-1, width) for c in cases]).astype(np.int64)
    probs = [as_probabilities(c[1].reshape(len(CLASSES), -1)).reshape(len(CLASSES), -1, width) for c in cases]
    return labels, np.stack(probs)


def cleanlab(arrays: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    from cleanlab.segmentation.filter import find_label_issues
    from cleanlab.segmentation.rank import get_label_quality_scores

    labels, probs = arrays
    clock = Clock()
    clock("label quality scores", lambda: get_label_quality_scores(labels, probs, method="softmin", verbose=False))
    clock("label issues", lambda: find_label_issues(labels, probs, n_jobs=1, verbose=False))
    return clock.seconds


class Clock:
    """Runs something and notes its seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        done = work()
        self.seconds[name] = time.process_time() - began
        return done


def row(title: str, seconds: float) -> None:
    print(f"{title:<40}{seconds:>10.2f} s", flush=True)


if __name__ == "__main__":
    main()
