"""JCAS: classes and pairs of voxels learn together, each with a noise transition matrix of its own.

X. Guo, Y. Yuan, "Joint Class-Affinity Loss Correction for Robust Medical Image Segmentation with
Noisy Labels", MICCAI 2022 (arXiv 2206.07994). The formulas are in `jcas_formulas`, the grid whose
nodes make the pairs is in `node_grid`. Shapes as there; everything in float32, also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from napari_noisylabel.inner import Curve, InnerState, Matrix, Mixtures, Note
from napari_noisylabel.methods import jcas_formulas as formulas
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Output, Stage
from napari_noisylabel.methods.losses import segmentation_loss
from napari_noisylabel.methods.node_grid import at_nodes, block_by_count, block_in_mm, to_nodes, to_voxels
from napari_noisylabel.records import IGNORE, Track

PUBLISHED_START = -2.0  # of the free parameters of both matrices, in the released code
TOO_FLAT = 0.4  # a smallest diagonal below this ends the learning of a matrix
AUXILIARY_SHARE = 2  # the auxiliary embedding has half the channels, as 128 and 256 in the released code
BINS = 20  # of the histogram of affinities


class TrackParts(nn.Module):
    """What the method trains for one track beside the network.

    embed : features -> embedding; `auxiliary_embed`, `auxiliary_classify` : a second head, if asked for.
    free_classes (K, K), free_pairs (2, 2) : parameters of the two transition matrices.
    """

    def __init__(self, features: int, channels: int, n_classes: int, auxiliary: bool, start: float) -> None:
        super().__init__()
        self.embed = nn.Linear(features, channels)
        self.auxiliary_embed = nn.Linear(features, max(1, channels // AUXILIARY_SHARE)) if auxiliary else None
        self.auxiliary_classify = nn.Linear(features, n_classes) if auxiliary else None
        self.free_classes = nn.Parameter(torch.full((n_classes, n_classes), start_for(n_classes, start)))
        self.free_pairs = nn.Parameter(torch.full((2, 2), start_for(2, start)))

    def matrices(self) -> tuple[Tensor, Tensor]:
        """T_C (K, K) and T_A (2, 2)."""
        return formulas.transition_matrix(self.free_classes), formulas.transition_matrix(self.free_pairs)

    def heads(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if not name.startswith("free_")]


def start_for(n: int, diagonal: float) -> float:
    """Free parameter with which an (n, n) matrix starts at this diagonal; the published -2 for 0."""
    if not diagonal:
        return PUBLISHED_START
    share = (1 / diagonal - 1) / (n - 1)
    return math.log(share / (1 - share)) if share < 1 else -PUBLISHED_START


class Reasoned(NamedTuple):
    """Logits before and after reasoning, (B, K, *grid) each, and the unit embedding of nodes (B, D, N)."""

    before: Tensor
    after: Tensor
    nodes: Tensor


class JCAS(Method):
    """Warm up with affinity; then learn what the noise does to classes and to pairs, and see through it."""

    name = "jcas"
    title = "Joint class-affinity segmentation with two transition matrices (JCAS)"
    source = "Guo and Yuan, MICCAI 2022, arXiv 2206.07994"

    def __init__(
        self,
        dice_weight: float = 1.0,
        warmup: float = 0.2,
        embedding: int = 16,
        nodes: int = 1728,
        inference_nodes: int = 0,
        grid: str = "mm",
        reasoning: str = "voxels",
        rows: int = 256,
        balanced: bool = True,
        affinity_weight: float = 0.5,
        volume_weight: float = 0.1,
        consistency_weight: float = 5.0,
        auxiliary_class_weight: float = 0.0,
        auxiliary_affinity_weight: float = 0.0,
        initial_diagonal: float = 0.9,
        transition_lr: float = 0.1,
        head_lr: float = 2e-3,
        prior: str = "clean",
        mirrored: bool = False,
        posterior: bool = False,
    ) -> None:
        self.dice_weight, self.warmup, self.embedding = dice_weight, warmup, embedding
        self.nodes, self.inference_nodes, self.grid, self.reasoning = nodes, inference_nodes, grid, reasoning
        self.rows, self.balanced = rows, balanced
        self.affinity_weight, self.volume_weight = affinity_weight, volume_weight
        self.consistency_weight, self.mirrored, self.prior = consistency_weight, mirrored, prior
        self.auxiliary_class_weight = auxiliary_class_weight
        self.auxiliary_affinity_weight = auxiliary_affinity_weight
        self.initial_diagonal, self.transition_lr, self.head_lr = initial_diagonal, transition_lr, head_lr
        self.posterior = posterior
        self._parts: dict[str, TrackParts] = {}
        self._tracks: tuple[Track, ...] = ()
        self._block: tuple[int, ...] = ()
        self._inference_block: tuple[int, ...] = ()
        self._seen: dict[str, Tensor] = {}
        self._stopped: dict[str, int] = {}
        self._measured: dict[str, dict[str, list[Tensor]]] = {}
        self._histograms: dict[str, Tensor] = {}

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        warm = min(epochs, round(self.warmup * epochs))
        return (Stage("warm-up", warm), Stage("joint", epochs - warm))

    def on_run_start(self, run: FoldRun) -> None:
        network: Any = run.networks[0]
        features = network.heads[0].in_channels
        auxiliary = bool(self.auxiliary_class_weight or self.auxiliary_affinity_weight)
        self._tracks = run.tracks
        for track in run.tracks:
            parts = TrackParts(features, self.embedding, track.n_classes, auxiliary, self.initial_diagonal)
            run.add_parameters(parts.heads(), lr=self.head_lr)
            run.add_parameters([parts.free_classes, parts.free_pairs], lr=self.transition_lr)
            self._parts[track.name] = parts
            self._seen[track.name] = torch.zeros(track.n_classes, dtype=torch.float64)

    def on_epoch_start(self, run: FoldRun) -> None:
        self._measured, self._histograms = {}, {}

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        self._choose_grid(run, batch)
        output = run.networks[0](batch.images)
        losses = [self._track_loss(run, batch, track.name, output) for track in run.tracks]
        return sum(losses[1:], losses[0])

    def state_dict(self) -> dict[str, Any]:
        return {
            "block": list(self._block),
            "inference_block": list(self._inference_block),
            "seen": dict(self._seen),
            "stopped": dict(self._stopped),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._block, self._inference_block = tuple(state["block"]), tuple(state["inference_block"])
        self._seen, self._stopped = dict(state["seen"]), dict(state["stopped"])

    def probabilities(self, output: Output) -> dict[str, Tensor]:
        """The mean of the softmax before and after reasoning."""
        return {track: self._probabilities(track, output) for track in output.logits}

    def features(self, output: Output) -> Tensor:
        """The unit embedding of each voxel, one track's after another's: its cosine is the affinity."""
        with _full_precision(output.features):
            features = output.features.float()
            each = [self._unit(parts.embed, features.flatten(2)) for parts in self._parts.values()]
            return torch.cat(each, 1).unflatten(2, features.shape[2:])

    def noise_likelihood(self, evidence: Evidence) -> np.ndarray | None:
        return self._posterior_wrong(evidence) if self.posterior else None

    def maps(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """P(wrong) after the label itself was heard, through the class transition matrix."""
        return {"posterior": self._posterior_wrong(evidence)}

    def inner(self) -> list[InnerState]:
        shown: list[InnerState] = []
        for curve, series in self._measured.items():
            means = {name: float(torch.stack(values).nanmean()) for name, values in series.items()}
            shown.append(Curve(curve, _known(means), "nats" if curve.endswith("loss") else ""))
        if self._histograms:
            counts = {name: tuple(int(n) for n in h.tolist()) for name, h in self._histograms.items()}
            shown.append(Mixtures("affinity", 0.0, 1.0, counts))
        return shown + self._matrices()

    # ------------------------------------------------------------ one track

    def _track_loss(self, run: FoldRun, batch: Batch, track: str, output: Output) -> Tensor:
        parts, joint = self._parts[track], run.stage.name == "joint"
        labels, verified = batch.working[track], batch.verified[track]
        matrices = self._matrices_to_learn(run, track) if joint else None
        with _full_precision(output.features):
            features = output.features.float()
            logits = output.logits[track].float()
            main = self._reason(parts.embed, logits, features, self._block)
            total = self._class_loss(main, batch, track, matrices)
            self._note("class loss", track, total)
            pairs = self._pair_loss(main.nodes, labels, verified, track, matrices, noted=True)
            total = total + self.affinity_weight * pairs
            if parts.auxiliary_embed is not None and parts.auxiliary_classify is not None:
                second = _each_voxel(parts.auxiliary_classify, features.flatten(2)).unflatten(2, features.shape[2:])
                aside = self._reason(parts.auxiliary_embed, second, features, self._block)
                total = total + self.auxiliary_class_weight * self._class_loss(aside, batch, track, matrices)
                pairs = self._pair_loss(aside.nodes, labels, verified, track, matrices, noted=False)
                total = total + self.auxiliary_affinity_weight * pairs
            self._count(labels, track)
            if matrices is not None:
                total = total + self._matrix_loss(track, *matrices)
        return total

    def _class_loss(self, found: Reasoned, batch: Batch, track: str, matrices: tuple[Tensor, Tensor] | None) -> Tensor:
        """The loss after reasoning and the loss before it, both corrected where there are matrices."""
        labels, weight, verified = batch.working[track], batch.weight[track], batch.verified[track]
        total = weight.new_zeros(())
        for logits in (found.after, found.before):
            if self.reasoning == "nodes":
                logits = to_voxels(logits, self._block, labels.shape[1:])
            if matrices is not None:
                probs = logits.softmax(1)
                probs = torch.where(verified[:, None], probs, formulas.corrected_classes(probs, matrices[0]))
                logits = formulas.log_probabilities(probs)
            total = total + segmentation_loss(logits, labels, weight, self.dice_weight)
        return total

    def _pair_loss(
        self, nodes: Tensor, labels: Tensor, verified: Tensor, track: str,
        matrices: tuple[Tensor, Tensor] | None, noted: bool,
    ) -> Tensor:  # fmt: skip
        """Of some rows of the affinity matrix; a pair of which both voxels are verified is not corrected."""
        own = at_nodes(labels, self._block).flatten(1)
        sure = at_nodes(verified, self._block).flatten(1)
        n = own.shape[1]
        rows = torch.randperm(n)[: self.rows or n].to(own.device)
        pairs = formulas.affinity(nodes[:, :, rows], nodes)
        same = own[:, rows, None] == own[:, None]
        counted = (own != IGNORE)[:, rows, None] & (own != IGNORE)[:, None]
        expected = pairs
        if matrices is not None:
            both = sure[:, rows, None] & sure[:, None]
            expected = torch.where(both, pairs, formulas.corrected_pairs(pairs, matrices[1]))
        loss, parts = formulas.pair_loss(expected, same, counted, self.balanced)
        if noted:
            self._note_pairs(track, "different", pairs.detach(), parts[0], counted & ~same)
            self._note_pairs(track, "same", pairs.detach(), parts[1], counted & same)
        return loss

    def _matrix_loss(self, track: str, classes: Tensor, pairs: Tensor) -> Tensor:
        """Volume and consistency of the two matrices."""
        volumes = [formulas.log_volume(m) for m in (classes, pairs)]
        implied = formulas.pair_transition(classes, self._class_prior(track, classes.detach()))
        apart = ((formulas.implied_order(implied, self.mirrored) - pairs) ** 2).mean()
        for name, volume in zip(("classes", "pairs"), volumes, strict=True):
            self._note("log |det T|", f"{track}/{name}", volume)
        self._note("consistency", track, apart)
        return self.volume_weight * (volumes[0] + volumes[1]) + self.consistency_weight * apart

    # ------------------------------------------------------------ reasoning

    def _reason(self, embed: nn.Linear, logits: Tensor, features: Tensor, block: Sequence[int]) -> Reasoned:
        block = [min(b, n) for b, n in zip(block, logits.shape[2:], strict=True)]
        node_logits = to_nodes(logits, block)
        nodes = self._unit(embed, to_nodes(features, block).flatten(2))
        if self.reasoning == "voxels":
            asking, embedding = logits, _each_voxel(embed, features.flatten(2)).relu_()
        else:
            asking, embedding = node_logits, nodes
        if self.reasoning == "off":
            return Reasoned(logits, logits, nodes)
        after = formulas.reasoned(asking.flatten(2), embedding, node_logits.flatten(2), nodes)
        return Reasoned(asking, after.unflatten(2, asking.shape[2:]), nodes)

    def _probabilities(self, track: str, output: Output) -> Tensor:
        logits = output.logits[track]
        if not self._inference_block:  # before the first batch
            return logits.float().softmax(1)
        block = [min(b, n) for b, n in zip(self._inference_block, logits.shape[2:], strict=True)]
        with _full_precision(logits):
            found = self._reason(self._parts[track].embed, logits.float(), output.features.float(), block)
            probs = 0.5 * (found.before.softmax(1) + found.after.softmax(1))
            return to_voxels(probs, block, logits.shape[2:]) if self.reasoning == "nodes" else probs

    def _unit(self, embed: nn.Linear, features: Tensor) -> Tensor:
        return formulas.unit_embedding(_each_voxel(embed, features))

    def _choose_grid(self, run: FoldRun, batch: Batch) -> None:
        """The block of voxels that makes a node: chosen once, so that a node is as large in every pass."""
        if self._block:
            return
        shape = tuple(batch.images.shape[2:])
        spacing = _in_plane_spacing(run, batch)

        def block(most: int) -> tuple[int, ...]:
            return block_in_mm(shape, spacing, most) if self.grid == "mm" else block_by_count(shape, most)

        self._block = block(self.nodes)
        self._inference_block = block(self.inference_nodes or self.nodes)

    # ------------------------------------------------------------ matrices

    def _matrices_to_learn(self, run: FoldRun, track: str) -> tuple[Tensor, Tensor]:
        """T_C and T_A; for ever as they are once one of them became too flat."""
        classes, pairs = self._parts[track].matrices()
        if track not in self._stopped:
            smallest = min(float(m.detach().diagonal().min()) for m in (classes, pairs))
            if smallest >= TOO_FLAT:
                return classes, pairs
            self._stopped[track] = run.epoch
        return classes.detach(), pairs.detach()

    def _class_prior(self, track: str, matrix: Tensor) -> Tensor:
        noisy = self._noisy_prior(track).to(matrix)
        return formulas.clean_prior(matrix, noisy) if self.prior == "clean" else noisy

    def _noisy_prior(self, track: str) -> Tensor:
        seen = self._seen[track]
        return seen / seen.sum() if seen.sum() > 0 else torch.full_like(seen, 1 / len(seen))

    def _count(self, labels: Tensor, track: str) -> None:
        n = len(self._seen[track])
        known = labels[labels < n]
        self._seen[track] = self._seen[track] + torch.bincount(known, minlength=n).cpu()

    def _posterior_wrong(self, evidence: Evidence) -> np.ndarray:
        matrix, _ = self._parts[evidence.track.name].matrices()
        return formulas.posterior_wrong(evidence.probs, evidence.labels, matrix.detach().cpu().numpy())

    # ------------------------------------------------------------ inner state

    def _note(self, curve: str, series: str, value: Tensor) -> None:
        self._measured.setdefault(curve, {}).setdefault(series, []).append(value.detach().float())

    def _note_pairs(self, track: str, kind: str, pairs: Tensor, loss: Tensor, chosen: Tensor) -> None:
        """Loss and affinity of the pairs `chosen`; NaN if there is none. A histogram once per epoch is enough."""
        series, n = f"{track}/{kind}", chosen.sum()
        self._note("pair loss", series, torch.where(n > 0, loss, math.nan))
        self._note("affinity of pairs", series, (pairs * chosen).sum() / n)
        if series not in self._histograms:
            self._histograms[series] = torch.histc(pairs[chosen].float().cpu(), BINS, 0, 1)

    @torch.no_grad()
    def _matrices(self) -> list[InnerState]:
        shown: list[InnerState] = []
        estimates: dict[str, float] = {}
        for track in self._tracks:
            name, classes, two = track.name, track.classes, ("different", "same")
            by_class, by_pair = (m.cpu() for m in self._parts[name].matrices())
            prior = self._class_prior(name, by_class)
            implied = formulas.pair_transition(by_class, prior)
            shown += [
                Matrix(f"T_C of {name}", classes, classes, _rows(by_class)),
                Matrix(f"T_A of {name}", two, two, _rows(by_pair)),
                Matrix(f"T_A of {name} as T_C implies it", two, two, _rows(implied)),
            ]
            joint = (prior[:, None] * by_class).numpy()
            errors = (1 - float(np.trace(joint)), *formulas.pair_error(joint))
            kinds = ("voxels", "pairs", "different pairs", "same pairs")
            estimates |= {f"{name}/{kind}": e for kind, e in zip(kinds, errors, strict=True)}
            if name in self._stopped:
                text = f"they stopped to learn in epoch {self._stopped[name] + 1}: a diagonal fell below {TOO_FLAT}"
                shown.append(Note(f"matrices of {name}", text))
        return [*shown, Curve("share of wrong labels as the matrices imply it", _known(estimates))]


# ---------------------------------------------------------------- helpers, in order of use


def _full_precision(values: Tensor) -> torch.autocast:
    return torch.autocast(values.device.type, enabled=False)


def _each_voxel(linear: nn.Linear, values: Tensor) -> Tensor:
    """(B, F, V) -> (B, D, V)."""
    n = len(values)
    return torch.baddbmm(linear.bias[None, :, None], linear.weight.expand(n, -1, -1), values)


def _in_plane_spacing(run: FoldRun, batch: Batch) -> tuple[float, ...]:
    """Median spacing of the cases along the axes of a patch, in mm."""
    per_case = [(1.0,) * (3 - len(s)) + tuple(s) for s in run.spacing.values()]
    spacing = np.median(per_case, axis=0)
    n_dims = batch.images.ndim - 2
    sides = (batch.index[0, 3:] - batch.index[0, :3]).tolist()
    axes = [a for a in range(3) if n_dims == 3 or sides[a] > 1]
    return tuple(float(spacing[a]) for a in axes[-n_dims:])


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(v) else v for name, v in values.items()}


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(v) for v in row) for row in matrix)
