"""The settings of each method: checks, forms and `--help` come from here. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class MethodSettings(BaseModel):
    """Base of all settings: unknown names and values out of range are refused.

    The defaults suit small data and short runs. `PRESETS` names other sets of values, such as
    "paper" (the publication's) and "as-released" (what the authors' code does where it differs).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}


class CrossEntropySettings(MethodSettings):
    """Cross-entropy plus soft Dice on the labels as they are."""

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term")


class SelfCleansingSettings(MethodSettings):
    """Mixture filter and label cleansing, inspired by Dong and Zhang et al., 2025."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "reconstruction": {"warmup": 0.15, "ramp": 10, "refresh": 1, "level": "case", "smoothing": 0.7},
    }
    """No values of the authors are known: these are those of our reconstruction's description."""

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term")
    warmup: float = Field(0.4, gt=0, lt=1, description="Share of the epochs before cleansing starts")
    ramp: int = Field(2, ge=1, le=100, description="Epochs in which the pseudo-label weight rises to 1")
    refresh: int = Field(2, ge=1, le=100, description="Epochs between two refreshes of scores and filter")
    level: Literal["case", "object"] = Field("object", description="What is called clean: cases, or objects and pieces")
    soft: bool = Field(False, description="Weigh label and pseudo label by P(clean) instead of choosing one")
    tau: float = Field(0.5, gt=0, lt=1, description="Clean from this posterior on")
    smoothing: float = Field(0.5, ge=0, lt=1, description="Share of the last score in the moving mean of scores")
    confident: float = Field(0.8, gt=0.5, lt=1, description="A pseudo label counts from this probability on")
    temperature: float = Field(0.1, gt=0, le=10, description="Temperature of the prototype softmax")
    prototypes: int = Field(3, ge=1, le=20, description="Prototypes per class")
    background_prototypes: int = Field(5, ge=1, le=20, description="Prototypes of the background")
    drop_small: bool = Field(True, description="Drop pseudo objects smaller than the 1st percentile of clean ones")
    max_deleted: float = Field(0.1, ge=0, le=1, description="Share of a class's objects that pseudo labels may delete")


_JCAS: Mapping[str, Any] = {
    "dice_weight": 0.0, "warmup": 0.5, "embedding": 256, "nodes": 4096, "reasoning": "nodes", "rows": 0,
    "balanced": False, "affinity_weight": 0.1, "auxiliary_class_weight": 0.1, "auxiliary_affinity_weight": 1.0,
    "volume_weight": 0.5, "consistency_weight": 0.01, "initial_diagonal": 0.0, "transition_lr": 1e-3,
    "head_lr": 1e-3, "prior": "noisy",
}  # fmt: skip
_JCAS_RELEASED: Mapping[str, Any] = {"mirrored": True, "grid": "count", "inference_nodes": 1024, "transition_lr": 1e-4}


