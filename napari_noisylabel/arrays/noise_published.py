"""The noise of published papers, with the parameters that were found and nothing added in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "as-published-"


@dataclass(frozen=True)
class Published:
    """A noise model with all its parameters.

    `slices` is True where the process is one of pictures, so that volumes are spoiled slice by slice;
    `free` are the parameters that may be set; `note` says where the values are from, and what is ours.
    """

    model: str
    settings: Mapping[str, Any]
    slices: bool
    note: str
    free: tuple[str, ...] = ()


def _markov(steps: int, theta1: float, theta2: float, theta3: float, slices: bool) -> Published:
    settings = {"steps": steps, "theta1": theta1, "theta2": theta2, "theta3": theta3}
    return Published("markov", settings, slices, "Yao et al., ICLR 2023: published parameters.")


def _dilation_erosion(least: float, most: float, slices: bool) -> Published:
    note = "Yao et al., ICLR 2023: published radii in voxels, one coin per image."
    return Published("dilation-erosion", {"least": least, "most": most, "grow": 0.5}, slices, note)


def _instance(eta: float) -> Published:
    settings = {
        "eta": eta, "sd": 0.1, "features": "window", "standardise": False, "shared": True, "ranked": False,
        "reach": 0.0, "cell": 0.0, "w_seed": 0,
    }  # fmt: skip
    note = (
        "Cheng et al., ICLR 2021: rates, one W for all classes and raw intensities as released, for pictures. "
        "Ours: an example is a voxel, described by the intensities of its 3 x 3 (x 3) window."
    )
    return Published("instance", settings, False, note, ("w_seed",))


PUBLISHED: Mapping[str, Published] = {
    PREFIX + name: published
    for name, published in {
        "markov-jsrt-expand": _markov(180, 0.8, 0.05, 0.2, True),
        "markov-jsrt-expand-clavicle": _markov(100, 0.8, 0.02, 0.2, True),
        "markov-jsrt-shrink": _markov(180, 0.2, 0.05, 0.2, True),
        "markov-jsrt-shrink-clavicle": _markov(100, 0.2, 0.02, 0.2, True),
        "markov-brats-expand": _markov(80, 0.7, 0.05, 0.0, False),
        "markov-brats-shrink": _markov(80, 0.3, 0.05, 0.0, False),
        "markov-isic-expand": _markov(200, 0.8, 0.05, 0.2, True),
        "markov-isic-shrink": _markov(200, 0.2, 0.05, 0.2, True),
        "dilation-erosion-jsrt": _dilation_erosion(7, 9, True),
        "dilation-erosion-jsrt-clavicle": _dilation_erosion(3, 5, True),
        "dilation-erosion-brats": _dilation_erosion(3, 5, False),
        "dilation-erosion-isic": _dilation_erosion(7, 9, True),
        "symmetric-50": Published(
            "symmetric", {"rate": 0.495}, False,
            "Guo and Yuan, MICCAI 2022, 'symmetric 50 %'. The rate of 0.495 is derived: it reproduces the class "
            "fractions released with the code.",
        ),
        "asymmetric-50": Published(
            "asymmetric", {"rate": 0.5, "to_background": 0.4, "to_previous": 0.4}, False,
            "Guo and Yuan, MICCAI 2022, 'asymmetric 50 %'. The rate is published; the table of flips was not found: "
            "this one is ours, and reproduces the class fractions released with the code.",
        ),
        "ellipse": Published(
            "ellipse", {"exact": True}, True,
            "Guo and Yuan, MICCAI 2022: regions become ellipses. How an ellipse is fitted was not found: same "
            "centroid and second moments are ours.",
        ),
        "segthor": Published(
            "under-over", {"least": 2, "most": 4, "grow": 0.5, "spill": False, "order": (1, 3, 4, 2)}, True,
            "Liu et al., CVPR 2022: as released, but a class that shrinks stays within its mask unless spill is set.",
            ("spill",),
        ),
        "segthor-flips": Published(
            "asymmetric", {"rate": 0.05, "to_background": 1.0, "to_previous": 0.0}, False,
            "Liu et al., CVPR 2022, the simpler variant in the code: background becomes any class, a class background.",
        ),
        "instance-0.2": _instance(0.2),
        "instance-0.4": _instance(0.4),
        "instance-0.6": _instance(0.6),
    }.items()
}  # fmt: skip
"""What `as-published-NAME` stands for."""
