"""The formulas of JCAS: affinity, reasoning with it, and the two transition matrices.

X. Guo, Y. Yuan, "Joint Class-Affinity Loss Correction for Robust Medical Image Segmentation with
Noisy Labels", MICCAI 2022 (arXiv 2206.07994). Two voxels form a pair; its label is 0 where they
are of different classes and 1 where they are of the same, and that is also the order of rows and
columns in every 2 x 2 matrix here. Shapes: B patches, K classes, D channels of the embedding, N
nodes of a coarse grid, V voxels (or nodes) that are reasoned about. All of them in float32.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

EPS = 1e-9
SMALLEST = 1e-10
"""Probabilities are clamped here before a logarithm."""
PAIR_MARGIN = 1e-4
"""Affinities are kept this far from 0 and 1 before a logarithm: one pair costs 9 nats at most, not 23."""
LOG_VOLUME_FLOOR = math.log(1e-4)
"""Below it a matrix is as good as singular, and its volume is not made smaller."""


def unit_embedding(values: Tensor) -> Tensor:
    """ReLU, then length 1 along axis 1: (B, D, ...) -> the same. All zero stays zero."""
    positive = values.relu()
    return positive / (positive.norm(dim=1, keepdim=True) + EPS)


def affinity(rows: Tensor, nodes: Tensor) -> Tensor:
    """P(same class) of each pair: (B, D, M) and (B, D, N) unit embeddings -> (B, M, N) in [1e-10, 1]."""
    return (rows.transpose(1, 2) @ nodes).clamp(SMALLEST, 1)


def reasoned(logits: Tensor, embedding: Tensor, node_logits: Tensor, nodes: Tensor) -> Tensor:
    """Differentiated affinity reasoning: Q' = Q + (A_in Q - A_out Q) / 2.

    A_in is the affinity and A_out is 1 - affinity, each with rows that sum to 1: logits are pulled
    towards those of nodes believed to be of the same class, and pushed away from the others.
    Affinity is a product of embeddings, so A Q = G (G' Q): no (V, N) matrix is ever made, and time
    and memory grow with V + N.

    Parameters
    ----------
    logits : (B, K, V), of the voxels or nodes that are reasoned about.
    embedding : (B, D, V), theirs, not negative and of any length.
    node_logits, nodes : (B, K, N) and (B, D, N), of all nodes; unit embeddings.

    Returns
    -------
    (B, K, V) refined logits. Where all nodes look alike, or none does, the empty one of the two sums
    adds nothing.

    Source: "differentiated affinity reasoning" of the paper, there with one set of nodes.
    """
    n = nodes.shape[2]
    asked = torch.cat([node_logits, torch.ones_like(node_logits[:, :1])], 1) @ nodes.transpose(1, 2)
    length = (embedding * embedding).sum(1, keepdim=True).clamp_min(EPS**2).sqrt()
    answered = (asked @ embedding) / (length + EPS)  # length is divided out late: K + 1 planes instead of D
    pulled, mass = answered[:, :-1], answered[:, -1:]  # A Q and the row sums of A
    inner = pulled / (mass + EPS * n)
    outer = (node_logits.sum(2)[:, :, None] - pulled) / ((n - mass).clamp_min(0) + 1e-5 * n)  # float32 leaves 1e-7 n
    return logits + 0.5 * (inner - outer)


def transition_matrix(free: Tensor) -> Tensor:
    """(n, n) with rows that sum to 1, from free parameters: rows of I + sigmoid(W) (1 - I), normalised.

    The diagonal is the largest of each row whatever W is, and at least 1 / n.
    """
    eye = torch.eye(len(free), device=free.device)
    raw = eye + free.sigmoid() * (1 - eye)
    return raw / raw.sum(1, keepdim=True)


def log_volume(matrix: Tensor) -> Tensor:
    """log |det T|, not below log 1e-4: minimised, it makes a transition matrix identifiable."""
    flat = torch.linalg.slogdet(matrix.detach()).logabsdet < LOG_VOLUME_FLOOR
    usable = torch.where(flat, torch.eye(len(matrix)).to(matrix), matrix)  # a singular matrix has no gradient
    return torch.where(flat, LOG_VOLUME_FLOOR, torch.linalg.slogdet(usable).logabsdet)


def pair_transition(matrix: Tensor, prior: Tensor) -> Tensor:
    """What a class transition matrix does to pairs: (2, 2), `[a, b]` = P(noisy pair b, if clean pair a).

    Parameters
    ----------
    matrix : (K, K), `T[i, j]` = P(noisy j, if clean i); the voxels of a pair go wrong independently.
    prior : (K,) clean class frequencies, with sum 1.

    Returns
    -------
    Rows that sum to 1. With one class alone no pair is different, and that row is (1, 0).
    """
    alike = matrix @ matrix.T  # P(the noisy labels are the same) of clean classes i, m
    both = prior[:, None] * prior[None]
    same = both.diagonal()
    same_stays = (same * alike.diagonal()).sum() / same.sum().clamp_min(EPS)
    apart = both - torch.diag(same)
    apart_becomes_same = (apart * alike).sum() / apart.sum().clamp_min(EPS)
    return torch.stack(
        [torch.stack([1 - apart_becomes_same, apart_becomes_same]), torch.stack([1 - same_stays, same_stays])]
    )


def implied_order(implied: Tensor, mirrored: bool) -> Tensor:
    """`pair_transition` in the order in which it is compared: as it is, or mirrored as in the released code."""
    return implied.flip(0, 1) if mirrored else implied


def clean_prior(matrix: Tensor, noisy: Tensor) -> Tensor:
    """Clean class frequencies n (K,) from noisy ones q: T' n = q, clipped to what frequencies can be."""
    n = (torch.linalg.pinv(matrix.T) @ noisy).clamp_min(0)
    return n / n.sum().clamp_min(EPS)


def pair_loss(
    probability: Tensor, labels: Tensor, counted: Tensor, balanced: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Binary cross-entropy of pairs, in nats, and its mean over different and over same pairs.

    Parameters
    ----------
    probability : (B, M, N), P(labelled the same); kept 1e-4 away from 0 and 1.
    labels : (B, M, N) bool, True where the two labels are the same.
    counted : (B, M, N) bool; pairs with an ignored voxel are out.
    balanced : different and same pairs count half each, however many there are.
    """
    p = PAIR_MARGIN + (1 - 2 * PAIR_MARGIN) * probability
    loss = -torch.where(labels, p, 1 - p).log()
    sums, numbers = [], []
    for chosen in (counted & ~labels, counted & labels):
        sums.append((loss * chosen).sum())
        numbers.append(chosen.sum())
    means = [s / n.clamp_min(1) for s, n in zip(sums, numbers, strict=True)]
    if balanced:
        shown = sum((n > 0).float() for n in numbers)
        total = (means[0] + means[1]) / torch.as_tensor(shown).clamp_min(1)
    else:
        total = (sums[0] + sums[1]) / (numbers[0] + numbers[1]).clamp_min(1)
    return total, (means[0].detach(), means[1].detach())


def corrected_pairs(pairs: Tensor, matrix: Tensor) -> Tensor:
    """P(labelled the same) of pairs that are the same with P `pairs`: (1 - A) T[0, 1] + A T[1, 1]."""
    return (1 - pairs) * matrix[0, 1] + pairs * matrix[1, 1]


def pair_error(joint: np.ndarray) -> tuple[float, float, float]:
    """Share of pairs whose label is wrong: of all, of different and of same pairs.

    Parameters
    ----------
    joint : (K, K), share of voxels that are of class i and labelled j; its sum is 1.

    Returns
    -------
    All ordered pairs count, each voxel with itself included. It is no rule that pairs go wrong more
    rarely than voxels: with two classes and a voxel error e < 1/2, 2e(1 - e) is more than e. NaN for
    pairs of which there are none.
    """
    joint = np.asarray(joint, np.float64)
    clean, noisy = joint.sum(1), joint.sum(0)
    kept = float((joint**2).sum())  # same before and after
    same, labelled_same = float((clean**2).sum()), float((noisy**2).sum())
    apart = 1 - same
    wrong_same, wrong_apart = same - kept, labelled_same - kept
    return (
        wrong_same + wrong_apart,
        wrong_apart / apart if apart > EPS else float("nan"),
        wrong_same / same if same > EPS else float("nan"),
    )


def posterior_wrong(probs: np.ndarray, labels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """P(clean class is not the label | image, label): 1 - P_y T[y, y] / sum_i P_i T[i, y].

    probs (K, *spatial), labels (*spatial) with others than 0..K-1 ignored, matrix (K, K). Returns
    (*spatial) float32 in [0, 1]; 0 where ignored.
    """
    known = labels < len(probs)
    safe = np.where(known, labels, 0).astype(np.int64)
    p = np.maximum(probs.astype(np.float32), 1e-7)
    every = np.zeros(labels.shape, np.float32)
    for i in range(len(probs)):
        every += p[i] * matrix[i].astype(np.float32)[safe]
    own = np.take_along_axis(p, safe[None], 0)[0] * np.diagonal(matrix).astype(np.float32)[safe]
    return np.where(known, 1 - own / every, np.float32(0)).astype(np.float32)


def corrected_classes(probs: Tensor, matrix: Tensor) -> Tensor:
    """P(label) from P(class): each voxel's row times the matrix, (B, K, *spatial) -> the same."""
    return torch.einsum("bi...,ij->bj...", probs, matrix)


def log_probabilities(probs: Tensor) -> Tensor:
    """Logarithms of (clamped) probabilities: logits whose softmax they are."""
    return probs.clamp(SMALLEST, 1).log()
