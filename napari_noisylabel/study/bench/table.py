"""From the records of cells to one row per data set, noise and method: mean and spread over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from napari_noisylabel.errors import UnreadableFile
from napari_noisylabel.study.bench.plan import Cell, upper_cell
from napari_noisylabel.study.evaluate import mean_or_none

Records = Mapping[str, Mapping[str, Any]]
"""Per cell's name what it left; cells that are not done are missing."""

COLUMNS: Mapping[str, tuple[str, str]] = {
    "given": ("given", ".4f"),
    "proposal": ("proposal", ".4f"),
    "corrected": ("corrected", ".4f"),
    "upper": ("upper", ".4f"),
    "won_back": ("won back", ".2f"),
    "hd95": ("HD95 mm", ".2f"),
    "assd": ("ASSD mm", ".3f"),
    "average_precision": ("AP", ".3f"),
    "auroc": ("AUROC", ".3f"),
    "error_rate": ("error rate", ".4f"),
    "held_out": ("held-out", ".4f"),
    "regions_95": ("regions to 95 %", ".0f"),
    "regions": ("regions", ".0f"),
    "step_s": ("step s", ".3f"),
    "epoch_s": ("epoch s", ".2f"),
    "train_s": ("train s", ".0f"),
    "memory_mib": ("memory MiB", ".0f"),
}
"""Every figure with its heading and its form in Markdown."""

HARDLY = 0.01
"""Of Dice: room below which people are told the gain, not its share of the room. Files for programs have both."""


def make_table(cells: Sequence[Cell], records: Records) -> list[dict[str, Any]]:
    """One row per data set, noise and method over what is done, in the order of the protocol.

    A row has "data", "noise", "share", "severity", "method", "seeds", "failed" (seed and reason), "waiting" (seeds)
    and "figures": per figure `{"mean", "sd", "values"}` over the seeds. `sd` is the sample standard deviation,
    None below two seeds. Figures that no seed has are None.
    """
    rows: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        key = (cell.data.name, cell.noise.shown, cell.noise.share, cell.noise.strength, cell.method.shown)
        rows.setdefault(key, []).append(cell)
    order = {cell.data.name: i for i, cell in reversed(list(enumerate(cells)))}
    ranked = sorted(rows.values(), key=lambda own: order[own[0].data.name])
    return [_row(own, records) for own in ranked]


def figures_of(cell: Cell, records: Records) -> dict[str, float | None]:
    """The figures of one cell that is done; None where something is undefined or was not measured.

    Share won back = (corrected - given) / (upper - given) in Dice; None where upper <= given: there is no room.
    """
    record = records[cell.name]
    found = record["evaluate"]
    labels, ranking = found["labels"], found["likelihood"] or {}
    seconds, review = record.get("seconds", {}), record.get("review", {})
    given, corrected = labels["given"]["dice_mean"], labels["corrected"]["dice_mean"]
    upper = _upper(cell, records)
    return {
        "given": given,
        "proposal": (labels["proposal"] or {}).get("dice_mean"),
        "corrected": corrected,
        "upper": upper,
        "won_back": share_won_back(given, corrected, upper),
        "hd95": mean_or_none(labels["corrected"]["hd95"].values()),
        "assd": mean_or_none(labels["corrected"]["assd"].values()),
        **{key: ranking.get(key) for key in ("average_precision", "auroc", "error_rate")},
        "held_out": (found["held_out"] or {}).get("dice_mean"),
        "regions_95": review.get("regions_95"),
        "regions": review.get("regions"),
        **{f"{key}_s": seconds.get(key) for key in ("step", "epoch", "train")},
        "memory_mib": record.get("memory_mib"),
    }


