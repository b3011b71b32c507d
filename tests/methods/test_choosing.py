"""Which method is named first, on methods made up for the purpose and on the built-in ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from napari_noisylabel.methods import BUILT_IN, MethodInfo, methods
from napari_noisylabel.methods.choosing import advise
from napari_noisylabel.methods.settings import CrossEntropySettings
from napari_noisylabel.methods.situation import MEANINGS, Asset, ErrorKind, Need

PAGE = Path(__file__).parents[2] / "docs" / "choosing.md"


def method(name, suits=None, needs=()):
    return MethodInfo(name, name, CrossEntropySettings, "nowhere:Class", needs, suits=suits or {})


def names(advice):
    return [a.method.name for a in advice]


def test_a_method_made_for_the_error_goes_before_one_that_uses_what_is_there():
    known = [method("other"), method("uses it", {Asset.PERSON: "a"}), method("made for it", {ErrorKind.HARD: "b"})]
    assert names(advise(known, [ErrorKind.HARD], [Asset.PERSON])) == ["made for it", "uses it", "other"]


def test_of_two_that_fit_the_one_that_lacks_nothing_goes_first():
    known = [
        method("needs tags", {ErrorKind.HARD: "a"}, (Need.TAGS,)),
        method("can start", {ErrorKind.RARE: "b", ErrorKind.HARD: "c"}),
    ]
    assert names(advise(known, [ErrorKind.HARD])) == ["can start", "needs tags"]
    assert names(advise(known, [ErrorKind.HARD], [Asset.TAGS])) == ["needs tags", "can start"]


def test_a_main_purpose_goes_before_what_a_method_also_does():
    known = [method("also", {ErrorKind.RARE: "a", ErrorKind.HARD: "b"}), method("mainly", {ErrorKind.HARD: "c"})]
    assert names(advise(known, [ErrorKind.HARD])) == ["mainly", "also"]


def test_without_a_word_all_methods_stay_in_their_order():
    assert names(advise(BUILT_IN)) == [info.name for info in BUILT_IN]


def test_several_cases_are_there_unless_few_were_named():
    known = [method("asks neighbours", {ErrorKind.SWAPPED: "a"}, (Need.CASES,))]
    assert advise(known, [ErrorKind.SWAPPED])[0].lacks == ()
    assert advise(known, [ErrorKind.SWAPPED], [Asset.FEW_CASES])[0].lacks == ("several cases",)


def test_what_a_third_party_needs_in_words_of_its_own_is_repeated():
    assert advise([method("theirs", needs=("a second scanner",))])[0].lacks == ("a second scanner",)


@pytest.mark.parametrize("word", [*ErrorKind, *Asset])
def test_every_word_has_a_meaning_and_a_method_that_it_speaks_for(word):
    assert MEANINGS[word]
    assert any(word in info.suits for info in methods().values())


@pytest.mark.parametrize("word", [*ErrorKind, *Asset])
def test_the_page_names_the_same_methods_in_the_same_order(word):
    (row,) = re.findall(rf"^\| `{word}` \|.*$", PAGE.read_text("utf-8"), re.MULTILINE)
    is_error = word in list(ErrorKind)
    advice = advise(methods().values(), [word] if is_error else [], [] if is_error else [word])
    assert re.findall(r"\]\(methods/([\w-]+)\.md\)", row) == [a.method.name for a in advice if a.why]
