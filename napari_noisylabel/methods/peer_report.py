"""What two peers show of their choices: forget rate, shares kept, agreement, losses and variances, and who was kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from napari_noisylabel.inner import Curve, Fit, InnerState, Mixtures, Note
from napari_noisylabel.methods.peer_units import PEERS, PeerRecord

BINS = 40
POINTS = 200  # of the scatter plot
TOO_ALIKE = 0.99
"""Overlap of the peers' choices from which on two networks are no better than one."""


def describe(record: PeerRecord, rate: float, clean_by: str, overlaps: Sequence[float]) -> list[InnerState]:
    """The states of one track after an epoch; `overlaps` are of its batches, `rate` what was forgotten."""
    track, names = record.track, [f"{record.track.name}/{c}" for c in record.track.classes]
    known = (record.seen > 0) & (record.classes >= 0)
    clean = record.clean(clean_by)
    agreement = float(np.mean(overlaps)) if overlaps else None
    kept = record.votes[-1] / record.asked[-1].clamp_min(1)
    per_peer = {
        f"{name}, peer {peer + 1}": _mean(kept[peer][known & (record.classes == k)])
        for k, name in enumerate(names)
        for peer in range(PEERS)
    }
    judged = {name: _mean(clean[known & (record.classes == k)].float()) for k, name in enumerate(names)}
    loss, raw, scored = record.loss.mean(0), record.vog.mean(0), _scored(record)
    shown: list[InnerState] = [
        Curve(f"forget rate of {track.name}", {"forgotten": rate}),
        Curve(f"share proposed of {track.name}", per_peer),
        Curve(f"share judged clean of {track.name}", judged),
        Curve(f"overlap of the peers' choices of {track.name}", {"intersection over union": agreement}),
        _histogram(f"loss of units of {track.name}", loss, known, clean, "nats"),
    ]
    if (known & raw.isfinite()).any():
        shown += [
            _histogram(f"variance of gradients of {track.name}", raw, known, clean, ""),
            _histogram(f"the same, within the given class, of {track.name}", scored, known, clean, "sd"),
            _scatter(f"loss and variance of gradients of {track.name}", loss, scored, known, clean),
        ]
    text = _warning(agreement, judged)
    return [*shown, Note(f"peers of {track.name}", text)] if text else shown


def _scored(record: PeerRecord) -> Tensor:
    return torch.stack([record.vog_for(peer, True) for peer in range(PEERS)]).mean(0)


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def _histogram(name: str, values: Tensor, known: Tensor, clean: Tensor, unit: str) -> Mixtures:
    """Judged clean and not, over one range."""
    finite = known & values.isfinite()
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 1.0)
    high = max(high, low + 1e-6)
    counts = {}
    for series, where in (("judged clean", finite & clean), ("not judged clean", finite & ~clean)):
        found = np.histogram(values[where].cpu().numpy(), BINS, (low, high))[0]
        counts[series] = tuple(int(v) for v in found)
    return Mixtures(name, low, high, counts, unit=unit)


def _scatter(name: str, loss: Tensor, vog: Tensor, known: Tensor, clean: Tensor) -> Fit:
    """Some units; `mark` is the largest loss among those judged clean by most, where the boundary lies."""
    where = (known & vog.isfinite()).nonzero().squeeze(1)
    some = where[:: -(-len(where) // POINTS)]
    own = loss[where[clean[where]]]
    mark = float(own.quantile(0.95)) if len(own) else None
    x, y = (tuple(round(float(v), 4) for v in values[some]) for values in (loss, vog))
    return Fit(name, x, y, mark=mark, note="units: loss in nats, variance of gradients within the given class in sd; "
               "the mark is the loss under which 95 % of those judged clean lie")  # fmt: skip


def _warning(agreement: float | None, judged: dict[str, float | None]) -> str:
    empty = [name for name, share in judged.items() if share == 0]
    if empty:
        return f"not one unit of {', '.join(empty)} was judged clean: lower `forget`, or choose per class"
    if agreement is not None and agreement > TOO_ALIKE:
        return f"the peers choose the same ({agreement:.0%}): two networks are then no better than one"
    return ""
