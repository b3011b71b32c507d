"""A run from its first step to its last score: a generator of reports that holds no thread.

Each `yield` is a report and a place to stop. The loop reads as the papers' pseudo-code; folds,
checkpoints, out-of-fold scores and the held-out mean are around it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from napari_noisylabel.arrays.metrics import dice
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.checkpoint import Tree, epoch_checkpoints, load_checkpoint, save_checkpoint
from napari_noisylabel.engine.data import CaseArrays, PreparedCase, drop_prepared, make_folds, prepare_all
from napari_noisylabel.engine.fold import Fold, FoldSpec
from napari_noisylabel.engine.journal import to_line
from napari_noisylabel.engine.patches import PatchPlan, plan_patches
from napari_noisylabel.engine.score import objects_per_case, score_case
from napari_noisylabel.engine.settings import EngineSettings, check_engine, default_threads
from napari_noisylabel.engine.spec import RunSpec
from napari_noisylabel.errors import InputError, RunFailed
from napari_noisylabel.inner import to_json
from napari_noisylabel.methods import method_info
from napari_noisylabel.methods.base import Method, Prediction
from napari_noisylabel.records import IGNORE, Report, Track

REPORT_EVERY_S = 0.1
FOLD_STEPS = 400
"""Steps of a fold where the size of the data decides: 150 images of 256 x 256 take some 15 minutes on two cores."""
CURVE_CASES = 6
"""Unseen cases that each epoch's Dice curve is measured on."""


def choose_device(name: str) -> tuple[str, torch.device]:
    """Accelerator name for Fabric and the torch device. "auto" takes a GPU where there is one."""
    if name in ("auto", ""):
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name not in ("cpu", "cuda", "mps"):
        raise InputError(f"a device is auto, cpu, cuda or mps, got {name!r}. Choose one of them.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch finds no CUDA device here. Use auto or cpu.")
    return name, torch.device(name)


def choose_precision(device: str) -> str:
    """bf16 where the device computes in it faster (measured: 1.2 to 3 times), else full precision.

    A look at what the processor can, not a timing: the choice must be the same on every start.
    """
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    if device == "cpu":
        capable = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return "bf16-mixed" if capable or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)() else "32-true"
    return "32-true"


def settle(spec: RunSpec) -> RunSpec:
    """`spec` with every "auto" decided, as it goes into `run.json`. Raises BadSetting, UnknownName."""
    info = method_info(spec.method)
    device, _ = choose_device(spec.device)
    engine = check_engine(spec.engine)
    precision = choose_precision(device) if engine.precision == "auto" else engine.precision
    engine = engine.model_copy(update={"precision": precision, "threads": engine.threads or default_threads()})
    return replace(spec, device=device, engine=engine.model_dump(), settings=info.check(spec.settings).model_dump())


def default_epochs(plan: PatchPlan) -> int:
    """Epochs where nobody asked for a number: more for few cases, and what two CPU cores can do for many."""
    return int(np.clip(round(FOLD_STEPS / plan.steps), 10, 60))


def train(
    spec: RunSpec, cases: Iterator[CaseArrays] | Sequence[CaseArrays], tracks: Sequence[Track], folder: Path
) -> Iterator[Report]:
    """Train all folds, score every case out of fold, held-out cases by the mean of all networks.

    Writes only inside `folder` (the run's). Continues from the checkpoints it finds there: with
    the same spec the result is the same as without the interruption.

    Raises
    ------
    InputError : fewer groups than folds.
    RunFailed : the loss is no number any more.
    DiskFull : no room for a checkpoint or a map.
    """
    spec = settle(spec)
    engine = check_engine(spec.engine)
    torch.set_num_threads(engine.threads)
    torch.use_deterministic_algorithms(spec.device == "cpu")
    yield Report(spec.run, "start", epochs=spec.epochs, message="reading and normalising the cases")
    cache = folder / "cache"
    try:
        prepared = prepare_all(cases, tracks, cache, spec.seed)
        yield from _train_prepared(spec, engine, prepared, tuple(tracks), folder)
    finally:
        drop_prepared(cache)
        if spec.device == "cuda":
            torch.cuda.empty_cache()


