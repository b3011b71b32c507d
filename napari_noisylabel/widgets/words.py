"""What the panels say, as pure functions of the records."""

from __future__ import annotations

from collections.abc import Sequence

from napari_noisylabel.records import (
    IGNORE,
    Case,
    Filter,
    FilterLevel,
    Region,
    RegionState,
    Report,
    Run,
    Track,
)
from napari_noisylabel.session import Counters

ARROW = " → "
PHASES = {
    "score": "scoring case",
    "score held-out": "scoring held-out case",
    "propose": "finding regions, case",
}
STATE_WORDS = {
    RegionState.OPEN: "open",
    RegionState.ACCEPTED: "accepted",
    RegionState.REJECTED: "rejected",
    RegionState.EDITED: "edited",
    RegionState.UNSURE: "unsure",
    RegionState.GONE: "gone",
}


def track_named(tracks: Sequence[Track], name: str) -> Track | None:
    """The track called `name`, or None."""
    return next((track for track in tracks if track.name == name), None)


def class_name(track: Track | None, index: int) -> str:
    """The name of class `index`; "bg" for background, which is in nearly every line."""
    if index == 0:
        return "bg"
    if index == IGNORE:
        return "not annotated"
    if track is None or index >= track.n_classes:
        return f"class {index}"
    return track.classes[index]


def change(region: Region, track: Track | None) -> str:
    """What the proposal would change: "LV → MYO"."""
    return class_name(track, region.from_class) + ARROW + class_name(track, region.to_class)


def short_change(region: Region, track: Track | None, letters: int = 8) -> str:
    """`change` for a narrow column: "poster.→anterior"."""
    names = (class_name(track, region.from_class), class_name(track, region.to_class))
    return "→".join(name if len(name) <= letters else name[: letters - 2] + "." for name in names)


def percent(share: float) -> str:
    """A share as "91 %"; below one percent with one digit, so that 0.2 % is not 0."""
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 1 else f"{value:.0f} %"


def sure(region: Region) -> str:
    """How sure: "91 % likely wrong"."""
    if region.weak:
        return f"{percent(region.likelihood)}, weak evidence"
    return f"{percent(region.likelihood)} likely wrong"


def count(n: float) -> str:
    """A number with thin spaces between thousands."""
    return f"{n:,.0f}".replace(",", "\u2009")


def volume(ml: float) -> str:
    """Millilitres with the digits that matter."""
    if ml == 0:
        return "0 ml"
    return f"{ml:.1f} ml" if ml >= 1 else f"{ml:.2f} ml" if ml >= 0.01 else f"{1000 * ml:.1f} mm³"


def size(region: Region) -> str:
    """How large: "214 voxels   0.21 ml"."""
    noun = "voxel" if region.voxels == 1 else "voxels"
    return f"{count(region.voxels)} {noun}   {volume(region.ml)}"


def where(region: Region, name: str, cases: Sequence[Case]) -> str:
    """Where: "heart-mri · case 12 of 60"."""
    position = next((i for i, case in enumerate(cases, 1) if case.id == region.case), 0)
    return f"{name} · {region.case} · case {position} of {len(cases)}"


def why(
    region: Region, track: Track | None, fit: Filter | None, names: Sequence[str] = (), from_tags: bool = False
) -> str:
    """One line on why this region is in the queue; `names` are the runs that an ensemble combines."""
    from_name, to_name = class_name(track, region.from_class), class_name(track, region.to_class)
    if region.weak and from_tags:
        return (
            f"Weak evidence, class-level: a network that learnt from image-level tags alone reads {to_name} here. "
            "It may be elsewhere, or larger: look, and draw."
        )
    who = f"{agreement(region)} methods read" if region.votes else "A network that never saw this case reads"
    said = f"{who} {to_name} where the label says {from_name}"
    if region.votes and (others := against(region, names)):
        said += f" ({others})"
    if region.share_above > 0:
        said += f"; in the upper {percent(region.share_above)} of {from_name} losses"
    if fit is not None and not has_split(fit, region):
        said += "; no clear split, likelihood is 1 − p(label)"
    if region.weak:
        said += ". Weak evidence: most labels of this class are far from what the networks draw"
    return said + "."


def agreement(region: Region) -> str:
    """How many runs of an ensemble propose the same: "4 of 6"; "" of an ordinary run."""
    return f"{region.for_it} of {len(region.votes)}" if region.votes else ""


def against(region: Region, names: Sequence[str]) -> str:
    """Who does not propose the same: "not cores, adele"; "" where all do."""
    others = [name for name, share in zip(names, region.votes, strict=False) if share <= 0.5]
    return f"not {', '.join(others)}" if others else ""


def shares(region: Region, names: Sequence[str]) -> str:
    """For which share of the voxels each run proposes the same: "jcas 98 % · cores 12 %"."""
    return " · ".join(f"{name} {percent(share)}" for name, share in zip(names, region.votes, strict=False))


def has_split(fit: Filter, region: Region) -> bool:
    """True where likelihoods come from a mixture of two components, or from whole objects."""
    if fit.level is FilterLevel.CASE:
        return True
    fits = fit.fits.get(region.track, ())
    return region.from_class >= len(fits) or fits[region.from_class].split


def counters(value: Counters) -> str:
    """How far: "41 seen · 160 left · 6.2 ml changed"."""
    return f"{count(value.seen)} seen  ·  {count(value.left)} left  ·  {volume(value.changed_ml)} changed"


def time_left(seconds: float | None) -> str:
    """ "2 min left", "40 s left", or nothing when nobody knows."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s left"
    if seconds < 5400:
        return f"{round(seconds / 60)} min left"
    return f"{seconds / 3600:.1f} h left"


def training(report: Report | None, run: Run | None) -> str:
    """The line that is always in sight: what the worker does, or which run is shown."""
    if report is None:
        return f"run {run.id} · {run.method}" if run is not None else "nothing trained yet"
    if report.kind == "failed":
        return f"failed: {report.message}"
    if report.kind in ("done", "stopped"):
        return report.message or report.kind
    return ", ".join(part for part in (doing(report), time_left(report.left_s)) if part)


def doing(report: Report) -> str:
    """The part of the work that a report is about."""
    if report.kind == "phase":
        done = f" {report.done} of {report.total}" if report.total else ""
        return PHASES.get(report.stage, report.stage or "working") + done
    if report.kind == "start" or not report.epochs:
        return f"{report.message or 'starting'} …"
    fold = f"fold {report.fold + 1}, " if report.fold else ""
    return f"training: {fold}epoch {report.epoch + 1} of {report.epochs}"


def next_step(has_cases: bool, has_filter: bool) -> str:
    """What to do when there is no region to look at."""
    if not has_cases:
        return "Open or make a project on the Project tab."
    if not has_filter:
        return "Train a network on the Train tab: it finds the regions."
    return "Every region is decided, or none passes the filter. Lower the threshold on the Filter tab, or train again."
