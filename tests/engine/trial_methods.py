"""Three small methods that ask of a run whatever published methods ask. They are made to be trained, not to be good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_noisylabel.inner import InnerState, Matrix, Note
from napari_noisylabel.methods import MethodInfo
from napari_noisylabel.methods.base import Batch, Evidence, FoldRun, Method, Stage
from napari_noisylabel.methods.losses import pixel_cross_entropy, segmentation_loss, weighted_mean
from napari_noisylabel.methods.settings import MethodSettings


class Exchange(Method):
    """Two networks; each learns from the patches that the other finds easy, and every third step is skipped."""

    name = "trial-exchange"
    n_networks = 2

    def __init__(self) -> None:
        self.steps = 0

    def loss(self, run: FoldRun, batch: Batch) -> Tensor | None:
        self.steps += 1
        if self.steps % 3 == 0:
            return None
        total = batch.images.new_zeros(())
        for track in run.tracks:
            each = [
                pixel_cross_entropy(net(batch.images).logits[track.name], batch.working[track.name]).flatten(1).mean(1)
                for net in run.networks
            ]
            easy = [e.detach().argmin() for e in each]
            total = total + each[0][easy[1]] + each[1][easy[0]]
        return total

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


class OwnParameters(Method):
    """A transition matrix per track with its own learning rate, and a map of doubt that it attaches to each case."""

    name = "trial-parameters"

    def __init__(self) -> None:
        self.matrices: nn.ParameterDict = nn.ParameterDict()

    def on_run_start(self, run: FoldRun) -> None:
        for track in run.tracks:
            self.matrices[track.name] = nn.Parameter(3 * torch.eye(track.n_classes))
        run.add_parameters(self.matrices.values(), lr=0.05)
        self._doubt(run)

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        logits = run.networks[0](batch.images).logits
        total = batch.images.new_zeros(())
        for name, matrix in self.matrices.items():
            noisy = torch.einsum("bi...,ij->bj...", logits[name].float().softmax(1), matrix.softmax(1))
            weight = batch.weight[name] * batch.extra["doubt"][name]
            total = total + weighted_mean(pixel_cross_entropy(noisy.clamp_min(1e-6).log(), batch.labels[name]), weight)
        return total

    def on_epoch_end(self, run: FoldRun) -> None:
        self._doubt(run)

    def inner(self) -> list[InnerState]:
        names = {name: tuple(str(k) for k in range(len(m))) for name, m in self.matrices.items()}
        return [
            Matrix(name, names[name], names[name], tuple(tuple(row) for row in m.detach().tolist()))
            for name, m in self.matrices.items()
        ]

    def _doubt(self, run: FoldRun) -> None:
        for case in run.case_ids:
            for track in run.tracks:
                run.attach("doubt", case, track.name, run.rng.random(run.labels[case][track.name].shape))


class Stages(Method):
    """Warm-up, then new weights and labels rewritten everywhere, also where a person has decided."""

    name = "trial-stages"
    n_networks = 2

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        warm = max(1, epochs // 2)
        return (Stage("warm-up", warm, (0,)), Stage("joint", epochs - warm, (0, 1)))

    def on_epoch_start(self, run: FoldRun) -> None:
        if run.stage.name == "joint" and run.first_epoch_of_stage:
            self._rewrite(run)
            run.restart(0)

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        for case in set(batch.case_ids):
            for labels in run.working_labels[case].values():
                labels[...] = (labels + 1) % 2
        total = batch.images.new_zeros(())
        for i in run.stage.networks:
            logits = run.networks[i](batch.images).logits
            for t in (t.name for t in run.tracks):
                total = total + segmentation_loss(logits[t], batch.working[t], batch.weight[t])
        return total

    def on_epoch_end(self, run: FoldRun) -> None:
        self._rewrite(run)

    def _rewrite(self, run: FoldRun) -> None:
        for prediction in run.predict(views=("", "flip1", "scale0.8")):
            for track, probs in prediction.probs.items():
                run.working_labels[prediction.case][track] = probs.argmin(0).astype(np.uint8)


class Reference(Method):
    """Looks at the verified cases that no batch shows, and leaves a map of its own."""

    name = "trial-reference"
    needs_reference = True

    def on_epoch_end(self, run: FoldRun) -> None:
        self.seen = [p.case for p in run.predict(cases=run.reference_ids)]

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        logits = run.networks[0](batch.images).logits
        return sum(segmentation_loss(logits[t.name], batch.working[t.name], batch.weight[t.name]) for t in run.tracks)

    def inner(self) -> list[InnerState]:
        return [Note("reference", " ".join(self.seen) + " is right")]

    def maps(self, evidence: Evidence) -> dict[str, np.ndarray]:
        return {"doubt": np.full(evidence.labels.shape, 0.5)}


class NotANumber(Method):
    """Its loss stops being a number in the second epoch."""

    name = "trial-nan"

    def loss(self, run: FoldRun, batch: Batch) -> Tensor:
        logits = run.networks[0](batch.images).logits
        value = sum(plane.mean() for plane in logits.values())
        return value * (float("nan") if run.epoch else 1.0)


class NoSettings(MethodSettings):
    """Nothing can be set."""


TRIALS = (Exchange, OwnParameters, Stages, Reference)
INFOS = tuple(
    MethodInfo(
        m.name, m.name, NoSettings, f"{__name__}:{m.__name__}", ("a verified case",) if m.needs_reference else ()
    )
    for m in (*TRIALS, NotANumber)
)
