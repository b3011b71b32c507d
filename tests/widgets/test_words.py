"""The sentences of the panels."""

from __future__ import annotations

import dataclasses

import pytest

from napari_noisylabel.records import Report
from napari_noisylabel.session import Counters
from napari_noisylabel.widgets import words


def test_the_header_says_what_where_how_sure_and_how_large(workbench, fake):
    region = dataclasses.replace(workbench.session.queue[0], likelihood=0.914, voxels=1214, volume_mm3=2310.0)

    assert words.change(region, fake.TRACK) == "bg → anterior"
    assert words.where(region, "heart", workbench.session.cases) == "heart · case-1 · case 1 of 3"
    assert words.sure(region) == "91 % likely wrong"
    assert words.size(region) == "1\u2009214 voxels   2.3 ml"


def test_a_weak_region_is_called_weak_and_not_wrong(workbench, fake):
    region = dataclasses.replace(workbench.session.queue[0], likelihood=0.914, weak=True)

    assert words.sure(region) == "91 %, weak evidence"
    said = words.why(region, fake.TRACK, workbench.session.filter)
    assert said.startswith("A network that never saw this case") and "Weak evidence: most labels" in said
    from_tags = words.why(region, fake.TRACK, workbench.session.filter, from_tags=True)
    assert from_tags.startswith("Weak evidence, class-level:")


def test_a_tiny_volume_is_given_in_cubic_millimetres():
    assert words.volume(0.0042) == "4.2 mm³"
    assert words.volume(0.21) == "0.21 ml"


def test_the_reason_says_when_the_mixture_found_no_split(workbench, fake):
    session = workbench.session
    from_background = next(r for r in session.queue if r.from_class == 0)
    from_class_two = next(r for r in session.queue if r.from_class == 2)

    assert "no clear split" in words.why(from_background, fake.TRACK, session.filter)
    assert "no clear split" not in words.why(from_class_two, fake.TRACK, session.filter)
    assert "upper 2 % of posterior losses" in words.why(from_class_two, fake.TRACK, session.filter)


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, ""), (40, "40 s left"), (125, "2 min left"), (9000, "2.5 h left")]
)
def test_time_left_is_said_in_the_unit_that_fits(seconds, said):
    assert words.time_left(seconds) == said


def test_the_training_line_counts_epochs_from_one():
    report = Report("run-001", "step", fold=1, epoch=13, epochs=30, left_s=120)

    assert words.training(report, None) == "training: fold 2, epoch 14 of 30, 2 min left"
    assert words.training(Report("run-001", "failed", message="disk full"), None) == "failed: disk full"


def test_counters_fit_on_one_line():
    assert words.counters(Counters(41, 160, 6.2)) == "41 seen  ·  160 left  ·  6.2 ml changed"
