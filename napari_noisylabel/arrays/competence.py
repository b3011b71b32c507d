"""Has the network learnt a class? One that has not is no judge of how the class is drawn.

A network takes up what is regular in the labels it is trained on, and then what is particular to each. Where it
stays far from most of them, and as far from those it was trained on as from others, it has not come so far: it was
trained too briefly, is too small, or sees too little. Then its distance from a label says something about the network.
"""

from __future__ import annotations

import numpy as np

FAR = 1.5
"""Voxels between label and network, in the median case. With masks of which every one was spoiled, to a mean Dice near
0.79, it was 1.0 to 1.31; on vessels that a brief training had not learnt, 2.2 to 3.2 (docs/filter.md)."""

TAKEN_UP = 0.8
"""Dice of label and network in the median case: the boundary of a large object may be far off, and the object known."""

NO_CLOSER = 0.95
"""Times as far from the labels it was trained on as from others, in the median case: over this a network has taken up
nothing of single labels. It was 0.97 and 0.98 on vessels and polyps, 0.67 to 0.85 on hippocampus and hearts."""


def learnt(seen: np.ndarray, overlaps: np.ndarray, unseen: np.ndarray | None = None) -> np.ndarray:
    """(K,) bool: may networks judge how a class is drawn, which were trained on these labels of it?

    Parameters
    ----------
    seen, overlaps : (N, K) displacement in voxels and Dice of each case's label and the networks that were
        trained on it; NaN where nothing shows the class, or nobody measured: that speaks against no class.
    unseen : (N, K) displacement of the label from the network that was not trained on it; None where there is none.
    """
    unknown = (_medians(seen) > FAR) & (_medians(overlaps) < TAKEN_UP)
    if unseen is not None:
        closer = np.divide(seen, unseen, out=np.ones(np.shape(seen)), where=np.nan_to_num(unseen) > 0)
        unknown &= _medians(closer) > NO_CLOSER
    return ~unknown


def _medians(values: np.ndarray) -> np.ndarray:
    """Per column, NaN left out; NaN where there is nothing else."""
    values = np.asarray(values, np.float64)
    return np.array([np.median(own[~np.isnan(own)]) if (~np.isnan(own)).any() else np.nan for own in values.T])