def share_won_back(given: float | None, corrected: float | None, upper: float | None) -> float | None:
    """(corrected - given) / (upper - given); None where upper <= given, or one of them is not known."""
    if given is None or corrected is None or upper is None or upper <= given:
        return None
    return (corrected - given) / (upper - given)


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for people: mean, and +- spread where there are several seeds."""
    shown = [(key, *COLUMNS[key]) for key in COLUMNS]
    head = ["data", "noise", "share", "method", "seeds", *(title for _, title, _ in shown)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        words = [row["data"], row["noise"], f"{row['share']:g}", row["method"], _seeds(row)]
        words += [_cell(row, key, form) for key, _, form in shown]
        lines.append("| " + " | ".join(words) + " |")
    failed = [
        f"- {r['data']}, {r['noise']}, {r['share']:g}, {r['method']}, seed {f['seed']}: {f['reason']}"
        for r in rows
        for f in r["failed"]
    ]
    if failed:
        lines += ["", "Failed cells:", "", *failed]
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for programs: mean, sd and number of seeds of each figure in columns of their own."""
    first = ["data", "noise", "share", "severity", "method", "seeds", "failed"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*first, *(f"{key}{end}" for key in COLUMNS for end in ("", "_sd", "_n"))])
    for row in rows:
        values = [row[key] for key in first[:5]] + [len(row["seeds"]), len(row["failed"])]
        for key in COLUMNS:
            figure = row["figures"][key]
            known = 0 if figure is None else sum(value is not None for value in figure["values"])
            values += ["", "", 0] if figure is None else [figure["mean"], figure["sd"], known]
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue()


# ---------------------------------------------------------------- helpers, in order of use


def _row(cells: Sequence[Cell], records: Records) -> dict[str, Any]:
    first = cells[0]
    done = [c for c in cells if records.get(c.name, {}).get("state") == "done"]
    failed = [c for c in cells if records.get(c.name, {}).get("state") == "failed"]
    each = [_readable(c, records) for c in done]
    return {
        "data": first.data.name,
        "noise": first.noise.shown,
        "share": first.noise.share if first.noise.is_made else 1.0 if first.noise.given else 0.0,
        "severity": first.noise.strength,
        "method": first.method.shown,
        "seeds": [c.seed for c in done],
        "failed": [{"seed": c.seed, "reason": records[c.name]["reason"]} for c in failed],
        "waiting": [c.seed for c in cells if c not in done and c not in failed],
        "figures": {key: _spread([own[key] for own in each]) for key in COLUMNS},
    }


def _readable(cell: Cell, records: Records) -> dict[str, float | None]:
    try:
        return figures_of(cell, records)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableFile(
            f"the record of cell {cell.name} is not as a benchmark writes it: {error!r}. Remove its file and resume."
        ) from error


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": fmean(known), "sd": stdev(known) if len(known) > 1 else None, "values": list(values)}


def _upper(cell: Cell, records: Records) -> float | None:
    record = records.get(upper_cell(cell).name, {})
    return record["evaluate"]["labels"]["proposal"]["dice_mean"] if record.get("state") == "done" else None


def _seeds(row: Mapping[str, Any]) -> str:
    notes = [f"{len(row['failed'])} failed"] if row["failed"] else []
    notes += [f"{len(row['waiting'])} to do"] if row["waiting"] else []
    return f"{len(row['seeds'])}" + (f" ({', '.join(notes)})" if notes else "")


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    figure = row["figures"][key]
    if key == "won_back" and (said := _no_room(row["figures"])):
        return said
    if figure is None:
        return "-"
    known = sum(value is not None for value in figure["values"])
    of = f" ({known} of {len(figure['values'])})" if known < len(figure["values"]) else ""
    spread = "" if figure["sd"] is None else f" ± {figure['sd']:{form}}"
    return f"{figure['mean']:{form}}{spread}{of}"


def _no_room(figures: Mapping[str, Any]) -> str:
    """Where the network is no better than the given labels, or hardly: the change in points of Dice instead; else "".

    A share of a room of a hundredth of a point would be a large number that says nothing.
    """
    given, corrected, upper = (figures[key] for key in ("given", "corrected", "upper"))
    if given is None or corrected is None or upper is None:
        return ""
    points = f"({100 * (corrected['mean'] - given['mean']):+.2f} points)"
    if figures["won_back"] is None:
        return f"no room {points}"
    return f"hardly any room {points}" if upper["mean"] - given["mean"] < HARDLY else ""