class JcasSettings(MethodSettings):
    """Joint class-affinity segmentation (JCAS), Guo and Yuan, MICCAI 2022."""

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term")
    warmup: float = Field(0.2, ge=0, le=1, description="Share of the epochs without transition matrices")
    embedding: int = Field(16, ge=2, le=256, description="Channels of the embedding that affinity is made of")
    nodes: int = Field(1728, ge=8, le=16384, description="Most nodes of the coarse grid over a patch")
    inference_nodes: int = Field(0, ge=0, le=16384, description="The same for predictions; 0: as in training")
    grid: Literal["mm", "count"] = Field("mm", description="Nodes equal in mm, or equally many along each axis")
    reasoning: Literal["voxels", "nodes", "off"] = Field("voxels", description="What reasons: voxels, nodes, nothing")
    rows: int = Field(256, ge=0, le=16384, description="Rows of the affinity matrix in a step's loss; 0: all")
    balanced: bool = Field(True, description="Same and different pairs count half each")
    affinity_weight: float = Field(0.5, ge=0, le=10, description="Weight of the pair loss")
    volume_weight: float = Field(0.1, ge=0, le=10, description="Weight of the matrices' volume")
    consistency_weight: float = Field(5.0, ge=0, le=10, description="Weight of the tie between the matrices")
    auxiliary_class_weight: float = Field(0.0, ge=0, le=10, description="Weight of a second head's class loss")
    auxiliary_affinity_weight: float = Field(0.0, ge=0, le=10, description="Weight of a second head's pair loss")
    initial_diagonal: float = Field(0.9, ge=0, lt=1, description="Of both matrices; 0: the published start")
    transition_lr: float = Field(0.1, gt=0, le=1, description="Learning rate of the matrices")
    head_lr: float = Field(2e-3, gt=0, le=1, description="Learning rate of the embedding")
    prior: Literal["clean", "noisy"] = Field("clean", description="Class frequencies that tie the matrices")
    mirrored: bool = Field(False, description="Compare the matrices in opposite order, as the released code does")
    posterior: bool = Field(False, description="Noise likelihood from the class matrix, not from all networks")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": _JCAS, "as-released": {**_JCAS, **_JCAS_RELEASED}}


_CORES_PAPER: Mapping[str, Any] = {
    "dice_weight": 0.0, "beta": 2.0, "beta_from": 0.1, "beta_full": 0.4, "sieve_from": 0.31, "prior": "voxels",
    "known_from": 0.0, "least_steps": 0, "level": "voxel", "margin": 0.0, "keep_at_least": 0.0, "sieve_by": "epoch",
    "refresh": 1, "consistency": 0.0, "smooth": 0.0, "likelihood": "sieve",
}  # fmt: skip


class CoresSettings(MethodSettings):
    """Confidence regulariser and sample sieve (CORES^2), Cheng et al., ICLR 2021."""

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term, over what is kept")
    beta: float = Field(1.0, ge=0, le=20, description="Largest weight of the confidence regulariser")
    beta_from: float = Field(0.1, ge=0, le=1, description="Share of the first stage's epochs before beta rises")
    beta_full: float = Field(0.4, ge=0, le=1, description="Share of the first stage's epochs when beta is largest")
    sieve_from: float = Field(0.31, ge=0, le=1, description="Share of the first stage's epochs before the sieve starts")
    known_from: float = Field(
        0.5, ge=0, le=1, description="Beta and sieve wait until the network names this share of every class"
    )
    least_steps: int = Field(60, ge=0, le=1_000_000, description="Optimiser steps that beta and sieve wait at least")
    prior: Literal["balanced", "box", "voxels"] = Field(
        "balanced", description="Prior of labels: classes count alike, voxels near foreground, or all kept voxels"
    )
    level: Literal["voxel", "region", "supervoxel"] = Field(
        "voxel", description="What is kept or rejected as a whole: voxels, bands and cores of objects, or cells"
    )
    margin: float = Field(0.0, ge=-15, le=15, description="Nats by which a label must be supported to be kept")
    keep_at_least: float = Field(
        0.2, ge=0, le=1, description="A class is not sieved while the sieve would keep less than this share of it"
    )
    sieve_by: Literal["batch", "epoch"] = Field(
        "batch", description="Sieve voxels in each batch, or by evaluation passes (always so for regions)"
    )
    refresh: int = Field(2, ge=1, le=100, description="Epochs between two such passes")
    band_mm: float = Field(2.0, gt=0, le=100, description="Width of the bands on either side of a boundary, in mm")
    supervoxel_mm: float = Field(4.0, gt=0, le=1000, description="Side of a cell, in mm")
    consistency: float = Field(0.4, ge=0, le=0.95, description="Share of epochs of the second stage; 0: none")
    fresh: bool = Field(True, description="Start the second stage with new weights, as published")
    fresh_steps: int = Field(
        400, ge=0, le=1_000_000, description="Steps that new weights need: a shorter second stage is left out"
    )
    consistency_weight: float = Field(0.4, ge=0, le=10, description="Weight of the divergence of the two views")
    unlabelled: float = Field(0.25, ge=0, le=1, description="Share of patches whose rejected voxels are compared")
    strength: float = Field(0.5, ge=0, le=1, description="Of the strong view's changes of intensity")
    smooth: float = Field(0.5, ge=0, le=5, description="Voxels over which predictions are averaged before scoring")
    likelihood: Literal["networks", "sieve"] = Field(
        "networks", description="Noise likelihood: what all networks reject, or the sieve's score"
    )

    PRESETS = {
        "paper": _CORES_PAPER,
        "as-released": {**_CORES_PAPER, "sieve_by": "batch"},
        "paper-starred": {
            **_CORES_PAPER, "beta_from": 0.25, "beta_full": 1.0, "sieve_from": 0.775,
            "consistency": 0.5, "fresh": True, "fresh_steps": 0, "consistency_weight": 0.4, "unlabelled": 0.5,
            "strength": 1.0,
        },
    }  # fmt: skip


