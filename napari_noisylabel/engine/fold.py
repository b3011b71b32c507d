"""One fold of a run: its networks, optimiser, batches and labels, as methods see them."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from napari_noisylabel.arrays.labels import apply_runs, encode_runs, from_bytes, to_bytes
from napari_noisylabel.engine.checkpoint import Tree
from napari_noisylabel.engine.data import PreparedCase
from napari_noisylabel.engine.patches import CaseMaps, PatchPlan, make_batch
from napari_noisylabel.engine.predict import Predictor, mean_of_passes
from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.errors import RunFailed
from napari_noisylabel.methods.base import Batch, Method, Prediction, Stage
from napari_noisylabel.networks import build_network, load_weights
from napari_noisylabel.records import Track

MAX_GRADIENT = 12.0  # norm at which gradients are clipped, as nnU-Net does


@dataclass(frozen=True)
class FoldSpec:
    """What all folds of a run share."""

    tracks: tuple[Track, ...]
    plan: PatchPlan
    engine: EngineSettings
    in_channels: int
    seed: int
    epochs: int
    fabric: Fabric
    strides: tuple[tuple[int, ...], ...] | None = None


class Fold:
    """One fold in training; implements `methods.base.FoldRun`.

    `cases` are those that may train in this fold; `reference` those that a method may look at, but
    that no batch shows. Working labels start as copies of the labels and are the method's to
    change, except where a person has verified them.
    """

    def __init__(
        self,
        spec: FoldSpec,
        number: int,
        cases: Sequence[PreparedCase],
        method: Method,
        reference: Sequence[PreparedCase] = (),
    ) -> None:
        self.spec, self.number, self.method = spec, number, method
        self.tracks, self.epochs = spec.tracks, spec.epochs
        self.axes, self.patch_size = spec.plan.in_plane, spec.plan.size
        self.device = spec.fabric.device
        self.epoch = 0
        self.case_ids = tuple(c.id for c in cases)
        self.reference_ids = tuple(c.id for c in reference)
        cases = [*cases, *reference]
        self._cases = {c.id: c for c in cases}
        self.groups: Mapping[str, str] = {c.id: c.group for c in cases}
        self.spacing: Mapping[str, tuple[float, ...]] = {c.id: c.spacing[3 - len(c.shape) :] for c in cases}
        self.labels: Mapping[str, Mapping[str, np.ndarray]] = {
            c.id: {t: c.as_given(a) for t, a in c.labels.items()} for c in cases
        }
        self.verified: Mapping[str, Mapping[str, np.ndarray | None]] = {
            c.id: {t: None if v is None else c.as_given(v) for t, v in c.verified.items()} for c in cases
        }
        self.working_labels = {i: {t: np.array(a) for t, a in tracks.items()} for i, tracks in self.labels.items()}
        self.findings: Mapping[str, Mapping[str, tuple[int, ...] | None]] = {c.id: c.findings for c in cases}
        self.blank: Mapping[str, frozenset[str]] = {c.id: c.blank for c in cases}
        self._extra: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        self._added: list[nn.Parameter] = []
        self._started = False
        self._restarts = 0
        self._stages = method.stages(spec.epochs)
        self.rng = np.random.default_rng([spec.seed, number, 0])
        fresh = (self._new_network(i) for i in range(method.n_networks))
        self.networks: list[nn.Module] = [spec.fabric.setup_module(network) for network in fresh]
        keeps_ema = spec.engine.ema > 0 and method.uses_ema
        self.ema = [_frozen_copy(_bare(net)) for net in self.networks] if keeps_ema else None
        self._optimizer = self._make_optimizer()

    # ------------------------------------------------------------ what methods ask

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch."""
        return self.spec.plan.steps

    @property
    def stage(self) -> Stage:
        """The stretch of the run that the current epoch belongs to."""
        end = 0
        for stage in self._stages:
            end += stage.epochs
            if self.epoch < end:
                return stage
        return self._stages[-1]

    @property
    def first_epoch_of_stage(self) -> bool:
        return self.epoch in np.cumsum([0, *(s.epochs for s in self._stages)])[:-1]

    def image(self, case: str) -> np.ndarray:
        return self._cases[case].as_given(self._cases[case].image)

    def add_parameters(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        if self._started:
            raise RuntimeError("a method adds its parameters in on_run_start, so that a resumed run has them, too")
        own = list(parameters)
        for p in own:
            p.data = p.data.to(self.device)
        self._added += own
        self._optimizer.add_param_group(self._group(own, lr, weight_decay=0.0))

    def restart(self, network: int | None = None) -> None:
        self._restarts += 1
        for i in range(len(self.networks)) if network is None else [network]:
            weights = self._new_network(i).state_dict()
            _bare(self.networks[i]).load_state_dict(weights)
            if self.ema is not None:
                self.ema[i].load_state_dict(weights)
            group = self._optimizer.param_groups[i]
            group.update(done=0, total=self._steps_left())
            for p in group["params"]:
                self._optimizer.state.pop(p, None)

    def predict(
        self,
        cases: Sequence[str] | None = None,
        views: Sequence[str] = ("",),
        features: bool = False,
        network: int | None = None,
    ) -> Iterator[Prediction]:
        predictor = self.predictor()
        net = self.best_network(network or 0)
        for i in self.case_ids if cases is None else cases:
            yield predictor.predict(net, self._cases[i], views, features)

    def attach(self, name: str, case: str, track: str, values: np.ndarray) -> None:
        self._extra.setdefault(name, {}).setdefault(case, {})[track] = np.asarray(values, np.float16)

    # ------------------------------------------------------------ what the engine does

    def best_network(self, index: int = 0) -> nn.Module:
        """The averaged weights where they are kept, else the network itself."""
        return self.ema[index] if self.ema is not None else _bare(self.networks[index])

    def predictor(self) -> Predictor:
        autocast = torch.bfloat16 if self.spec.engine.precision == "bf16-mixed" else None
        factor = _bare(self.networks[0]).factor
        return Predictor(self.tracks, self.spec.plan, factor, self.device, autocast, self.method)

    def opinion(self, case: PreparedCase, features: bool = False) -> Prediction:
        """What the fold says of a case once it is trained: the mean of its method's evaluation passes."""
        predictor = self.predictor()
        passes = enumerate(self.method.evaluation_passes())
        return mean_of_passes(
            [predictor.predict(self.best_network(n), case, (view,), features and not i) for i, (n, view) in passes]
        )

    def batch(self, step: int) -> Batch:
        """The batch of `step` of this epoch: cases in an order drawn anew for each epoch."""
        n, size = len(self.case_ids), self.stage.size or self.spec.plan.batch
        order = np.random.default_rng([self.spec.seed, self.number, self.epoch, 1]).permutation(
            np.tile(np.arange(n), -(-self.spec.plan.steps * size // n))
        )
        chosen = order[step * size : (step + 1) * size]
        cases = [self._cases[self.case_ids[i]] for i in chosen]
        seeds = [(self.spec.seed, self.number, self.epoch, step * size + j, 2) for j in range(len(cases))]
        maps, whole = self._maps(c.id for c in cases), self.stage.batch == "images"
        batch = make_batch(cases, maps, self.tracks, self.spec.plan, self.spec.engine, seeds, whole)
        return _to_device(batch, self.device)

    def step(self, step: int) -> float | None:
        """One optimiser step. Returns the loss, None where the method skipped. Raises RunFailed."""
        batch = self.batch(step)
        self._set_rates()
        trained = self.stage.networks
        for i, network in enumerate(self.networks):
            network.train(i in trained).requires_grad_(i in trained)
        loss = self.method.loss(self, batch)
        self.keep_verified(batch.case_ids)
        if loss is None:
            return None
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._failed("loss", value, step, batch)
        self.spec.fabric.backward(loss)
        norms = [nn.utils.clip_grad_norm_(group["params"], MAX_GRADIENT) for group in self._optimizer.param_groups]
        if not all(math.isfinite(float(norm)) for norm in norms):
            raise self._failed("gradient", math.nan, step, batch)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average(trained)
        return value

    def _failed(self, what: str, value: float, step: int, batch: Batch) -> RunFailed:
        return RunFailed(
            f"the {what} became {value} in fold {self.number}, epoch {self.epoch + 1}, step {step + 1} (cases "
            f"{', '.join(sorted(set(batch.case_ids)))}). Look at these cases, or start a run with a lower lr."
        )

    def keep_verified(self, cases: Iterable[str] | None = None) -> None:
        """Write what people verified back into the working labels, of all cases or of some."""
        for case in self.case_ids if cases is None else set(cases):
            for track, mask in self.verified[case].items():
                if mask is not None:
                    np.copyto(self.working_labels[case][track], self.labels[case][track], where=np.asarray(mask))

    def start(self) -> None:
        """The method's first moment; what it adds to the optimiser, it adds here."""
        self.method.on_run_start(self)
        self.keep_verified()
        self._started = True

    def forget(self) -> None:
        """Give back what only training needs; the networks stay."""
        self.working_labels, self._extra = {}, {}

    def state_dict(self) -> Tree:
        """Everything that the rest of the fold depends on."""
        return {
            "networks": [_bare(n).state_dict() for n in self.networks],
            "ema": None if self.ema is None else [n.state_dict() for n in self.ema],
            "optimizer": self._optimizer.state_dict(),
            "added": [p.detach() for p in self._added],
            "method": self.method.state_dict(),
            "working": {i: {t: self._changes(i, t) for t in self.labels[i]} for i in self.case_ids},
            "extra": _each_map(self._extra, _packed),
            "rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            "restarts": self._restarts,
        }  # fmt: skip

    def load_state_dict(self, state: Tree) -> None:
        for network, weights in zip(self.networks, state["networks"], strict=True):
            _bare(network).load_state_dict(weights)
        for network, weights in zip(self.ema or [], state["ema"] or [], strict=True):
            network.load_state_dict(weights)
        with torch.no_grad():
            for p, value in zip(self._added, state["added"], strict=True):
                p.copy_(value)
        self.method.load_state_dict(state["method"])
        self._optimizer.load_state_dict(state["optimizer"])
        for case, tracks in state["working"].items():
            for track, changes in tracks.items():
                self.working_labels[case][track] = np.array(self.labels[case][track])
                apply_runs(self.working_labels[case][track], from_bytes(changes.tobytes()))
        self._extra = _each_map(state["extra"], _unpacked)
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"])
        self._restarts = state["restarts"]

    # ------------------------------------------------------------ helpers, in order of use

    def _new_network(self, index: int) -> nn.Module:
        spec = self.spec
        entropy = np.random.SeedSequence([spec.seed, self.number, self._restarts, index])
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        channels = spec.in_channels * (2 * spec.plan.context + 1)
        tracks = {t.name: t.n_classes for t in self.tracks}
        network = build_network(spec.engine.network, spec.plan.n_dims, channels, tracks, strides=spec.strides)
        if spec.engine.weights and index == 0:  # the others stay random: two equal networks would stay equal
            load_weights(network, Path(spec.engine.weights))
        return network

    def _make_optimizer(self) -> Any:
        """One group per network, in their order; those of the method follow."""
        engine = self.spec.engine
        groups = [self._group(list(n.parameters()), engine.lr, engine.weight_decay) for n in self.networks]
        return self.spec.fabric.setup_optimizers(torch.optim.AdamW(groups))

    def _group(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> dict[str, Any]:
        own = {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": weight_decay}
        return {**own, "done": 0, "total": self._steps_left()}

    def _steps_left(self) -> int:
        return max(1, (self.epochs - self.epoch) * self.spec.plan.steps)

    def _set_rates(self) -> None:
        for group in self._optimizer.param_groups:
            done = min(1.0, group["done"] / group["total"])
            group["lr"] = group["base_lr"] * 0.5 * (1 + math.cos(math.pi * done))
            group["done"] += 1

    @torch.no_grad()
    def _average(self, which: Sequence[int]) -> None:
        if self.ema is None:
            return
        for i in which:
            done = self._optimizer.param_groups[i]["done"]
            decay = min(self.spec.engine.ema, (1 + done) / (10 + done))
            mean, network = self.ema[i].state_dict(), _bare(self.networks[i]).state_dict()
            for a, b in zip(mean.values(), network.values(), strict=True):
                if a.dtype.is_floating_point:
                    a.lerp_(b, 1 - decay)
                else:
                    a.copy_(b)

    def _maps(self, cases: Iterable[str]) -> Mapping[str, Mapping[str, CaseMaps]]:
        return {i: {t.name: self._case_maps(i, t.name) for t in self.tracks} for i in cases}

    def _case_maps(self, case: str, track: str) -> CaseMaps:
        grid = self._cases[case].image.shape[1:]
        verified = self._cases[case].verified[track]
        extra = {n: c[case][track].reshape(grid) for n, c in self._extra.items() if track in c.get(case, {})}
        working = self.working_labels[case][track].reshape(grid)
        return CaseMaps(self._cases[case].labels[track], working, verified, extra)

    def _changes(self, case: str, track: str) -> np.ndarray:
        before, after = np.asarray(self.labels[case][track]), self.working_labels[case][track]
        return np.frombuffer(to_bytes(encode_runs(before != after, before, after)), np.uint8).copy()


def _bare(network: nn.Module) -> Any:
    """The network without the wrapper that Fabric puts around it."""
    return getattr(network, "module", network) if hasattr(network, "_forward_module") else network


def _frozen_copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(False).eval()


def _to_device(batch: Batch, device: torch.device) -> Batch:
    def move(planes: dict[str, Tensor]) -> dict[str, Tensor]:
        return {t: p.to(device) for t, p in planes.items()}

    return Batch(
        batch.images.to(device), move(batch.labels), move(batch.working), move(batch.verified), move(batch.weight),
        batch.case_ids, batch.index, batch.views, {n: move(e) for n, e in batch.extra.items()},
    )  # fmt: skip


def _each_map(maps: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """`change` applied to each of maps[name][case][track]."""
    return {n: {i: {t: change(a) for t, a in tracks.items()} for i, tracks in c.items()} for n, c in maps.items()}


def _packed(values: np.ndarray) -> Tree:
    data = zlib.compress(np.ascontiguousarray(values).tobytes(), 1)
    return {"data": np.frombuffer(data, np.uint8).copy(), "shape": list(values.shape)}


def _unpacked(packed: Tree) -> np.ndarray:
    return np.frombuffer(zlib.decompress(packed["data"].tobytes()), np.float16).reshape(packed["shape"]).copy()
