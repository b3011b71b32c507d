"""The settings of each method: checks, forms and `--help` come from here. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


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

    dice_weight: float = Field(1.0, ge=0, le=10, description="Weight of the soft Dice term")
    warmup: float = Field(0.4, gt=0, lt=1, description="Share of the epochs before cleansing starts")
    ramp: int = Field(5, ge=1, le=100, description="Epochs in which the pseudo-label weight rises to 1")
    refresh: int = Field(3, ge=1, le=100, description="Epochs between two refreshes of scores and filter")
    tau: float = Field(0.5, gt=0, lt=1, description="Clean from this posterior on")
    confident: float = Field(0.8, gt=0.5, lt=1, description="A pseudo label counts from this probability on")
    temperature: float = Field(0.1, gt=0, le=10, description="Temperature of the prototype softmax")
