"""Noise without shape: every voxel changes its class on its own, by a transition matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from napari_noisylabel.arrays.noise_case import DICE_LOSS, Case
from napari_noisylabel.errors import BadSetting


def symmetric_matrix(n_classes: int, rate: float) -> np.ndarray:
    """T of symmetric noise, (K, K): with probability `rate` another class, each as likely as the next.

    `T[i, j]` = P(given = j, if true = i); rows sum to 1. A single class stays as it is.
    """
    if n_classes < 2:
        return np.eye(n_classes)
    matrix = np.full((n_classes, n_classes), rate / (n_classes - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def asymmetric_matrix(n_classes: int, rate: float, to_background: float, to_previous: float) -> np.ndarray:
    """T of asymmetric noise, (K, K): foreground classes have favourites to be taken for.

    Parameters
    ----------
    n_classes : K, background (0) included.
    rate : P(wrong), the same for all classes. Background becomes each other class alike.
    to_background, to_previous : of the wrong voxels of a foreground class, the shares that become
        background and the class before it (the first class: the last). The rest is divided evenly over
        the other foreground classes; without those the class before gets it, and with a single class
        background gets all.

    Returns
    -------
    `T[i, j]` = P(given = j, if true = i); rows sum to 1.

    Source: ours. The table behind "asymmetric 50 %" of Guo and Yuan, "Joint Class-Affinity Loss Correction",
    MICCAI 2022, was not found; with a rate of 0.5 and shares of 0.4, this one reproduces the class
    fractions that are published with the code within 0.2 points. So may others.
    """
    matrix = symmetric_matrix(n_classes, rate)
    for i in range(1, n_classes):
        previous = (i - 1 or n_classes - 1) if n_classes > 2 else 0
        others = [j for j in range(1, n_classes) if j not in (i, previous)]
        rest = 1 - to_background - to_previous
        shares = np.zeros(n_classes)
        shares[0] = to_background
        shares[previous] += to_previous if others else to_previous + rest
        shares[others] = rest / max(1, len(others))
        matrix[i] = rate * shares
        matrix[i, i] = 1 - rate
    return matrix


def flipped(labels: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels in which every voxel has drawn its class by its row of `matrix`, independently.

    Parameters
    ----------
    labels : (*spatial) integer, class indices 0..K-1.
    matrix : (K, K), rows sum to 1.

    Returns
    -------
    (*spatial) int64, class indices.
    """
    draw = rng.random(labels.shape)
    out = np.zeros(labels.shape, dtype=np.int64)
    limits = np.cumsum(matrix, axis=1)
    for j in range(len(matrix) - 1):
        out += draw >= limits[:, j][labels]
    return out


def symmetric(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    """Every voxel is taken for another class with the same probability, whichever class that is."""
    rate = flip_rate(case)
    return _by_matrix(case, symmetric_matrix(len(case.known), rate)), {"rate": rate}


def asymmetric(case: Case) -> tuple[np.ndarray, dict[str, Any]]:
    """Every voxel is taken for another class, and some classes are taken for each other more often."""
    rate, set_ = flip_rate(case), case.settings
    matrix = asymmetric_matrix(len(case.known), rate, set_["to_background"], set_["to_previous"])
    return _by_matrix(case, matrix), {"rate": rate}


def flip_rate(case: Case) -> float:
    """The share of voxels that is to be wrong: as set, else 0.4 severity."""
    rate = case.settings["rate"]
    return DICE_LOSS * case.severity if rate is None else float(rate)


def check_shares(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse shares of the wrong voxels that are more than all of them."""
    if settings["to_background"] + settings["to_previous"] > 1:
        raise BadSetting(
            f"to_background and to_previous of {name} noise are shares of the wrong voxels and must not be more "
            f"than 1 together, got {settings['to_background']:g} and {settings['to_previous']:g}. Lower one."
        )


def _by_matrix(case: Case, matrix: np.ndarray) -> np.ndarray:
    known = np.asarray(case.known)
    indices = np.searchsorted(known, np.where(case.fixed, 0, case.labels))
    return known[flipped(indices, matrix, case.rng)].astype(case.labels.dtype)