_SEGTHOR: Mapping[str, Any] = {  # the values of the medical experiment in the released code of ADELE
    "dice_weight": 0.0, "enlarged": 1.0, "temperature": 3.0, "correction_temperature": 3.0, "skip": "gain",
    "skip_below": 0.1, "earliest": 0.0, "least_steps": 0, "points": 1, "interval": 10, "constraint": "slice",
    "guard": False,
}  # fmt: skip


class AdeleSettings(MethodSettings):
    """Adaptive early-learning correction (ADELE), Liu et al., CVPR 2022."""

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term")
    scales: tuple[float, ...] = Field((0.7, 1.0, 1.5), description="Scales of the images in training, 1 among them")
    rescale: Literal["in-plane", "all"] = Field("in-plane", description="In 3-D, rescale the two finest axes or all")
    enlarged: float = Field(0.5, gt=0, le=1, description="Share of a batch that is also seen at scales above 1")
    consistency_weight: float = Field(1.0, ge=0, le=100, description="Weight of the consistency of scales")
    gate: Literal["image", "voxel"] = Field("image", description="What must be sure for its consistency to count")
    gate_above: float = Field(0.8, ge=0, le=1, description="From this mean probability on it is sure")
    temperature: float = Field(1.0, gt=0, le=20, description="Logits are divided by it in the class loss")
    learned_scales: bool = Field(False, description="Learn a weight for the logits of each scale")
    total: Literal["mean", "sum"] = Field("mean", description="Losses of the scales: their mean or their sum")
    save_memory: bool = Field(False, description="Compute the other scales twice and keep nothing of them in between")
    change: float = Field(0.9, gt=0, le=1, description="Share by which the slope of the IoU curve must have fallen")
    skip: Literal["level", "gain", "none"] = Field("level", description="Epochs left out: low IoU, small gains, none")
    skip_below: float = Field(0.05, ge=0, le=1, description="IoU, or gain in IoU per point, below which to leave out")
    min_points: int = Field(4, ge=1, le=100, description="Points that a curve is fitted to at least")
    earliest: float = Field(0.3, ge=0, le=1, description="Share of the epochs before which nothing is corrected")
    least_steps: int = Field(120, ge=0, le=1_000_000, description="Optimiser steps before which nothing is corrected")
    points: int = Field(0, ge=0, le=1000, description="Points of the IoU curve per epoch; 0: so that a run has 30")
    unit: Literal["point", "epoch"] = Field("point", description="Unit of time of the slope")
    trigger: Literal["class", "first"] = Field("class", description="Each class by itself, or all with the first")
    predictions: Literal["pass", "training"] = Field("pass", description="Correct from a pass, or from training steps")
    correction_scales: tuple[float, ...] = Field((0.7, 1.0, 1.5), description="Scales that a correction averages")
    flips: bool = Field(False, description="Average over the mirrored image, too (last axis)")
    correction_temperature: float = Field(1.0, gt=0, le=20, description="Logits are divided by it in a correction")
    interval: int = Field(2, ge=1, le=100, description="Epochs between two corrections")
    start_from: Literal["given", "corrected"] = Field("given", description="Correct the given or the last labels")
    tau_foreground: float = Field(0.7, ge=0, le=1, description="A foreground class overwrites above this probability")
    tau_background: float = Field(0.7, ge=0, le=1, description="Background overwrites above this probability")
    concerns: Literal["both", "prediction"] = Field("both", description="What must be a class that is corrected")
    constraint: Literal["case", "slice", "off"] = Field("case", description="Where a class must be shown to be added")
    guard: bool = Field(True, description="Leave cases alone that would lose most of their foreground")

    @field_validator("scales", "correction_scales", mode="before")
    @classmethod
    def _split_text(cls, value: Any) -> Any:
        return tuple(v for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("scales", "correction_scales")
    @classmethod
    def _check_scales(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in value or len(set(value)) < len(value) or not all(0.25 <= v <= 4 for v in value):
            raise ValueError("scales are different numbers from 0.25 to 4, and 1 is among them")
        return value

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "dice_weight": 0.0, "enlarged": 1.0, "skip": "none", "earliest": 0.0, "least_steps": 0, "points": 1,
            "flips": True, "guard": False,
        },
        "segthor": _SEGTHOR,
        "voc": {
            "dice_weight": 0.0, "enlarged": 1.0, "temperature": 3.0, "correction_temperature": 3.0,
            "learned_scales": True, "total": "sum", "skip": "none", "earliest": 0.0, "least_steps": 0, "points": 10,
            "unit": "epoch", "flips": True, "correction_scales": (0.75, 1.0, 1.5), "interval": 1,
            "tau_foreground": 0.8, "tau_background": 0.8, "concerns": "prediction",
        },
        "as-released": {
            **_SEGTHOR, "correction_temperature": 1.0, "predictions": "training", "start_from": "corrected",
            "min_points": 1,
        },
    }  # fmt: skip


