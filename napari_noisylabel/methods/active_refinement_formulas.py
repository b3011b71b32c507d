"""Formulas of active label refinement: forget rate, gradients of the last layer, their variance, the selection.

B. Khanal, T. Dai, B. Bhattarai, C. Linte, MICCAI 2024 (arXiv 2407.05973), on co-teaching (Han et al., NeurIPS 2018)
and the variance of gradients, VOG (Agarwal, D'souza, Hooker, CVPR 2022). An example is whatever has one label: a
picture, a case, or a piece of a case.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST_RATE, MOST_RATE = 0.02, 0.4
"""Bounds of an estimated forget rate: something is always forgotten, and the majority is believed."""


def forget_rate(epoch: int, rate: float, ramp: int) -> float:
    """Share that is forgotten in `epoch` (from 0): rising in a line from 0 to `rate` over `ramp` epochs."""
    return rate if epoch >= ramp - 1 else rate * epoch / (ramp - 1)


def n_kept(n: int, rate: float) -> int:
    """How many of `n` examples a forget rate leaves, rounded down."""
    return math.floor((1 - rate) * n + 1e-9)


def given_gradients(p_given: Tensor, features: Tensor) -> Tensor:
    """Gradient of each example's cross-entropy on the row of the last layer that its given label has.

    p_given (N,) is the softmax of the given label, features (N, d) what the last layer is linear in;
    returns (N, d + 1): (p - 1) [1, h], the bias first.
    """
    return (p_given - 1)[:, None] * torch.cat([torch.ones_like(features[:, :1]), features], 1)


def all_gradients(probs: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """The same of all rows: probs (N, K), labels (N,), features (N, d) -> (N, K, d + 1)."""
    rows = probs - torch.nn.functional.one_hot(labels, probs.shape[1]).to(probs.dtype)
    return rows[:, :, None] * torch.cat([torch.ones_like(features[:, :1]), features], 1)[:, None]


def variance_of_gradients(history: Tensor) -> Tensor:
    """VOG of examples from their gradients in the last epochs, (epochs, N, ...) -> (N,).

    Per element the population standard deviation over the epochs, then the mean over elements: called a variance in
    the publication, and a standard deviation there as well. Low where an example is fitted steadily, but also where
    it is rejected steadily.
    """
    return history.std(0, correction=0).flatten(1).mean(1)


def within_class(values: Tensor, classes: Tensor) -> Tensor:
    """Values (N,) as standard scores among the examples with the same given class (N,).

    Those of rare classes are larger as a whole; compared within their class they are not. Where a class has one
    value only, the scores are 0. Infinite values (nothing known yet) stay, and have no say.
    """
    out = values.clone()
    for k in classes.unique():
        own = (classes == k) & values.isfinite()
        if own.any():
            mine = values[own]
            out[own] = (mine - mine.mean()) / mine.std(correction=0).clamp_min(1e-12)
    return out


def propose(loss: Tensor, vog: Tensor, k: int, share: float) -> tuple[Tensor, Tensor]:
    """The `k` examples that a peer holds to be clean: by small loss, and of the rest by small VOG.

    Parameters
    ----------
    loss : (N,) of one peer.
    vog : (N,) of the same peer, infinite where unknown; then the smaller loss decides.
    k : how many.
    share : of them that VOG chooses (rho): int(k (1 - rho)) have the smallest losses, int(k rho) of
        the others the smallest VOG. The two roundings may leave one of `k` out.

    Returns
    -------
    Two masks (N,) bool that share no example.
    """
    by_loss = loss.argsort(stable=True)
    first = math.floor(k * (1 - share) + 1e-9)
    second = math.floor(k * share + 1e-9)
    small, steady = torch.zeros_like(loss, dtype=torch.bool), torch.zeros_like(loss, dtype=torch.bool)
    small[by_loss[:first]] = True
    rest = by_loss[first:]
    steady[rest[vog[rest].argsort(stable=True)[:second]]] = True
    return small, steady


def choose(
    loss: Tensor, vog: Tensor, classes: Tensor, rate: float, share: float, per_class: bool, background: float = 0.0
) -> Tensor:
    """The examples of a batch that a peer proposes for training, (N,) bool.

    Parameters
    ----------
    loss, vog : (N,) of one peer; `share` 0 selects by loss alone (co-teaching).
    classes : (N,) given classes.
    rate : share that is forgotten.
    per_class : rank within each given class, so that none is forgotten as a whole; else all together, as published.
    background : with `per_class`, class 0 forgets as if it had at most this many times the examples
        of all other classes together; 0: as any other class.
    """
    if not per_class:
        small, steady = propose(loss, vog, n_kept(len(loss), rate), share)
        return small | steady
    kept = torch.zeros_like(loss, dtype=torch.bool)
    foreground = int((classes > 0).sum())
    for c in classes.unique().tolist():
        own = (classes == c).nonzero().squeeze(1)
        n = len(own)
        counted = min(n, int(background * foreground)) if background and c == 0 else n
        small, steady = propose(loss[own], vog[own], n - (counted - n_kept(counted, rate)), share)
        kept[own] = small | steady
    return kept


def estimated_rate(p_given: Tensor, weight: Tensor) -> float:
    """Forget rate from the peers' own doubt: the share of examples whose given label they hold to be improbable.

    p_given (N,) is the mean over both peers, weight (N,) how much an example counts, such as its
    voxels. Our stand-in for a rate that nobody knows; between 0.02 and 0.4.
    """
    total = float(weight.sum())
    share = float(weight[p_given < 0.5].sum()) / total if total else 0.0
    return min(max(share, LEAST_RATE), MOST_RATE)


def overlap(a: Tensor, b: Tensor) -> float | None:
    """Shared part of two selections (N,) bool: intersection over union; None where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None


def rank_likelihood(rank: Tensor, rate: float) -> Tensor:
    """P(label is wrong) from the rank of a loss within its class, in [0, 1]: ours.

    It rises in a line between the quantiles 1 - 2 rate and 1: one half where the selection cuts, and
    `rate` on average, as the assumed rate of wrong labels says.
    """
    return ((rank - (1 - 2 * rate)) / (2 * rate)).clamp(0, 1)