def _train_prepared(
    spec: RunSpec, engine: EngineSettings, prepared: Mapping[str, PreparedCase], tracks: tuple[Track, ...], folder: Path
) -> Iterator[Report]:
    training = [c for c in prepared.values() if not c.held_out]
    reference = [c for c in training if c.verified_case] if _method(spec).needs_reference else []
    training = [c for c in training if c not in reference and (c.has_labels or _method(spec).uses_tags)]
    _check_enough(training, spec.folds)
    _check_reference(spec, reference)
    folds = make_folds(training, spec.folds, spec.seed)
    plan = plan_patches(training, engine, _factor(engine), big_device=spec.device != "cpu")
    spec = replace(spec, epochs=spec.epochs or default_epochs(plan))
    yield Report(spec.run, "start", epochs=spec.epochs, message="training")
    fabric = Fabric(accelerator=spec.device, devices=1, precision=engine.precision)  # type: ignore[arg-type]
    channels = training[0].image.shape[0]
    shared = FoldSpec(tracks, plan, engine, channels, spec.seed, spec.epochs, fabric, _strides(plan, engine))
    clock = _Clock(spec, plan, spec.folds)
    members = []
    with _enough_memory(plan):
        for number in range(spec.folds):
            own = [c for c in training if folds[c.id] != number or spec.folds == 1]
            fold = Fold(shared, number, own, _method(spec), reference)
            unseen = [c for c in training if folds[c.id] == number]
            yield from _train_fold(spec, fold, unseen, folder, clock)
            fold.forget()
            members.append(fold)
        yield from _score(spec, members, folds, list(prepared.values()), folder)


def _train_fold(
    spec: RunSpec, fold: Fold, unseen: Sequence[PreparedCase], folder: Path, clock: _Clock
) -> Iterator[Report]:
    checkpoints = folder / "checkpoints" / f"fold-{fold.number}"
    fold.start()
    first = _resume(fold, checkpoints)
    for fold.epoch in range(first, spec.epochs):
        began = time.monotonic()
        fold.method.on_epoch_start(fold)
        fold.keep_verified()
        losses = []
        for step in range(fold.spec.plan.steps):
            losses.append(fold.step(step))
            if clock.due():
                yield clock.report("step", fold)
        fold.method.on_epoch_end(fold)
        fold.keep_verified()
        report = clock.report(
            "epoch",
            fold,
            seconds=time.monotonic() - began,
            losses=_mean_loss(losses),
            dice=_curve(fold, unseen[:CURVE_CASES]),
            inner=to_json(fold.method.inner()),
        )
        _save(fold, checkpoints, report)
        yield report
    fold.epoch = spec.epochs


def _score(
    spec: RunSpec, folds: Sequence[Fold], fold_of: Mapping[str, int], cases: Sequence[PreparedCase], folder: Path
) -> Iterator[Report]:
    """Each training case by its own fold's network, held-out and reference cases by the mean of all."""
    objects = objects_per_case([c for c in cases if c.id in fold_of], folds[0].tracks)
    for i, case in enumerate(cases):
        scores = CaseScores(folder, case.id)
        if not scores.complete:
            own = fold_of.get(case.id)
            each = [f.opinion(case, features=f.number == (own or 0)) for f in folds]
            unseen = _mean(each) if own is None else each[own]
            others = [p for f, p in zip(folds, each, strict=True) if f.number != own]
            score_case(
                scores, case, unseen, _mean(others or each), folds[0].tracks, folds[own or 0].method,
                folds[0].spec.plan.in_plane, objects,
            )  # fmt: skip
        yield Report(spec.run, "phase", stage="score", done=i + 1, total=len(cases))


# ---------------------------------------------------------------- helpers, in order of use


@contextmanager
def _enough_memory(plan: PatchPlan) -> Iterator[None]:
    """Where memory runs out, say so and offer a smaller patch. Raises RunFailed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = ",".join(str(max(8, plan.size[axis] // 16 * 8)) for axis in plan.in_plane)
        less = [f"--set patch={smaller}", *([f"--set batch={plan.batch // 2}"] if plan.batch > 1 else [])]
        raise RunFailed(
            f"training needs more memory than there is ({_first_line(error)}). Start a run with a smaller patch or "
            f"batch ({' '.join(less)}) or with --set network=unet, or resume this one where more memory is free."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """NumPy raises MemoryError; torch says it in words, other ones for each device."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in ("out of memory", "can't allocate memory"))


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no detail").rstrip(". ")


def _check_enough(training: Sequence[PreparedCase], folds: int) -> None:
    groups = {c.group for c in training}
    if len(groups) < folds or not training:
        raise InputError(
            f"out-of-fold scores need at least one group of cases per fold: {len(groups)} group(s) of training cases, "
            f"{folds} folds. Add cases, give fewer folds, or hold fewer cases out."
        )


def _check_reference(spec: RunSpec, reference: Sequence[PreparedCase]) -> None:
    if _method(spec).needs_reference and not reference:
        raise InputError(
            f"method {spec.method!r} measures itself on a case that is known to be right, and none is verified. Verify "
            "one (noisylabel verify PROJECT --case ID, or Whole case in the window), then train."
        )