_PUBLISHED_SPATIAL: Mapping[str, Any] = {
    "dice_weight": 0.0, "gamma": 0.8, "cleanings": 1, "first": 0.5, "guard": 1.0, "least": 1.0, "until_unbiased": False,
    "move": "logits", "cap": 0.0, "keep_components": False, "shared_errors": False,
}  # fmt: skip


class SpatialCorrectionSettings(MethodSettings):
    """Boundaries moved back by the bias that verified cases show; Yao et al., ICLR 2023."""

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term")
    gamma: float = Field(1.0, gt=0, le=2, description="Share of the measured bias that is taken back")
    class_gamma: dict[str, float] = Field({}, description="Another gamma for some classes: liver=0.8,spleen=0.4")
    cleanings: int = Field(3, ge=1, le=10, description="New starts on moved labels, at most")
    first: float = Field(0.4, gt=0, lt=1, description="Share of the epochs before the first of them")
    period: float = Field(0.2, gt=0, lt=1, description="Share of the epochs between two of them")
    guard: float = Field(1.0, ge=0.1, le=10, description="Voxels that a boundary must be off by for a new start")
    least: float = Field(0.4, ge=0.1, le=10, description="Voxels that a boundary must be off by to be moved at all")
    until_unbiased: bool = Field(True, description="Start anew only where a boundary is off by that much")
    move: Literal["boundary", "logits"] = Field("boundary", description="By the bias itself, or the published bump")
    peak: float = Field(100.0, ge=50, le=100, description="Percentile of |logit| that the bump is as high as")
    cap: float = Field(0.5, ge=0, le=1, description="Share of its inner depth that a class may lose; 0: all of it")
    keep_components: bool = Field(True, description="Leave a component alone that would be erased")
    self_training: bool = Field(True, description="Classes without a bias are relabelled by the prediction, too")
    shared_divisor: bool = Field(False, description="Divide the bias by the number of classes, as the released code")
    thick: float = Field(3.0, ge=1, le=100, description="Slices so much thicker than pixels are measured one by one")
    shared_errors: bool = Field(True, description="Propose what all labels share, though no label stands out by it")

    @field_validator("class_gamma", mode="before")
    @classmethod
    def _split_pairs(cls, value: Any) -> Any:
        pairs = [part.partition("=") for part in value.split(",") if part.strip()] if isinstance(value, str) else ()
        return {name.strip(): number for name, _, number in pairs} if isinstance(value, str) else value

    @field_validator("class_gamma")
    @classmethod
    def _check_gammas(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(0 < v <= 2 for v in value.values()):
            raise ValueError("the gamma of a class is over 0 and at most 2")
        return value

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": _PUBLISHED_SPATIAL,
        "as-released": {**_PUBLISHED_SPATIAL, "shared_divisor": True},
    }


