"""What somebody who looks for a method is faced with, in words that they can say. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum


class ErrorKind(StrEnum):
    """What is wrong with the masks, as one sees it in twenty of them; the value is what a person types."""

    MISSING = "missing"
    SCATTERED = "scattered"
    SWAPPED = "swapped"
    ONE_SIDED = "one-sided"
    UNEVEN = "uneven"
    HARD = "hard-places"
    RARE = "rare-classes"
    UNKNOWN = "unknown"


class Asset(StrEnum):
    """What there is besides the masks, or instead of them; the value is what a person types."""

    VERIFIED = "verified"
    PERSON = "person"
    RATERS = "raters"
    TAGS = "tags"
    RUNS = "runs"
    FEW_CASES = "few-cases"


class Need(StrEnum):
    """What must be there for a method; the value is how it is said."""

    VERIFIED = "a verified case"
    TAGS = "image-level tags"
    RUNS = "complete runs of two methods"
    CASES = "several cases"


MEANINGS: Mapping[ErrorKind | Asset, str] = {
    ErrorKind.MISSING: "some objects badly drawn or left out, the others right",
    ErrorKind.SCATTERED: "ragged contours, scattered voxels",
    ErrorKind.SWAPPED: "one class taken for another, whatever the place",
    ErrorKind.ONE_SIDED: "all boundaries too wide, or all too narrow",
    ErrorKind.UNEVEN: "objects too large here, too small there",
    ErrorKind.HARD: "errors where the image is hard to read",
    ErrorKind.RARE: "rare classes with many wrong labels",
    ErrorKind.UNKNOWN: "you cannot tell",
    Asset.VERIFIED: "a case of which you are sure, or that you can make right",
    Asset.PERSON: "somebody who decides on regions, round after round",
    Asset.RATERS: "masks that several people drew, each in his own way",
    Asset.TAGS: "what each image shows, and no masks",
    Asset.RUNS: "complete runs of two methods",
    Asset.FEW_CASES: "fewer than ten cases",
}

_PROVIDES = {Asset.VERIFIED: Need.VERIFIED, Asset.TAGS: Need.TAGS, Asset.RUNS: Need.RUNS}


def missing_needs(needs: Sequence[str], have: Collection[Asset]) -> tuple[str, ...]:
    """Those of `needs` that what one has does not cover. Several cases are taken to be there unless few were named."""
    there = {_PROVIDES[asset] for asset in have if asset in _PROVIDES}
    if Asset.FEW_CASES not in have:
        there.add(Need.CASES)
    return tuple(need for need in needs if need not in there)
