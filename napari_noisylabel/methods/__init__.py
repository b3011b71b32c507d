"""The published methods under one interface. Importing this list does not import torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from napari_noisylabel.errors import BadSetting, MissingPart, UnknownName
from napari_noisylabel.methods.settings import (
    ActiveRefinementSettings,
    AdeleSettings,
    CoresSettings,
    CrossEntropySettings,
    EnsembleSettings,
    FmiTransitionSettings,
    JcasSettings,
    MethodSettings,
    MultiSaSettings,
    SelfCleansingSettings,
    SpatialCorrectionSettings,
)
from napari_noisylabel.methods.situation import Asset, ErrorKind, Need

ENTRY_POINT_GROUP = "napari_noisylabel.methods"


@dataclass(frozen=True)
class MethodInfo:
    """What can be said about a method without importing it.

    `factory` is "module:Class"; the class takes the fields of `settings` as keyword arguments.
    `made_for` says in words for which errors it was made, `needs` what must be there (a `Need`, or words).
    `suits` gives a reason, a sentence without its full stop, for each kind of error and each thing at
    hand that speaks for the method, its main purpose first; `choosing.advise` goes by it. `weak`: it
    learns where something is from image-level tags alone, so its proposals are shown as weak, and
    never accepted in bulk.
    """

    name: str
    title: str
    settings: type[MethodSettings]
    factory: str
    needs: tuple[str, ...] = ()
    made_for: str = ""
    weak: bool = False
    suits: Mapping[ErrorKind | Asset, str] = field(default_factory=dict)

    def check(self, values: Mapping[str, Any]) -> MethodSettings:
        """The settings with defaults filled in. Raises BadSetting in one sentence.

        "preset" names a set of values (`MethodSettings.PRESETS`), which the others then change.
        """
        own = dict(values)
        preset = own.pop("preset", None)
        if preset is not None and preset not in self.settings.PRESETS:
            known = ", ".join(self.settings.PRESETS) or "none"
            raise BadSetting(f"method {self.name!r} has no preset {preset!r}. Its presets: {known}.")
        try:
            return self.settings(**{**self.settings.PRESETS.get(preset or "", {}), **own})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            known = ", ".join(self.settings.model_fields)
            raise BadSetting(
                f"setting {key!r} of method {self.name!r} is not usable: {first['msg'].lower()}, got "
                f"{first.get('input')!r}. The settings are: {known}."
            ) from None

    def make(self, settings: MethodSettings) -> Any:
        """A fresh instance, for one fold. Imports torch."""
        module, _, attribute = self.factory.partition(":")
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise MissingPart(
                f"method {self.name!r} cannot be loaded: {error}. Install what trains networks with: "
                "pip install 'napari-noisylabel[train]'."
            ) from error
        return factory(**settings.model_dump())


BUILT_IN = (
    MethodInfo(
        "cross-entropy",
        "Cross-entropy and Dice on the labels as they are",
        CrossEntropySettings,
        "napari_noisylabel.methods.cross_entropy:CrossEntropy",
        made_for="errors that differ from case to case; the baseline",
        suits={
            ErrorKind.UNKNOWN: "the simplest is hard to beat in short runs, and the others are measured against it",
            ErrorKind.UNEVEN: "such errors average out over cases",
            Asset.RATERS: "a network that learns from all drawers draws what most of them agree on",
            Asset.FEW_CASES: "it estimates nothing but the network, and few cases are enough for little more",
        },
    ),
    MethodInfo(
        "self-cleansing",
        "Mixture filter and label cleansing (inspired by Deep Self-Cleansing)",
        SelfCleansingSettings,
        "napari_noisylabel.methods.self_cleansing:SelfCleansing",
        needs=(Need.CASES,),
        made_for="some objects badly drawn or missing, others right",
        suits={ErrorKind.MISSING: "it tells badly drawn objects from good ones and learns from the good ones"},
    ),
    MethodInfo(
        "jcas",
        "Joint class-affinity segmentation with two transition matrices (JCAS)",
        JcasSettings,
        "napari_noisylabel.methods.jcas:JCAS",
        made_for="classes mixed up, scattered and ragged errors",
        suits={
            ErrorKind.SCATTERED: "a matrix of confusions and the agreement of neighbours undo them",
            ErrorKind.SWAPPED: "its matrix learns which class is given for which, while it trains",
            ErrorKind.UNKNOWN: "of all methods it gained most on errors of several kinds at once",
        },
    ),
    MethodInfo(
        "cores",
        "Confidence regulariser and sample sieve (CORES^2)",
        CoresSettings,
        "napari_noisylabel.methods.cores:Cores",
        made_for="errors that depend on what the place looks like",
        suits={
            ErrorKind.HARD: "labels that the network does not support are sieved out",
            Asset.RATERS: "on a crowd's cells it gained most, though by little",
        },
    ),
    MethodInfo(
        "adele",
        "Adaptive early-learning correction (ADELE)",
        AdeleSettings,
        "napari_noisylabel.methods.adele:Adele",
        made_for="objects drawn too large or too small, each its own way",
        suits={
            ErrorKind.UNEVEN: "it corrects such errors before the network learns them by heart",
            ErrorKind.MISSING: "it fills in what is left out before the network learns that by heart",
        },
    ),
    MethodInfo(
        "fmi-transition",
        "Transition matrix from neighbours in other cases, features weighted by f-mutual information",
        FmiTransitionSettings,
        "napari_noisylabel.methods.fmi_transition:FmiTransition",
        needs=(Need.CASES,),
        made_for="one class taken for another, whatever the place",
        suits={ErrorKind.SWAPPED: "it reads the rule off voxels that look alike in other cases"},
    ),
    MethodInfo(
        "spatial-correction",
        "Boundaries moved back by their measured bias (Spatial Correction)",
        SpatialCorrectionSettings,
        "napari_noisylabel.methods.spatial_correction:SpatialCorrection",
        needs=(Need.VERIFIED,),
        made_for="all boundaries too wide, or all too narrow",
        suits={
            ErrorKind.ONE_SIDED: "what all masks share a network learns, too, and only a verified case shows it",
            Asset.VERIFIED: "it measures on your verified case how far boundaries are off, and moves them back",
        },
    ),
    MethodInfo(
        "active-refinement",
        "Two networks that choose for each other, and a person who is asked (active label refinement)",
        ActiveRefinementSettings,
        "napari_noisylabel.methods.active_refinement:ActiveRefinement",
        made_for="classes of unequal size with many wrong labels, and somebody who answers in rounds",
        suits={
            ErrorKind.RARE: "two networks choose for each other, class by class, so that rare classes stay",
            ErrorKind.MISSING: "regions that lack something are not chosen, and the networks see past them",
            Asset.PERSON: "rounds of asking settle what its two networks doubt",
        },
    ),
    MethodInfo(
        "multi-sa",
        "Masks from image-level tags by attention on several layers (after Multi-SA)",
        MultiSaSettings,
        "napari_noisylabel.methods.multi_sa:MultiSA",
        needs=(Need.TAGS,),
        made_for="images of which only the content is known; weak evidence",
        weak=True,
        suits={Asset.TAGS: "it needs no mask; what it proposes is weak evidence to start drawing from"},
    ),
)


ENSEMBLE = MethodInfo(
    "ensemble",
    "The evidence of several complete runs, weighed and combined",
    EnsembleSettings,
    "napari_noisylabel.engine.combine:combine",
    needs=(Need.RUNS,),
    made_for="not knowing which errors to expect",
    suits={
        ErrorKind.UNKNOWN: "one queue from several methods, and you see where they disagree",
        Asset.RUNS: "it makes one queue of your runs, and shows where they disagree",
        Asset.VERIFIED: "your verified case tells how much each run is worth",
    },
)


def methods() -> dict[str, MethodInfo]:
    """All methods by name: the built-in ones, then those of installed third parties that can be loaded."""
    found = _own()
    for _, info in _third_parties():
        if isinstance(info, MethodInfo):
            found.setdefault(info.name, info)
    return found


def broken_methods() -> dict[str, str]:
    """Entry points of third parties that give no method, and why in a sentence."""
    return {name: info for name, info in _third_parties() if isinstance(info, str)}


def is_weak(name: str) -> bool:
    """True where the proposals of a method go back to image-level tags; False for one that is not installed here."""
    info = _own().get(name) or methods().get(name)  # who asks often should not look through what is installed
    return info is not None and info.weak


def method_info(name: str) -> MethodInfo:
    """The method called `name`. Raises UnknownName, MissingPart."""
    known = methods()
    if name not in known:
        broken = broken_methods()
        if name in broken:
            raise MissingPart(broken[name])
        raise UnknownName(f"there is no method {name!r}. The methods are: {', '.join(known)}.")
    return known[name]


def _own() -> dict[str, MethodInfo]:
    """The methods of the program, by name."""
    return {info.name: info for info in (*BUILT_IN, ENSEMBLE)}


def _third_parties() -> Iterator[tuple[str, MethodInfo | str]]:
    """Name of each entry point with what it gives, or with why it gives nothing.

    It is somebody else's code: whatever it raises, the other methods must stay usable.
    """
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            info = point.load()
        except Exception as error:
            detail = str(error).splitlines()[0] if str(error) else "no detail"
            why = (
                f"method {point.name!r} of a third party cannot be loaded: {type(error).__name__}: {detail}. "
                "Install what it needs, or remove the package that brings it."
            )
            yield point.name, why
            continue
        if isinstance(info, MethodInfo):
            yield point.name, info
        else:
            why = (
                f"the entry point {point.name!r} of {ENTRY_POINT_GROUP} must give a MethodInfo, got "
                f"{type(info).__name__}. Ask its author, or remove the package that brings it."
            )
            yield point.name, why
