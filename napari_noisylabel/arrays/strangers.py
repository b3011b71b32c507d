"""Objects that a network sees and nobody labels, where every case shows the same number of objects.

A cell's picture shows parts of its neighbours, a heart's slice a second dark blob. Where labels never
name them, they were left out on purpose, however much they look like what is labelled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_noisylabel.arrays.components import label_components

SHARE = 0.9
"""Share of the cases with an object of a class that must show the same number of them."""

ENOUGH = 10
"""Cases that must show the class: of fewer, chance may have made the same number."""


def count_objects(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """(K,) connected objects of each class in `labels` (*spatial); 0 for background."""
    return np.array([0, *(label_components(labels == k, 26)[1] for k in range(1, n_classes))])


def constant_number(counts: Sequence[int]) -> int:
    """How many objects of a class a case shows that shows any; 0 where that differs from case to case.

    `counts` are the labelled objects per case. Cases without any do not count, they may lack theirs.
    """
    some = np.array([n for n in counts if n], int)
    if some.size < ENOUGH:
        return 0
    usual = int(np.bincount(some).argmax())
    return usual if np.mean(some == usual) >= SHARE else 0


def strangers(labels: np.ndarray, proposal: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """(*spatial) bool: objects proposed on background that touch no labelled one, where the label lacks none.

    A label lacks none if as many of its objects as every case shows are seen by the network, too: an
    object that was drawn in a wrong place leaves room for the right one.

    Parameters
    ----------
    labels, proposal : (*spatial) classes.
    numbers : (K,) objects that every case shows, as `constant_number` has it; 0 asks nothing of a class.
    """
    out = np.zeros(labels.shape, bool)
    for k, number in enumerate(numbers):
        if k == 0 or not number:
            continue
        drawn, seen = labels == k, proposal == k
        components, n = label_components(drawn | seen, 26)
        if n <= number:
            continue
        flat = components.reshape(-1)
        is_drawn, is_seen = (np.bincount(flat[part.reshape(-1)], minlength=n + 1) > 0 for part in (drawn, seen))
        if np.count_nonzero(is_drawn & is_seen) >= number:
            alone = is_seen & ~is_drawn
            alone[0] = False
            out |= alone[components]
    return out & (labels == 0)