def _factor(engine: EngineSettings) -> int:
    return 8 if engine.network.startswith("unet") else 32


def _strides(plan: PatchPlan, engine: EngineSettings) -> tuple[tuple[int, ...], ...] | None:
    """Halve an axis only while it is long enough: thin patches keep their slices apart."""
    if not engine.network.startswith("unet"):
        return None
    sizes = [plan.size[a] for a in plan.in_plane]
    steps = []
    for _ in range(3):
        step = tuple(2 if s >= 8 else 1 for s in sizes)
        sizes = [s // f for s, f in zip(sizes, step, strict=True)]
        steps.append(step)
    return tuple(steps)


def _method(spec: RunSpec) -> Method:
    info = method_info(spec.method)
    return info.make(info.check(spec.settings))


def _resume(fold: Fold, checkpoints: Path) -> int:
    """Bring `fold` to its last checkpoint; the epoch to go on with."""
    found = epoch_checkpoints(checkpoints)
    if not found:
        return 0
    tree = load_checkpoint(found[-1])
    fold.epoch = tree["epoch"] + 1
    fold.load_state_dict(tree["fold"])
    return fold.epoch


def _save(fold: Fold, checkpoints: Path, report: Report) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    tree: Tree = {"epoch": fold.epoch, "fold": fold.state_dict()}
    kept = save_checkpoint(checkpoints, f"epoch-{fold.epoch:05d}", tree, {"report.json": to_line(report)})
    for old in epoch_checkpoints(checkpoints):
        if old != kept:
            shutil.rmtree(old, ignore_errors=True)


def _curve(fold: Fold, unseen: Sequence[PreparedCase]) -> dict[str, float | None]:
    """Mean Dice per "TRACK/CLASS" of unseen cases against the labels the run trains on."""
    found: dict[str, list[float]] = {}
    predictor, network = fold.predictor(), fold.best_network()
    for case in unseen:
        prediction = predictor.predict(network, case)
        for track in fold.tracks:
            labels = case.as_given(case.labels[track.name])
            guess = np.where(labels == IGNORE, IGNORE, prediction.probs[track.name].argmax(0))
            for k in range(1, track.n_classes):
                found.setdefault(f"{track.name}/{track.classes[k]}", []).append(dice(guess == k, labels == k))
    with np.errstate(all="ignore"):
        means = {name: np.array(v)[~np.isnan(v)] for name, v in found.items()}
    return {name: float(v.mean()) if v.size else None for name, v in means.items()}


def _mean_loss(losses: Sequence[float | None]) -> dict[str, float]:
    """Over the steps that were not skipped; empty if all were."""
    taken = [v for v in losses if v is not None]
    return {"train": float(np.mean(taken))} if taken else {}


def _mean(predictions: Sequence[Prediction]) -> Prediction:
    """The mean softmax of several networks, and the features of the one that gave them."""
    if len(predictions) == 1:
        return predictions[0]
    features = next((p.features for p in predictions if p.features is not None), None)
    probs = {
        t: np.asarray(np.mean([p.probs[t] for p in predictions], axis=0, dtype=np.float32), np.float16)
        for t in predictions[0].probs
    }
    return Prediction(predictions[0].case, probs, features)


class _Clock:
    """Counts steps over all folds, spaces the reports, estimates the time left."""

    def __init__(self, spec: RunSpec, plan: PatchPlan, folds: int) -> None:
        self._spec, self._steps = spec, plan.steps
        self._total = folds * spec.epochs * plan.steps
        self._began = self._last = time.monotonic()
        self._began_at: int | None = None
        self._in_epoch = 0

    def due(self) -> bool:
        """True if it is time for another report; counts the step that was just done."""
        self._in_epoch += 1
        now = time.monotonic()
        if now - self._last < REPORT_EVERY_S:
            return False
        self._last = now
        return True

    def report(self, kind: str, fold: Fold, **values: Any) -> Report:
        if kind == "epoch":
            self._in_epoch = 0
        epochs = fold.number * self._spec.epochs + fold.epoch + (kind == "epoch")
        done = min(self._total, epochs * self._steps + self._in_epoch)
        if self._began_at is None:
            self._began_at = max(0, done - max(1, self._in_epoch))
        rate = (time.monotonic() - self._began) / max(1, done - self._began_at)
        return Report(
            self._spec.run, kind, fold.number, fold.epoch, self._spec.epochs, done, self._total,
            left_s=round(rate * (self._total - done), 1), stage=fold.stage.name, **values,
        )  # fmt: skip
