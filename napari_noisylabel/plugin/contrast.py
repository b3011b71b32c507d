"""Contrast presets: windows for CT, percentiles for everything else."""

from __future__ import annotations

import numpy as np

# Lower and upper limit in Hounsfield units (width, level): 400/40, 1500/-600, 1800/400, 80/40.
CT_WINDOWS: dict[str, tuple[float, float]] = {
    "CT soft tissue": (-160.0, 240.0),
    "CT lung": (-1350.0, 150.0),
    "CT bone": (-500.0, 1300.0),
    "CT brain": (0.0, 80.0),
}
PERCENTILES: dict[str, tuple[float, float]] = {
    "1 to 99 %": (1.0, 99.0),
    "0.1 to 99.9 %": (0.1, 99.9),
    "full range": (0.0, 100.0),
}
PRESETS = (*PERCENTILES, *CT_WINDOWS)
SAMPLE = 200_000
"""Voxels that percentiles are taken from: a few milliseconds on any volume."""


def sample(image: np.ndarray, n: int = SAMPLE) -> np.ndarray:
    """About `n` finite values of `image`, evenly spread over the last axis' lines."""
    step = max(1, round((image.size / n) ** (1 / image.ndim)))
    values = image[(slice(None, None, step),) * image.ndim].ravel()
    values = values[np.isfinite(values)]
    return values if values.size else np.zeros(1, dtype=np.float32)


def looks_like_ct(image: np.ndarray) -> bool:
    """True where values reach far below zero, as air does in Hounsfield units."""
    values = sample(image)
    return bool(values.min() <= -500 and values.max() > 0)


def contrast_limits(image: np.ndarray, preset: str) -> tuple[float, float]:
    """Lower and upper limit of `preset` for `image`, never equal."""
    if preset in CT_WINDOWS:
        return CT_WINDOWS[preset]
    low, high = (float(x) for x in np.percentile(sample(image), PERCENTILES[preset]))
    return (low, high) if high > low else (low, low + 1.0)


def default_preset(image: np.ndarray) -> str:
    """Soft tissue for CT, the middle 98 % for the rest."""
    return "CT soft tissue" if looks_like_ct(image) else "1 to 99 %"