class MultiSaSettings(MethodSettings):
    """Masks from image-level tags by attention on several layers, after Yaganapu and Kang, 2024."""

    classifier: float = Field(0.5, gt=0, lt=1, description="Share of the epochs of the classifier")
    images: int = Field(16, ge=1, le=256, description="Images per step of the classifier")
    layers: tuple[int, ...] = Field((3, 4, 5), description="Stages (2 to 5) whose attended features are stacked")
    attention: bool = Field(True, description="Self-attention at these stages; off: plain features")
    auxiliary: float = Field(0.3, ge=0, le=10, description="Weight of a classifier at each stage; 0: none")
    fusion: Literal["product", "mean", "max", "stack"] = Field(
        "product", description="How the maps of the stack and of each stage become one; or those of the stack alone"
    )
    width: int = Field(8, ge=8, le=128, multiple_of=8, description="Channels of the first stage")
    embedding: int = Field(16, ge=8, le=512, multiple_of=8, description="Channels of each stage in the stack")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout before the classifier")
    top: float = Field(0.1, gt=0, le=1, description="Share of positions that a class's score is the mean of; 1: all")
    nodes: int = Field(1024, ge=16, le=16384, description="Most positions that attend to each other")
    classifier_lr: float = Field(3e-3, gt=0, le=0.1, description="Learning rate of the classifier")
    steps: int = Field(0, ge=0, le=64, description="Steps by which attention spreads activation; 0: none")
    scales: tuple[float, ...] = Field((1.0,), description="Sizes of the image that activation is averaged over")
    flip: bool = Field(False, description="Average activation over the mirrored image, too (last axis)")
    pseudo: Literal["seeds", "dense"] = Field("seeds", description="Sure voxels alone, or a class for each voxel")
    foreground: float = Field(0.3, gt=0, lt=1, description="Activation above which a voxel is of the class")
    background: float = Field(0.05, ge=0, lt=1, description="Activation below which a voxel is background")
    alpha: float = Field(4.0, gt=0, le=64, description="Power of the background's score in dense masks")
    regrow: float = Field(0.0, ge=0, lt=1, description="Share of the second stage after which masks grow; 0: never")
    grow_foreground: float = Field(0.85, gt=0, lt=1, description="A voxel joins the class beside it above this")
    grow_background: float = Field(0.99, gt=0, lt=1, description="A voxel joins the background beside it above this")
    masks: Literal["use", "ignore"] = Field("use", description="Given masks teach the second stage, or only tags do")
    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term of the second stage")

    @field_validator("layers", "scales", mode="before")
    @classmethod
    def _split_text(cls, value: Any) -> Any:
        return tuple(v for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not set(value) <= {2, 3, 4, 5} or list(value) != sorted(set(value)):
            raise ValueError("layers are different stages from 2 to 5 in ascending order")
        return value

    @field_validator("scales")
    @classmethod
    def _check_scales(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or len(set(value)) < len(value) or not all(0.25 <= v <= 4 for v in value):
            raise ValueError("scales are different numbers from 0.25 to 4")
        return value

    @model_validator(mode="after")
    def _check_limits(self) -> MultiSaSettings:
        if self.background >= self.foreground:
            raise ValueError("background must be below foreground")
        return self

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "class-activation": {"layers": (5,), "attention": False, "auxiliary": 0.0, "fusion": "stack", "top": 1.0},
        "last-layer": {"layers": (5,), "auxiliary": 0.0, "fusion": "stack"},
        "reconstruction": {
            "width": 32, "embedding": 256, "dropout": 0.5, "top": 1.0, "fusion": "stack", "steps": 0,
            "classifier_lr": 1e-3, "scales": (0.5, 1.0, 1.5, 2.0), "flip": True, "foreground": 0.25,
        },
    }  # fmt: skip
    """No values of the authors are known. "class-activation" and "last-layer" are what the method is compared with."""


class EnsembleSettings(MethodSettings):
    """Which runs are combined, and how they count."""

    runs: str = Field("", description="Runs by commas; none: the latest complete one of each method")
    weights: Literal["evidence", "equal"] = Field("evidence", description="By what each said of decisions, or alike")


_FMI_PAPER: Mapping[str, Any] = {
    "dice_weight": 0.0, "neighbours": "any", "lift": False, "floor": False, "pure": 1.0, "rounds": 50,
    "solver": "adam",
}  # fmt: skip


class FmiTransitionSettings(MethodSettings):
    """Transition matrix from neighbours, features weighted by f-mutual information; Zhu et al., ICML 2022."""

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term")
    features_from: Literal["hand", "network"] = Field("hand", description="Features made by hand, or the fold's own")
    wait: float = Field(0.3, ge=0, lt=1, description="Share of the epochs before features of the network are taken")
    voxels: int = Field(600, ge=50, le=20000, description="Voxels sampled per case")
    space: Literal["raw", "decoupled"] = Field("raw", description="Weigh the features as they are, or uncorrelated")
    weights: Literal["tv", "kl", "none"] = Field(
        "tv", description="Weigh features by total variation or Kullback-Leibler information, or not at all"
    )
    neighbours: Literal["cases", "any"] = Field("cases", description="Neighbours from other cases only, or any")
    lift: bool = Field(True, description="Add a constant to the features, so that their size counts in cosines")
    pure: float = Field(0.5, gt=0, le=1, description="Share of voxels counted, those whose neighbours agree best")
    rounds: int = Field(8, ge=1, le=200, description="Random parts of the voxels that neighbours are looked for in")
    share: float = Field(0.5, gt=0, le=1, description="Of the voxels, in such a part")
    repeats: int = Field(10, ge=0, le=200, description="Repeats on halves of the cases, for standard errors")
    solver: Literal["bfgs", "adam"] = Field("bfgs", description="BFGS from six starts, or Adam as released")
    keep: Literal["best", "last"] = Field("best", description="The step of Adam that is kept")
    label_bins: int = Field(0, ge=0, le=64, description="Bins of labels in the information; 0: one per class")
    floor: bool = Field(True, description="With fewer than 5 features, none weighs less than 0.05")
    likelihood: Literal["networks", "posterior"] = Field(
        "networks", description="Noise likelihood: what all networks reject, or the posterior by the matrix"
    )
    proposal: Literal["posterior", "network"] = Field(
        "posterior", description="Propose the most probable true class with the label heard, or by the network alone"
    )

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": _FMI_PAPER,
        "as-released": {**_FMI_PAPER, "keep": "last", "label_bins": 2},
    }


