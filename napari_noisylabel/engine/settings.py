"""What the engine lets a person set. Imports no torch, so that forms and `--help` can show it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_noisylabel.errors import BadSetting


class EngineSettings(BaseModel):
    """Settings of every training, whatever its method. "auto" and 0 are decided by data and device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dims: Literal["auto", "2d", "2.5d", "3d"] = Field("auto", description="Patches in 2-D, 2-D with neighbours, or 3-D")
    network: str = Field("unet", description="unet, unet-large, or a network of MONAI by name")
    weights: str = Field("", description="Local safetensors file to start from")
    lr: float = Field(2e-3, gt=0, le=1, description="Learning rate of AdamW, falling to 0 along a cosine")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Weight decay of AdamW")
    patch: tuple[int, ...] = Field((), description="Patch size per axis, such as 64,64,64")
    batch: int = Field(0, ge=0, le=1024, description="Patches per step")
    steps: int = Field(0, ge=0, le=100000, description="Steps per epoch")
    foreground: float = Field(0.6, ge=0, le=1, description="Share of patches centred on a class")
    augment: bool = Field(True, description="Light augmentation: turn, zoom, brightness, contrast, noise")
    flips: Literal["auto", "yes", "no"] = Field("auto", description="Mirror patches; auto: in 2-D photographs")
    ema: float = Field(0.99, ge=0, lt=1, description="Decay of the averaged weights; 0 keeps none")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field("auto", description="Number format")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all cores but one")
    gives_way: bool = Field(True, description="On few cores, wait between steps while somebody works in the window")

    @field_validator("patch", mode="before")
    @classmethod
    def _split_text(cls, value: Any) -> Any:
        return tuple(int(v) for v in value.replace("x", ",").split(",")) if isinstance(value, str) else value

    @field_validator("patch")
    @classmethod
    def _check_patch(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value and (len(value) not in (2, 3) or min(value) < 8):
            raise ValueError("a patch has two or three sides of at least 8 voxels")
        return value


def check_engine(values: Mapping[str, Any]) -> EngineSettings:
    """The settings with defaults filled in. Raises BadSetting in one sentence."""
    try:
        return EngineSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadSetting(
            f"engine setting {key!r} is not usable: {first['msg'].lower()}, got {first.get('input')!r}. "
            f"The settings are: {', '.join(EngineSettings.model_fields)}."
        ) from None


def default_threads() -> int:
    """All cores but one, at least one: the window keeps a core for itself."""
    return max(1, cores() - 1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
