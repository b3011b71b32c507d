from __future__ import annotations

import json

import pytest

from napari_noisylabel.errors import BadSetting, UnreadableFile
from napari_noisylabel.io.tables import read_groups, read_split, read_tags


@pytest.fixture
def write(tmp_path):
    def save(text, name="table.csv"):
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    "document",
    [
        {
            "note": "x",
            "train": {"cases": ["a"], "patients": ["p"]},
            "val": {"cases": ["b"]},
            "test": {"cases": []},
        },
        {"train": ["a.nii.gz"], "validation": ["b.png"]},
    ],
)
def test_a_split_says_which_cases_are_held_out(write, document):
    assert read_split(write(document, "split.json")) == {"a": "", "b": "val"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"train": ["a"], "val": ["a"]}, "'a' is in two"),
        ({"folds": [1, 2]}, "must list cases"),
        (["a"], "must list cases"),
        ({"train": "a"}, "must be a list of case names"),
        ({"train": [1]}, "must be a list of case names"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(write, document, words):
    with pytest.raises(BadSetting, match=words):
        read_split(write(document, "split.json"))


def test_a_split_that_is_no_json_or_not_there_is_unreadable(write, tmp_path):
    with pytest.raises(UnreadableFile, match="must be JSON"):
        read_split(write("{train", "split.json"))
    with pytest.raises(UnreadableFile, match="is not there"):
        read_split(tmp_path / "none.json")


@pytest.mark.parametrize(
    "text",
    ["case,person\na.nii.gz,p1\nb,p1\n", "\ufeffa;p1\nb;p1\nother;p9", "a\tp1\nb\tp1"],
)
def test_groups_come_from_a_table(write, text):
    assert read_groups(write(text), ["a", "b"]) == {"a": "p1", "b": "p1"}


@pytest.mark.parametrize("pattern", [r"(p\d)_\d", r"p\d", r"^(.*)_"])
def test_groups_come_from_an_expression(pattern):
    assert read_groups(pattern, ["p1_1", "p1_2", "p2_1"]) == {"p1_1": "p1", "p1_2": "p1", "p2_1": "p2"}


def test_a_case_without_group_is_refused(write):
    with pytest.raises(BadSetting, match="1 do not, 'b' first"):
        read_groups(write("a,p1\nb,\n"), ["a", "b"])
    with pytest.raises(BadSetting, match="2 do not, 'a' first"):
        read_groups("x", ["a", "b"])


def test_an_expression_that_is_none_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="neither"):
        read_groups("(p", ["a"])
    with pytest.raises(UnreadableFile, match="is not there"):
        read_groups(tmp_path / "none.csv", ["a"])


def test_tags_come_from_a_table_with_a_header(write):
    tags = read_tags(write("case,disease,side\na.png,yes,\nb,no,left\n"))
    assert tags == {"a": {"disease": "yes"}, "b": {"disease": "no", "side": "left"}}


def test_a_table_of_tags_without_tags_is_refused(write):
    with pytest.raises(BadSetting, match="must be a table with a header"):
        read_tags(write("case\na\n"))
