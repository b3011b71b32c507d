"""The page of checkable properties names tests that exist, and says truly which are slow. Imports no torch."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from napari_noisylabel.methods import BUILT_IN

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "methods" / "properties.md"
SECTIONS_OF_THEIR_OWN = ("the noise models", "every method")
BASELINE = "cross-entropy"
RESULTS = ("holds", "holds with another tolerance", "holds in part", "does not hold", "not testable")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`( \(slow\))?")


@dataclass(frozen=True)
class Property:
    """A row of the page: its section and number, the sentence, what holds it, what came out."""

    section: str
    number: str
    sentence: str
    held_by: str
    result: str

    @property
    def tests(self) -> list[tuple[str, str, bool]]:
        """File, name, and whether the page calls it slow."""
        return [(file, name, bool(slow)) for file, name, slow in NAMED.findall(self.held_by)]


def properties() -> list[Property]:
    section, rows = "", []
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            rows.append((section, *cells))
    return [Property(*row) for row in rows]


ROWS = properties()
each_row = pytest.mark.parametrize("row", ROWS, ids=[f"{r.section} {r.number}" for r in ROWS])


@cache
def functions_of(path: Path) -> dict[str, bool]:
    """The test functions of a file, and whether each is marked slow."""
    tree = ast.parse(path.read_text("utf-8"))
    of_all = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark"]
    return {
        node.name: any("mark.slow" in ast.unparse(mark) for mark in (*node.decorator_list, *of_all))
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


@each_row
def test_every_test_on_the_page_exists_and_is_as_slow_as_the_page_says(row):
    for file, name, slow in row.tests:
        assert (REPOSITORY / file).is_file(), f"there is no file {file}"
        found = functions_of(REPOSITORY / file)
        assert name in found, f"{file} has no test {name}"
        assert slow == found[name], f"{name} is {'' if found[name] else 'not '}marked slow in {file}"
    assert not NAMED.sub("", row.held_by).replace("<br>", "").strip(), f"not understood: {row.held_by}"


@each_row
def test_every_result_is_one_of_five_and_has_a_reason_where_it_needs_one(row):
    result, _, reason = row.result.partition(": ")
    assert result in RESULTS
    assert result == "holds" or len(reason.split()) > 3, "say why"
    assert row.tests or result in ("does not hold", "not testable"), "name the test that holds it"
    assert len(row.sentence.split()) > 3


def test_properties_are_numbered_from_one_in_each_section():
    for section in {row.section for row in ROWS}:
        own = [int(row.number) for row in ROWS if row.section == section]
        assert own == list(range(1, len(own) + 1)), section


def test_every_method_that_was_published_has_a_section_and_its_page_leads_there():
    published = [info.name for info in BUILT_IN if info.name != BASELINE]
    assert {row.section for row in ROWS} == {*published, *SECTIONS_OF_THEIR_OWN}
    for name in published:
        assert f"](properties.md#{name})" in (PAGE.parent / f"{name}.md").read_text("utf-8"), name
    assert "](methods/properties.md)" in (REPOSITORY / "docs" / "index.md").read_text("utf-8")
