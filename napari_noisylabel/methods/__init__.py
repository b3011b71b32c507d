"""The published methods under one interface. Importing this list does not import torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from napari_noisylabel.errors import BadSetting, MissingPart, UnknownName
from napari_noisylabel.methods.settings import (
    AdeleSettings,
    CoresSettings,
    CrossEntropySettings,
    JcasSettings,
    MethodSettings,
    SelfCleansingSettings,
    SpatialCorrectionSettings,
)

ENTRY_POINT_GROUP = "napari_noisylabel.methods"


@dataclass(frozen=True)
class MethodInfo:
    """What can be said about a method without importing it.

    `factory` is "module:Class"; the class takes the fields of `settings` as keyword arguments.
    """

    name: str
    title: str
    settings: type[MethodSettings]
    factory: str
    needs: tuple[str, ...] = ()

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
    ),
    MethodInfo(
        "self-cleansing",
        "Mixture filter and label cleansing (inspired by Deep Self-Cleansing)",
        SelfCleansingSettings,
        "napari_noisylabel.methods.self_cleansing:SelfCleansing",
        needs=("several cases",),
    ),
    MethodInfo(
        "jcas",
        "Joint class-affinity segmentation with two transition matrices (JCAS)",
        JcasSettings,
        "napari_noisylabel.methods.jcas:JCAS",
    ),
    MethodInfo(
        "cores",
        "Confidence regulariser and sample sieve (CORES^2)",
        CoresSettings,
        "napari_noisylabel.methods.cores:Cores",
    ),
    MethodInfo(
        "adele",
        "Adaptive early-learning correction (ADELE)",
        AdeleSettings,
        "napari_noisylabel.methods.adele:Adele",
    ),
    MethodInfo(
        "spatial-correction",
        "Boundaries moved back by their measured bias (Spatial Correction)",
        SpatialCorrectionSettings,
        "napari_noisylabel.methods.spatial_correction:SpatialCorrection",
        needs=("a verified case",),
    ),
)


def methods() -> dict[str, MethodInfo]:
    """All methods by name: the built-in ones, then those of installed third parties."""
    found = {info.name: info for info in BUILT_IN}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        info = point.load()
        found.setdefault(info.name, info)
    return found


def method_info(name: str) -> MethodInfo:
    """The method called `name`. Raises UnknownName."""
    known = methods()
    if name not in known:
        raise UnknownName(f"there is no method {name!r}. The methods are: {', '.join(known)}.")
    return known[name]
