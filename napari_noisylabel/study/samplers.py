"""The queue in the order of a sampler: which regions should a person look at first, so that each look counts most?

The formulas are in `arrays.sampling`; here they meet what a run left of each case: its out-of-fold probabilities,
the disagreement of passes (where its method made several), its features. Pure reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from napari_noisylabel.arrays import sampling
from napari_noisylabel.arrays.labels import voxel_indices
from napari_noisylabel.decisions import ORDERS, sort_regions
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.data import make_folds
from napari_noisylabel.errors import NothingToDo, UnknownName
from napari_noisylabel.records import Region, RegionState, Run
from napari_noisylabel.store import ProjectStore

UNCERTAINTY: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "entropy": sampling.entropy,
    "least-confidence": sampling.least_confidence,
    "margin": sampling.margin,
}
MEAN = "mean-"
"""Prefix of an order by the mean over a region's voxels, as published; without it by their sum: one decision
settles all voxels of a region, so that large ones are worth more."""

SAMPLERS = ("dice-gain", *UNCERTAINTY, "bald", "balanced-entropy", "core-set")
QUEUE_ORDERS = (*ORDERS, "random", *SAMPLERS, *(MEAN + name for name in (*UNCERTAINTY, "bald")))


def order_regions(
    store: ProjectStore, run: Run, regions: Sequence[Region], order: str, seed: int = 0
) -> tuple[Region, ...]:
    """Regions of a run by "gain", "likelihood", "size", "case", "random", or by a sampler.

    Parameters
    ----------
    order : dice-gain is ours: the gain over the size of the structure in its case, which is what its Dice can win;
        entropy, least-confidence, margin and bald by the sum over a region's voxels, with "mean-" before by
        the mean; balanced-entropy takes the given classes in turn; core-set the region that is
        farthest, in features, from all chosen before and from what was decided.

    With a published sampler, the pieces of one object come apart: the first of each object is asked first.

    Raises
    ------
    UnknownName : no such order. NothingToDo : the run left no maps of that kind.
    """
    require_order(order)
    if order in ORDERS or order == "random":
        return sort_regions(regions, order, seed)
    own = sort_regions(regions, "gain")
    if not own:
        return ()
    if order == "dice-gain":
        scores = _dice_gains(store, run, own)
        return tuple(own[i] for i in np.argsort(-scores, kind="stable"))
    if order == "core-set":
        found = _farthest(store, run, own)
    else:
        name = order.removeprefix(MEAN)
        scores = _scores(store, run, own, "entropy" if name == "balanced-entropy" else name, order.startswith(MEAN))
        if name == "balanced-entropy":
            found = sampling.in_turn(scores, np.array([r.from_class for r in own]))
        else:
            found = np.argsort(-scores, kind="stable")
    return tuple(own[i] for i in sampling.spread([int(i) for i in found], _objects(own)))


def require_order(order: str) -> None:
    """Raises UnknownName where there is no such order."""
    if order not in QUEUE_ORDERS:
        raise UnknownName(f"there is no order {order!r}. The orders are: {', '.join(QUEUE_ORDERS)}.")


def _scores(store: ProjectStore, run: Run, regions: Sequence[Region], name: str, mean: bool) -> np.ndarray:
    """(N,) of each region: the sum, or the mean, of the sampler over its voxels."""
    scores = np.zeros(len(regions))
    for (case, track), rows in _by_place(regions).items():
        maps = CaseScores(store.run_folder(run.id), case)
        values = maps.read(f"{track}.bald") if name == "bald" else maps.require(f"{track}.probs")
        if values is None:
            raise NothingToDo(
                f"order bald compares several passes over a case, and {run.id} ({run.method}) made one. Choose another "
                "order, or train with active-refinement."
            )
        for i in rows:
            where = voxel_indices(store.region_runs(regions[i].id))
            own = values.reshape(-1)[where] / 255 if name == "bald" else _uncertain(values, where, name)
            scores[i] = own.mean() if mean else own.sum()
    return scores


def _dice_gains(store: ProjectStore, run: Run, regions: Sequence[Region]) -> np.ndarray:
    """(N,): the likelihood times the voxels, over the voxels that the run saw of the structures concerned.

    Where many cases have one structure each of unequal size, a voxel of a small one moves the mean Dice more.
    """
    scores = np.zeros(len(regions))
    for (case, track), rows in _by_place(regions).items():
        sizes = CaseScores(store.run_folder(run.id), case).statistics()[track].histogram.sum(1)
        for i in rows:
            region = regions[i]
            concerned = [k for k in (region.from_class, region.to_class) if k]
            scores[i] = sum(region.gain / max(1, int(sizes[k]), region.voxels) for k in concerned)
    return scores


def _uncertain(stored: np.ndarray, where: np.ndarray, name: str) -> np.ndarray:
    """The sampler at some voxels; probabilities are stored as 0..255 and add up to one only nearly."""
    probs = stored.reshape(len(stored), -1)[:, where].astype(np.float64)
    return UNCERTAINTY[name](probs / np.maximum(probs.sum(0), 1))


def _farthest(store: ProjectStore, run: Run, regions: Sequence[Region]) -> np.ndarray:
    """Core-set over mean features. Settled are the classes of each case, as the run sees them, and regions decided.

    Networks of different folds name their features differently: distances count within a fold.
    """
    decided = store.regions(run=run.id, states=(RegionState.ACCEPTED, RegionState.REJECTED, RegionState.EDITED))
    wanted = [*regions, *(r for r in decided if store.region_runs(r.id).starts.size)]
    folds = _folds(store, run)
    features: dict[int, np.ndarray] = {}
    settled: list[np.ndarray] = []
    groups: list[int] = []
    for (case, track), rows in _by_place(wanted).items():
        maps = CaseScores(store.run_folder(run.id), case)
        coarse = maps.require("features").astype(np.float32)
        shape, flat = coarse.shape[1:], coarse.reshape(len(coarse), -1)
        for i in rows:
            voxels = voxel_indices(store.region_runs(wanted[i].id))
            at = np.unravel_index(voxels, store.case(case).geometry.shape)
            half = [np.minimum(a // 2, n - 1) for a, n in zip(at, shape, strict=True)]
            features[i] = flat[:, np.ravel_multi_index(half, shape)].mean(1)
        seen = maps.require(f"{track}.proposal")[tuple(slice(None, None, 2) for _ in shape)].reshape(-1)
        settled += [flat[:, seen == k].mean(1) for k in np.unique(seen)]
        groups += [folds.get(case, -1)] * (len(settled) - len(groups))
    everything = np.array([*(features[i] for i in range(len(wanted))), *settled])
    fold = np.array([*(folds.get(r.case, -1) for r in wanted), *groups])
    for number in np.unique(fold):
        everything[fold == number] /= everything[fold == number].std() + 1e-9
    n = len(regions)
    return sampling.farthest_first(everything[:n], everything[n:], n, (fold[:n], fold[n:]))


def _folds(store: ProjectStore, run: Run) -> dict[str, int]:
    """The fold of each training case; held-out cases, which all networks see alike, are in none."""
    training = [c for c in store.cases() if not c.held_out and c.labels]
    return make_folds(training, run.folds, run.seed)


def _objects(regions: Sequence[Region]) -> list[int]:
    """For each region the first, in their order, of the same case and change whose box touches its own."""
    alike: dict[tuple[str, str, int, int], list[Region]] = {}
    for region in regions:
        alike.setdefault(_change(region), []).append(region)
    return [next(other.id for other in alike[_change(region)] if _touch(region, other)) for region in regions]


def _change(region: Region) -> tuple[str, str, int, int]:
    return region.case, region.track, region.from_class, region.to_class


def _touch(a: Region, b: Region) -> bool:
    return all(x <= v and u <= y for x, y, u, v in zip(a.start, a.stop, b.start, b.stop, strict=True))


def _by_place(regions: Sequence[Region]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for i, region in enumerate(regions):
        found.setdefault((region.case, region.track), []).append(i)
    return found
