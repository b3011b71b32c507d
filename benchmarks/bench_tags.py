"""How much of an object do image-level tags find? Class activation, and what attention and several layers add.

    python benchmarks/bench_tags.py [--seeds 0,1,2] [--steps 250] [--cases 160]

Made-up images (`arrays.phantom.part_and_body`): an eye-catching part in a large, faint body; each of two classes is
in half of the images. A classifier learns what an image shows, its activation is read on the same images and compared
with the truth: recall and precision over all voxels of the classes that are there, at the threshold with the best IoU
of each variant; and the recall that a variant has where its precision is at most 3 points below that of plain class
activation (of either kind) at its own best threshold. Prints one line per variant and seed, then means.

Then, for multi-sa: the IoU of its pseudo-masks beside that of the network that learnt from them, on the images it
learnt from and on others; and the IoU of a classifier that was taught the tags of other images, beside that of calling
everything an object.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from napari_noisylabel.arrays.phantom import part_and_body
from napari_noisylabel.methods import multi_sa_formulas as formulas
from napari_noisylabel.methods.losses import segmentation_loss
from napari_noisylabel.methods.multi_sa_activation import activation
from napari_noisylabel.methods.multi_sa_network import Classifier
from napari_noisylabel.methods.settings import MultiSaSettings
from napari_noisylabel.networks import SegmentationNetwork, build_network
from napari_noisylabel.records import IGNORE

SIZE = (64, 64)
LAST: Mapping[str, Any] = {"layers": (5,), "auxiliary": False}
BASELINES = ("class activation, global mean", "class activation, top tenth")
MULTI_SA = "several layers and attention (multi-sa)"
MARGIN = 0.03
PSEUDO = ("seeds", "dense")
UNSEEN = 1000
"""Added to a seed: images that nothing has learnt from."""
VARIANTS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "class activation, global mean": ({**LAST, "attention": False, "share": 1.0}, {}),
    "class activation, top tenth": ({**LAST, "attention": False}, {}),
    "attention on the last layer": (LAST, {}),
    "several layers, no attention": ({"attention": False}, {}),
    MULTI_SA: ({}, {}),
    "the same, fused by mean": ({}, {"fusion": "mean"}),
    "the same, and spread by attention": ({}, {"steps": 4}),
}
"""Settings of the classifier, and of how its activation is read. Equal classifiers are trained once."""


@dataclass(frozen=True, eq=False)
class Images:
    """images (N, 1, *SIZE) float32, truth (N, *SIZE), present (N, 2) bool: what the tags say."""

    images: torch.Tensor
    truth: np.ndarray
    present: torch.Tensor


@dataclass(frozen=True)
class Found:
    """What a variant covers of the objects, at its best threshold."""

    iou: float
    recall: float
    precision: float
    threshold: float


def make_images(n: int, seed: int) -> Images:
    """Images of both classes, one, or none of them."""
    rng = np.random.default_rng(seed)
    shown = rng.random((n, 2)) < 0.5
    pairs = [part_and_body(SIZE, [c for c in (1, 2) if own[c - 1]], rng) for own in shown]
    images = np.stack([(image - image.mean()) / image.std() for image, _ in pairs])
    return Images(torch.from_numpy(images), np.stack([t for _, t in pairs]), torch.from_numpy(shown))


def fit(
    data: Images, settings: Mapping[str, Any], steps: int, seed: int, present: torch.Tensor | None = None
) -> Classifier:
    """A classifier taught by tags as `multi_sa` teaches it; `present` are other tags than the data's own."""
    tags = data.present if present is None else present
    torch.manual_seed(seed)
    rng, classifier = np.random.default_rng(seed), Classifier(2, 1, 2, SIZE, **settings)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = rng.integers(0, len(data.images), 16)
        seen, there = classifier(data.images[chosen]), tags[chosen]
        weight = torch.ones(there.shape)
        loss = formulas.soft_margin(seen.scores, there, weight)
        if seen.each_score:
            loss = loss + 0.3 * torch.stack([formulas.soft_margin(s, there, weight) for s in seen.each_score]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return classifier.eval()


def read(classifier: Classifier, data: Images, **reading: Any) -> np.ndarray:
    """Class activation of all images, (N, 2, *SIZE)."""
    pairs = zip(data.images.split(40), data.present.split(40), strict=True)
    return torch.cat([activation(classifier, images, there, **reading) for images, there in pairs]).numpy()


def curve(maps: np.ndarray, truth: np.ndarray) -> list[Found]:
    """Recall and precision at each threshold."""
    true, found = np.stack([truth == 1, truth == 2], 1), []
    for threshold in np.arange(0.02, 0.99, 0.02):
        mask = maps > threshold
        hit, n_mask, n_true = (float(np.count_nonzero(m)) for m in (mask & true, mask, true))
        found.append(Found(hit / max(1, n_mask + n_true - hit), hit / n_true, hit / max(1, n_mask), float(threshold)))
    return found


def best(found: list[Found]) -> Found:
    """The threshold with the best IoU."""
    return max(found, key=lambda f: f.iou)


def recall_beside(found: list[Found], baseline: list[Found]) -> float:
    """Largest recall where precision is at most MARGIN below the baseline's at its best threshold; 0 if nowhere."""
    return max((f.recall for f in found if f.precision >= best(baseline).precision - MARGIN), default=0.0)


# ---------------------------------------------------------------- the second stage


@dataclass(frozen=True)
class SecondStage:
    """IoU of the pseudo-masks, of the network that learnt from them, and of both on images that neither has seen."""

    masks: float
    network: float
    unseen_masks: float
    unseen_network: float


def second_stage(
    classifier: Classifier, data: Images, unseen: Images, pseudo: str, steps: int, seed: int
) -> SecondStage:
    """A segmentation network taught by the classifier's maps, as `multi_sa` teaches it with its other defaults."""
    masks, other = (pseudo_masks(read(classifier, images), pseudo) for images in (data, unseen))
    network = fit_network(data, masks, steps, seed)
    return SecondStage(
        iou(masks, data.truth), iou(segment(network, data), data.truth),
        iou(other, unseen.truth), iou(segment(network, unseen), unseen.truth),
    )  # fmt: skip


def pseudo_masks(maps: np.ndarray, pseudo: str) -> np.ndarray:
    """(N, *SIZE) uint8: "seeds", with IGNORE where the maps decide nothing, or "dense", a class for every voxel."""
    settings = MultiSaSettings()
    if pseudo == "dense":
        return np.stack([formulas.dense(own, settings.alpha) for own in maps])
    return np.stack([formulas.seeds(own, settings.foreground, settings.background) for own in maps])


def fit_network(data: Images, masks: np.ndarray, steps: int, seed: int) -> SegmentationNetwork:
    """The program's small network on `masks`, voxels in between left out."""
    torch.manual_seed(seed)
    rng, network = np.random.default_rng(seed), build_network("unet", 2, 1, {"object": 3})
    labels = torch.from_numpy(masks.astype(np.int64))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = rng.integers(0, len(data.images), 16)
        logits, own = network(data.images[chosen]).logits["object"], labels[chosen]
        loss = segmentation_loss(logits, own, (own != IGNORE).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return network.eval()


@torch.no_grad()
def segment(network: SegmentationNetwork, data: Images) -> np.ndarray:
    """(N, *SIZE) classes; what the tags exclude is background, as in the method's proposals."""
    probs = torch.cat([network(part).logits["object"].softmax(1) for part in data.images.split(40)])
    absent = ~data.present[:, :, None, None]
    probs[:, 0] += (probs[:, 1:] * absent).sum(1)
    probs[:, 1:] *= ~absent
    return probs.argmax(1).numpy()


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Over all voxels of both classes together, as in `curve`; what is left open is not found."""
    hit = np.count_nonzero((found == truth) & (truth > 0))
    called = np.count_nonzero((found == 1) | (found == 2))
    return float(hit / (called + np.count_nonzero(truth) - hit))


def chance(data: Images) -> float:
    """IoU of calling every voxel each class that the tags name: what one has without knowing any place."""
    return np.count_nonzero(data.truth) / (int(data.present.sum()) * data.truth[0].size)


def shuffled(present: torch.Tensor, seed: int) -> torch.Tensor:
    """The tags of other images: the same ones, dealt out anew."""
    return present[np.random.default_rng(seed).permutation(len(present))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--cases", type=int, default=160)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in VARIANTS}
    for seed in map(int, options.seeds.split(",")):
        data, trained, curves = make_images(options.cases, seed), {}, {}
        for name, (settings, reading) in VARIANTS.items():
            key, began = str(settings), time.process_time()
            if key not in trained:
                trained[key] = fit(data, settings, options.steps, seed)
            curves[name] = curve(read(trained[key], data, **reading), data.truth)
            top = best(curves[name])
            beside = [recall_beside(curves[name], curves[b]) for b in BASELINES if b in curves]
            rows[name].append((top.recall, top.precision, top.iou, *beside))
            figures = " ".join(f"{v:.3f}" for v in rows[name][-1])
            print(f"seed {seed} {name:42} {figures}  {time.process_time() - began:.0f} s", flush=True)
        _further(data, trained[str(VARIANTS[MULTI_SA][0])], options, seed)
    print("mean of all seeds: recall, precision, IoU at the best threshold; recall beside each baseline's precision")
    for name, own in rows.items():
        print(f"{name:42} " + " ".join(f"{v:.3f}" for v in np.mean(own, axis=0)))


def _further(data: Images, classifier: Classifier, options: argparse.Namespace, seed: int) -> None:
    """The second stage, and tags of other images."""
    unseen = make_images(options.cases, UNSEEN + seed)
    for pseudo in PSEUDO:
        found = second_stage(classifier, data, unseen, pseudo, options.steps, seed)
        print(f"seed {seed} IoU with {pseudo}: {found}", flush=True)
    misled = fit(data, {}, options.steps, seed, shuffled(data.present, seed))
    top = best(curve(read(misled, data), data.truth))
    print(f"seed {seed} taught the tags of other images: {top}; everything: {chance(data):.3f}", flush=True)


if __name__ == "__main__":
    main()
