"""Image-level tags: which classes an image shows. They can stand in for masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from napari_noisylabel.errors import BadSetting, UnknownName
from napari_noisylabel.records import FINDINGS, Track, split_findings

TRACK = "labels"
"""The track of a project that has tags and no masks."""

Tags = Mapping[str, Mapping[str, str]]


def track_of_tags(tags: Tags, class_names: Sequence[str] = (), ignore: int | None = None) -> Track:
    """The track of a project without any mask: its classes are the findings, their values 1, 2, ...

    Parameters
    ----------
    tags : per case id, as `read_tags` gives them.
    class_names : the classes in the order of their values; without them the findings by name.

    Raises
    ------
    BadSetting : no tag is called "findings", no case has one, or `ignore` is the value of a class.
    """
    told = [own[FINDINGS] for own in tags.values() if FINDINGS in own]
    if not told:
        known = ", ".join(sorted({name for own in tags.values() for name in own})) or "none"
        raise BadSetting(
            f"a project without masks learns from the tag {FINDINGS!r}, and the table has no such column (its tags: "
            f"{known}). Add it, or give the folder of the labels."
        )
    found = sorted({name for text in told for name in split_findings(text)})
    _require_positive(len(found), len(told))
    names = [name.strip() for name in class_names] or found
    if len({"", "background", *names}) < len(names) + 2:
        raise BadSetting(f"class names must differ and not be 'background' or empty: {', '.join(names)}.")
    values = tuple(range(len(names) + 1))
    if ignore in values:
        raise BadSetting(f"the value to ignore must not be that of a class, and {ignore} is one. Give another value.")
    return Track(TRACK, ("background", *names), values, ignore)


def check_tags(tags: Tags, cases: Collection[str], tracks: Sequence[Track]) -> None:
    """See that tags are of known cases and findings of known classes.

    Raises
    ------
    UnknownName : a case without image, a finding that is no class.
    BadSetting : there are findings, but not one case has one; a class of several tracks without its track.
    """
    strange = [case for case in tags if case not in cases]
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise UnknownName(
            f"tags must be of cases that have an image, and {strange[0]!r}{more} has none (a case is called "
            f"{min(cases, default='')!r}). Correct the table, or add the image."
        )
    told = {case: split_findings(own[FINDINGS]) for case, own in tags.items() if FINDINGS in own}
    for case, names in told.items():
        for name in names:
            _check_finding(name, case, tracks)
    if told:
        _require_positive(sum(bool(names) for names in told.values()), len(told))


def _check_finding(name: str, case: str, tracks: Sequence[Track]) -> None:
    owners = [t.name for t in tracks if name in t.classes[1:] or name in {f"{t.name}/{c}" for c in t.classes[1:]}]
    if not owners:
        known = ", ".join(f"{t.name}/{c}" if len(tracks) > 1 else c for t in tracks for c in t.classes[1:])
        raise UnknownName(
            f"a finding must be a class of the project, and {name!r} of case {case!r} is none. The classes are: "
            f"{known}; name others with --classes."
        )
    if len(owners) > 1:
        raise BadSetting(
            f"a finding must be of one track, and {name!r} of case {case!r} is a class of {' and '.join(owners)}. "
            f"Write {owners[0]}/{name}."
        )


def _require_positive(positive: int, told: int) -> None:
    if not positive:
        raise BadSetting(
            f"tags need at least one case with a finding, and none of the {told} cases has one: there is no positive "
            "case to learn from. Correct the table, or leave out its column findings."
        )
