"""Image-level findings: read, checked, and made into a track where there are no masks."""

from __future__ import annotations

import pytest

from napari_noisylabel.errors import BadSetting, UnknownName
from napari_noisylabel.io.tables import read_tags
from napari_noisylabel.io.tags import check_tags, track_of_tags
from napari_noisylabel.records import Case, Track, found_classes, split_findings
from tests.io.test_cases import GRID

LIVER = Track("organ", ("background", "liver", "spleen"), (0, 1, 2))
LESION = Track("lesion", ("background", "tumour", "liver"), (0, 1, 2))


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "tags.csv").write_text(text)
        return tmp_path / "tags.csv"

    return write


def tagged(**findings):
    return {case: {"findings": text} for case, text in findings.items()}


@pytest.mark.parametrize(
    "text", ["polyp; ulcer", "polyp|ulcer", " polyp , ulcer,", "polyp;ulcer;polyp", "none;polyp;ulcer"]
)
def test_findings_are_names_divided_by_a_sign(text):
    assert split_findings(text) == ("polyp", "ulcer")


def test_no_finding_is_said_and_is_not_the_same_as_nobody_has_said(write):
    tags = read_tags(write("case,Findings,age\na.png,polyp;ulcer,60\nb,,50\nc\n"))
    assert tags["a"] == {"findings": "polyp;ulcer", "age": "60"}
    assert (tags["b"], tags["c"]) == ({"findings": "", "age": "50"}, {"findings": ""})
    told, silent = (Case("b", "b", GRID, (), {}, tags=t) for t in (tags["b"], {"age": "50"}))
    assert (told.findings, silent.findings) == ((), None)
    assert told.is_blank("organ") and not silent.is_blank("organ")


def test_findings_in_several_rows_of_a_case_are_joined(write):
    assert read_tags(write("case,findings\na,polyp\na,ulcer\n"))["a"] == {"findings": "polyp; ulcer"}
    assert read_tags(write("case;findings\na;polyp\na;\n"))["a"] == {"findings": "polyp"}


def test_findings_are_found_in_their_track():
    case = Case("a", "a", GRID, (), {}, tags={"findings": "spleen; lesion/liver"})
    assert (found_classes(case, LIVER), found_classes(case, LESION)) == ((2,), (2,))


def test_without_masks_the_findings_are_the_classes():
    assert track_of_tags(tagged(a="ulcer;polyp", b=""), ignore=255) == Track(
        "labels", ("background", "polyp", "ulcer"), (0, 1, 2), 255
    )
    assert track_of_tags(tagged(a="polyp"), ["ulcer", "polyp"]).classes == ("background", "ulcer", "polyp")


def test_a_table_without_findings_cannot_stand_in_for_masks():
    with pytest.raises(BadSetting, match="no such column .its tags: age.. Add it"):
        track_of_tags({"a": {"age": "60"}})


@pytest.mark.parametrize("check", [lambda t: track_of_tags(t), lambda t: check_tags(t, {"a", "b"}, [LIVER])])
def test_tags_without_a_positive_case_are_refused(check):
    with pytest.raises(BadSetting, match="none of the 2 cases has one: there is no positive case"):
        check(tagged(a="", b="none"))


def test_tags_of_unknown_cases_are_refused():
    with pytest.raises(UnknownName, match="'x' and 1 more has none .a case is called 'a'."):
        check_tags(tagged(a="liver", x="liver", y=""), {"a", "b"}, [LIVER])


def test_unknown_findings_are_refused():
    with pytest.raises(UnknownName, match="'polyp' of case 'b' is none. The classes are: liver, spleen;"):
        check_tags(tagged(a="liver", b="polyp"), {"a", "b"}, [LIVER])


def test_a_finding_of_two_tracks_needs_its_track():
    with pytest.raises(BadSetting, match="class of organ and lesion. Write organ/liver"):
        check_tags(tagged(a="liver"), {"a"}, [LIVER, LESION])
    check_tags(tagged(a="organ/liver; tumour", b=""), {"a", "b"}, [LIVER, LESION])


def test_the_ignored_value_is_no_class():
    with pytest.raises(BadSetting, match="and 1 is one"):
        track_of_tags(tagged(a="polyp"), ignore=1)