_PUBLISHED_PEERS: Mapping[str, Any] = {  # the code is the only source of the publication's details
    "dice_weight": 0.0, "forget": 0.4, "ramp": 0.2, "vog": "literal", "share": 0.2, "vog_from": 0.22, "memory": 5,
    "per_class": False, "background": 0.0, "refine": 0.0, "clean_by": "last", "passes": 1,
}  # fmt: skip


class ActiveRefinementSettings(MethodSettings):
    """Two networks that choose for each other (active label refinement), Khanal et al., MICCAI 2024."""

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term, over what is kept")
    forget: float = Field(0.0, ge=0, lt=1, description="Share of wrong labels that is assumed; 0: estimated")
    ramp: float = Field(0.3, ge=0, le=1, description="Share of the epochs in which it rises from 0")
    vog: Literal["class", "literal"] = Field(
        "class", description="Compare variances of gradients within the given class, or all with all as published"
    )
    share: float = Field(0.2, ge=0, lt=1, description="Share of the choice that the variance of gradients makes")
    vog_from: float = Field(0.4, ge=0, le=1, description="Share of the epochs before it does")
    memory: int = Field(3, ge=2, le=20, description="Epochs that the variance of gradients is over")
    per_class: bool = Field(True, description="Rank within each given class, or all together as published")
    background: float = Field(
        1.0, ge=0, le=100, description="Background forgets as if it were so many times the foreground; 0: as a class"
    )
    unit: Literal["region", "case"] = Field("region", description="What is kept or forgotten as a whole")
    unit_mm: float = Field(5.0, gt=0, le=1000, description="Side of a region, in mm; larger where there are too many")
    refine: float = Field(0.2, ge=0, le=0.9, description="Share of the epochs in which the first network goes on alone")
    clean_by: Literal["vote", "last"] = Field("vote", description="What it learns: by vote, or of its last epoch")
    passes: int = Field(2, ge=1, le=10, description="Passes that a prediction is the mean of; 1: the first network")
    likelihood: Literal["networks", "rank"] = Field(
        "networks", description="Noise likelihood: what all networks reject, or the rank of a region's loss"
    )

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"as-released": _PUBLISHED_PEERS}


