"""How long the mixture and the regions of a CT take: `python benchmarks/bench_mixture_regions.py`.

The mixture is fitted to the histogram of 10 million scores, and by scikit-learn to the scores
themselves. The regions are those of a synthetic case of 300 x 512 x 512 voxels: organs whose proposed
boundary waves around the given one, and small objects that one of the two lacks.
Takes about a minute and 4 GB; `--quick` leaves scikit-learn out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from napari_noisylabel.arrays.mixture import Mixture, fit_mixture
from napari_noisylabel.arrays.regions import Components, find_regions

N_SCORES, N_EXACT, N_BINS = 10_000_000, 100_000, 1024
SHAPE, SPACING = (300, 512, 512), (1.5, 0.8, 0.8)
N_OBJECTS = 3000
ORGANS = (  # centre, radii (voxels), amplitude of the boundary noise as a share of the radius
    ((150, 256, 170), (120, 190, 140), 0.02),
    ((110, 180, 400), (70, 80, 70), 0.05),
    ((220, 380, 410), (50, 60, 60), 0.06),
)


def main(quick: bool) -> None:
    rng = np.random.default_rng(0)
    bench_mixture(rng, quick)
    bench_regions(rng)


def bench_mixture(rng: np.random.Generator, quick: bool) -> None:
    scores = two_gaussians(rng)
    row(f"two Gaussians, {N_SCORES:,} scores", "seconds", "means", "sds", "noisy")
    histogram, seconds = timed(lambda: counts_and_centers(scores))
    row(f"  histogram, {N_BINS} bins", f"{seconds:.3f}")
    mixture, seconds = timed(lambda: fit_mixture(*histogram))
    row("  fit_mixture on it", f"{seconds:.4f}", *parameters(mixture))
    if not quick:
        few = scores[:N_EXACT]
        bench_sklearn("  scikit-learn on the scores, its defaults", scores, tol=1e-3)
        row(f"  fit_mixture, {N_EXACT:,} of them", "", *parameters(fit_mixture(*counts_and_centers(few))))
        bench_sklearn(f"  scikit-learn, {N_EXACT:,}, to the end", few, tol=1e-9)
    print()


def two_gaussians(rng: np.random.Generator) -> np.ndarray:
    noisy = rng.random(N_SCORES) < 0.03
    return np.where(noisy, rng.normal(0.5, 0.8, N_SCORES), rng.normal(-4, 1.2, N_SCORES))


def bench_sklearn(title: str, scores: np.ndarray, tol: float) -> None:
    other, seconds = fit_sklearn(scores, tol)
    order = np.argsort(other.means_[:, 0])
    sds = np.sqrt(other.covariances_[order, 0, 0])
    row(title, f"{seconds:.1f}", pair(other.means_[order, 0]), pair(sds), f"{other.weights_[order[1]]:.5f}")


def fit_sklearn(scores: np.ndarray, tol: float) -> tuple[Any, float]:
    from sklearn.mixture import GaussianMixture

    asked = GaussianMixture(2, tol=tol, max_iter=2000, random_state=0)
    return timed(lambda: asked.fit(scores[:, None]), repeats=1)


def counts_and_centers(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts, edges = np.histogram(scores, N_BINS)
    return counts, (edges[1:] + edges[:-1]) / 2


def bench_regions(rng: np.random.Generator) -> None:
    labels, proposal = synthetic_case(rng)
    suspicious = rng.random(SHAPE, dtype=np.float32) < 0.95
    share = np.count_nonzero(suspicious & (labels != proposal)) / labels.size
    row(f"regions, {labels.size:,} voxels, {share:.2%} suspicious", "seconds", "regions", "voxels", "largest")
    for title, limits in (("  find_regions", {}), ("  the same without cuts", {"split_mm": 1e9})):
        regions, seconds = timed(lambda limits=limits: find_regions(labels, proposal, suspicious, SPACING, **limits))
        row(title, f"{seconds:.2f}", f"{len(regions):,}", f"{len(regions.indices):,}", longest(regions))
    score = rng.random(SHAPE, dtype=np.float32)
    _, seconds = timed(lambda: regions.means(score))
    row("  mean score per region", f"{seconds:.3f}")


def synthetic_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels, proposal = np.zeros((2, *SHAPE), np.uint8)
    waves = ndimage.zoom(rng.standard_normal((30, 52, 52)).astype(np.float32), np.divide(SHAPE, (30, 52, 52)), order=1)
    grid = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    for organ, (center, radii, amplitude) in enumerate(ORGANS, start=1):
        distance = sum(((g - c) / np.float32(r)) ** 2 for g, c, r in zip(grid, center, radii, strict=True)) ** 0.5
        labels[distance < 1] = organ
        proposal[distance + amplitude * waves < 1] = organ
    for _ in range(N_OBJECTS):
        radius = rng.integers(1, 4)
        corner = rng.integers(0, np.subtract(SHAPE, 2 * radius))
        target = proposal if rng.random() < 0.5 else labels
        target[tuple(slice(c, c + 2 * radius) for c in corner)] = rng.integers(0, 4)
    return labels, proposal


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[Any, float]:
    """The result, and the least seconds of some repeats."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return result, best


def parameters(mixture: Mixture) -> tuple[str, str, str]:
    return pair(mixture.means), pair(mixture.sds), f"{mixture.weights[1]:.5f}"


def longest(regions: Components) -> str:
    return f"{((regions.stop - regions.start) * SPACING).max():.0f} mm"


def pair(values: Any) -> str:
    return f"{values[0]:.4f} {values[1]:.4f}"


def row(title: str, *cells: str) -> None:
    print(f"{title:<52}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv[1:])
