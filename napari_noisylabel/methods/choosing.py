"""Which method to try first, by what is wrong with the masks and by what one has. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from napari_noisylabel.methods import MethodInfo
from napari_noisylabel.methods.situation import Asset, ErrorKind, missing_needs


@dataclass(frozen=True)
class Advice:
    """A method, why it fits (one sentence; empty where nothing speaks for it), and what it still needs."""

    method: MethodInfo
    why: str
    lacks: tuple[str, ...]


def advise(
    known: Iterable[MethodInfo], errors: Collection[ErrorKind] = (), have: Collection[Asset] = ()
) -> list[Advice]:
    """All methods, those that fit best first.

    A kind of error that a method is made for counts most, then that nothing which it needs is missing, then what
    is there that it makes use of. Where these are equal, a method's main purpose (the first that `suits` names)
    goes before what it also does, and the order of `known` decides the rest.
    """
    methods = list(known)
    ranks = [_rank(method, errors, have) for method in methods]
    order = sorted(range(len(methods)), key=lambda i: ranks[i])
    return [Advice(methods[i], _why(methods[i], errors, have), missing_needs(methods[i].needs, have)) for i in order]


def _rank(
    method: MethodInfo, errors: Collection[ErrorKind], have: Collection[Asset]
) -> tuple[int, bool, bool, int, int]:
    """Small is good."""
    by_error, by_asset = (sum(word in method.suits for word in words) for words in (errors, have))
    places = [place for place, word in enumerate(method.suits) if word in errors or word in have]
    if not places:
        return 0, True, False, 0, 0
    return -by_error, False, bool(missing_needs(method.needs, have)), -by_asset, min(places)


def _why(method: MethodInfo, errors: Collection[ErrorKind], have: Collection[Asset]) -> str:
    """The reasons for every word that was said, as one sentence without its full stop."""
    reasons = [reason for word, reason in method.suits.items() if word in errors or word in have]
    return "; ".join(dict.fromkeys(reasons))