class PeersSettings(MethodSettings):
    """Active label refinement of whole examples with one class each, such as tagged pictures."""

    epochs: int = Field(30, ge=1, le=10000, description="Epochs in which the peers teach each other")
    batch: int = Field(64, ge=2, le=4096, description="Examples per step; under 64 shares are rounded badly")
    lr: float = Field(0.01, gt=0, le=1, description="Learning rate of SGD, falling to 0 along a cosine")
    hidden: int = Field(64, ge=4, le=2048, description="Features of the last layer")
    side: int = Field(64, ge=16, le=512, description="Pictures are brought to so many pixels per axis")
    noise: float = Field(0.5, ge=0, le=5, description="Of augmentation, in standard deviations; needed by the variance")
    forget: float = Field(0.2, ge=0, lt=1, description="Share of wrong labels that is assumed; 0: estimated")
    ramp: float = Field(0.33, ge=0, le=1, description="Share of the epochs in which it rises from 0")
    vog: Literal["class", "literal"] = Field("class", description="Compare variances within the given class, or all")
    share: float = Field(0.2, ge=0, lt=1, description="Share of the choice that the variance of gradients makes")
    vog_from: float = Field(0.36, ge=0, le=1, description="Share of the epochs before it does")
    memory: int = Field(5, ge=2, le=50, description="Epochs that the variance of gradients is over")
    rows: Literal["given", "all"] = Field("given", description="Gradient of the given label's row, or of all rows")
    per_class: bool = Field(False, description="Rank losses within each given class, too")
    clean_by: Literal["vote", "last"] = Field("vote", description="Judged clean: by vote, or by the first peer at last")
    refine: int = Field(10, ge=1, le=10000, description="Epochs after each round of answers")
    held_out: float = Field(0.25, ge=0, lt=1, description="Share of the examples that only measures")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as-released": {
            "epochs": 50, "batch": 256, "ramp": 0.2, "vog": "literal", "vog_from": 0.22, "clean_by": "last",
            "refine": 25,
        }
    }  # fmt: skip
