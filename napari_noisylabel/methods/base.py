"""The contract between a published method and the engine.

A method answers at five moments; `loss` is the only one it must write:

    on_run_start(run)      before the first epoch; when a run is resumed, before its state is loaded
    on_epoch_start(run)    before each epoch's batches
    loss(run, batch)       the loss of one batch, or None to skip the step
    on_epoch_end(run)      after each epoch's batches
    state_dict()           what a checkpoint must keep (and `load_state_dict`)

The engine owns optimisers, batches, the backward pass, checkpoints and folds. One instance per
fold. After every moment the engine writes verified voxels back into the working labels, so no
method can change what a person decided. A network called on (B, C, *spatial) images gives an
object with `logits` ((B, K, *spatial) per track) and `features` (B, F, *spatial).

Once trained, each case is scored from what networks say that have not seen it, by the instance of
its fold: `corrected`, then `propose`, `score`, `noise_likelihood`, `systematic` and `maps` (held-out and
reference cases: from the mean of all networks, by the first fold's instance).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from napari_noisylabel.arrays.likelihood import as_single, best_class, label_probs
from napari_noisylabel.inner import InnerState
from napari_noisylabel.records import IGNORE, Track


@dataclass(frozen=True)
class Stage:
    """One stretch of a run: its name, its length, which networks it trains, what a batch is.

    `networks` are indices into `run.networks`; `batch` is "patches" (default) or "images"
    (whole cases at reduced size, for classifiers), `size` how many there are in one (0: as the
    engine plans it).
    """

    name: str
    epochs: int
    networks: tuple[int, ...] = (0,)
    batch: str = "patches"
    size: int = 0


@dataclass
class Batch:
    """Patches of training cases with everything known about each voxel.

    images (B, C, *spatial) float32. Per track: `labels` (the labels the run started from) and
    `working` (those that a method may have corrected), both (B, *spatial) int64 with `IGNORE`;
    `verified` bool; `weight` float32: 0 where ignored, 1 where verified, else the method's own.
    `extra[name][track]` are crops of the maps that the method attached to the run.
    `case_ids` and `index` (B, 2*ndim: start, stop) say where a patch comes from; `views` names
    the augmentation of each patch.
    """

    images: Tensor
    labels: dict[str, Tensor]
    working: dict[str, Tensor]
    verified: dict[str, Tensor]
    weight: dict[str, Tensor]
    case_ids: tuple[str, ...]
    index: Tensor
    views: tuple[str, ...]
    extra: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def ignore(self, track: str) -> Tensor:
        """(B, *spatial) bool: voxels without annotation."""
        return self.labels[track] == IGNORE


class Output(Protocol):
    """What a network gives: logits (B, K, *spatial) per track, features (B, F, *spatial)."""

    @property
    def logits(self) -> Mapping[str, Tensor]: ...
    @property
    def features(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Prediction:
    """An evaluation pass over one case: probs (K, *spatial) float16 per track, features maybe.

    `disagreement` (*spatial) float32 per track is there where it is the mean of several passes.
    """

    case: str
    probs: Mapping[str, np.ndarray]
    features: np.ndarray | None = None
    disagreement: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one case and track when it is scored.

    probs (K, *spatial) float16 are of networks that have not seen the case, `labels` (*spatial)
    uint8 with IGNORE; `spacing` in mm per axis; `features` (F, *spatial/2) float16 of the network;
    `disagreement` (*spatial) in nats of the passes that `probs` are the mean of (`Method.evaluation_passes`).
    `image` (C, *spatial) float16, normalised as for training; `findings` are the classes that the
    image shows by its tags, None where nobody has said; `blank`: there is no mask, `labels` is what
    people decided on and IGNORE elsewhere.
    """

    case: str
    track: Track
    probs: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, ...]
    features: np.ndarray | None = None
    disagreement: np.ndarray | None = None
    image: np.ndarray | None = None
    findings: tuple[int, ...] | None = None
    blank: bool = False


class FoldRun(Protocol):
    """What a method may ask of the fold it is part of, so that none needs a loop of its own."""

    @property
    def epoch(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def steps(self) -> int: ...  # optimiser steps of an epoch
    @property
    def stage(self) -> Stage: ...
    @property
    def first_epoch_of_stage(self) -> bool: ...
    @property
    def tracks(self) -> tuple[Track, ...]: ...
    @property
    def case_ids(self) -> tuple[str, ...]: ...
    @property
    def reference_ids(self) -> tuple[str, ...]: ...  # verified cases put aside: they train in no fold
    @property
    def groups(self) -> Mapping[str, str]: ...  # whom each case belongs to, usually a person
    @property
    def spacing(self) -> Mapping[str, tuple[float, ...]]: ...
    @property
    def axes(self) -> tuple[int, ...]: ...  # of (Z, Y, X) that a network sees: two of them where slices are taken
    @property
    def patch_size(self) -> tuple[int, int, int]: ...  # sides of a patch, (Z, Y, X); 1 across slices
    @property
    def device(self) -> torch.device: ...
    @property
    def networks(self) -> Sequence[nn.Module]: ...
    @property
    def ema(self) -> Sequence[nn.Module] | None: ...
    @property
    def labels(self) -> Mapping[str, Mapping[str, np.ndarray]]: ...  # labels[case][track], not to be written
    @property
    def verified(self) -> Mapping[str, Mapping[str, np.ndarray | None]]: ...
    @property
    def findings(self) -> Mapping[str, Mapping[str, tuple[int, ...] | None]]: ...  # by tags; None: nobody has said
    @property
    def blank(self) -> Mapping[str, frozenset[str]]: ...  # tracks without a mask
    @property
    def working_labels(self) -> dict[str, dict[str, np.ndarray]]: ...
    @property
    def rng(self) -> np.random.Generator: ...

    def image(self, case: str) -> np.ndarray:
        """(C, *spatial) float16 as networks see it: zero mean, unit spread per channel. Not to be written."""

    def add_parameters(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        """Let the optimiser train `parameters` too, with a rate of their own. In `on_run_start` only.

        Checkpoints keep their values; a method need not.
        """

    def restart(self, network: int | None = None) -> None:
        """New weights, a fresh optimiser and the full learning rate, for one network or all."""

    def predict(
        self,
        cases: Sequence[str] | None = None,
        views: Sequence[str] = ("",),
        features: bool = False,
        network: int | None = None,
    ) -> Iterable[Prediction]:
        """Evaluation pass (EMA weights where they are kept), one case at a time: training cases by
        default, `reference_ids` where asked for by name.

        `views` are averaged: "" as is, "flip0".. flips of an axis, "scale0.7".. other scales
        ("scale0.7/12": of axes 1 and 2 only).
        """

    def attach(self, name: str, case: str, track: str, values: np.ndarray) -> None:
        """Keep a map of the case, (*spatial); batches carry its crops in `batch.extra[name]`."""


class Method:
    """Base of all methods. Holds no data and saves no file; state is what `state_dict` gives."""

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    source: ClassVar[str] = ""
    n_networks: ClassVar[int] = 1
    uses_ema: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False  # puts whole verified cases aside as `run.reference_ids`
    uses_tags: ClassVar[bool] = False  # trains on cases without any mask, too, by their `run.findings`

    def stages(self, epochs: int) -> tuple[Stage, ...]:
        """The stretches of a run of `epochs` epochs. One, unless the method says otherwise."""
        return (Stage("train", epochs, tuple(range(self.n_networks))),)

    def on_run_start(self, run: FoldRun) -> None:
        """Before the first epoch; again when a run is resumed, before `load_state_dict`."""

    def on_epoch_start(self, run: FoldRun) -> None:
        """Before each epoch's batches."""

    def loss(self, run: FoldRun, batch: Batch) -> Tensor | None:
        """The loss of one batch, or None to skip the step."""
        raise NotImplementedError

    def on_epoch_end(self, run: FoldRun) -> None:
        """After each epoch's batches."""

    def state_dict(self) -> dict[str, Any]:
        """JSON values, tensors and arrays (nested dicts and lists of them), never code."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def inner(self) -> Sequence[InnerState]:
        """What is worth drawing, asked after each epoch (see `napari_noisylabel.inner`)."""
        return ()

    def evaluation_passes(self) -> tuple[tuple[int, str], ...]:
        """The passes that a trained fold's opinion on a case is the mean of, as (network, view) of `predict`.

        The first network on the image as it is, unless the method says otherwise.
        """
        return ((0, ""),)

    def probabilities(self, output: Output) -> Mapping[str, Tensor]:
        """(B, K, *spatial) per track, in evaluation passes: the softmax, unless the method reasons further."""
        return {track: logits.float().softmax(1) for track, logits in output.logits.items()}

    def features(self, output: Output) -> Tensor:
        """(B, F, *spatial): what `predict(features=True)` gives and what affinity is shown from."""
        return output.features

    def corrected(self, evidence: Evidence) -> np.ndarray:
        """(K, *spatial): `evidence.probs` without the bias that the method knows of.

        All that follows sees only these; also applied to networks that have seen the case.
        """
        return evidence.probs

    def propose(self, evidence: Evidence) -> np.ndarray:
        """Suggested class per voxel, (*spatial) uint8. Labels of held-out cases are all IGNORE here."""
        return best_class(evidence.probs)

    def noise_likelihood(self, evidence: Evidence) -> np.ndarray | None:
        """P(label is wrong) per voxel by the method's own reasoning, (*spatial) in [0, 1].

        It takes the place of what all networks reject (`arrays.likelihood.rejection`), which is
        the default: None.
        """
        return None

    def systematic(self, evidence: Evidence) -> np.ndarray | None:
        """(K, K): P(the case is drawn with an error that labels share) per class there and class that it should be.

        For a method that knows from verified cases how labels are drawn. Such an error need not
        prove itself case by case: where all networks reject the label in favour of that class, the
        filter takes the larger of this and P(badly drawn). None: nothing of the kind is known.
        """
        return None

    def score(self, evidence: Evidence) -> np.ndarray:
        """What is measured per voxel, (*spatial) float32 in nats, high = suspicious.

        By default the out-of-fold cross-entropy of the label; 0 where ignored.
        """
        p = as_single(label_probs(evidence.probs, evidence.labels))
        return -np.log(np.clip(p, 1e-7, 1.0))

    def maps(self, evidence: Evidence) -> Mapping[str, np.ndarray]:
        """Further maps worth looking at, (*spatial) in [0, 1] by name; stored as `TRACK.NAME`."""
        return {}
