"""What methods show of themselves survives its trip through the journal."""

from __future__ import annotations

import json

import pytest

from napari_noisylabel.errors import UnreadableFile
from napari_noisylabel.inner import Curve, Fit, Matrix, Mixtures, Note, from_json, to_json
from napari_noisylabel.records import MixtureFit

SPLIT = MixtureFit((0.1, 2.0), (0.5, 0.7), (0.8, 0.2), True, "two groups", 40.0)
ALL_KINDS = [
    Curve("beta", {"beta": 0.5, "kept": None}),
    Matrix("transitions", ("a", "b"), ("a", "b"), ((0.9, 0.1), (0.2, 0.8))),
    Matrix("measured", ("a",), ("a", "b"), ((0.9, 0.1),), ((0.02, 0.02),)),
    Mixtures("scores", 0.0, 8.0, {"a": (3, 2, 0), "b": (0, 0, 1)}, {"a": SPLIT}, 0.5, "nats"),
    Fit("training IoU of a", (0.0, 1.0), (0.2, 0.4), (0.21, 0.39), 3.5, {"a": 0.8}, "triggered"),
    Note("filter", "no split"),
]


def test_every_kind_comes_back_as_it_was():
    assert from_json(json.loads(json.dumps(to_json(ALL_KINDS)))) == ALL_KINDS


def test_a_matrix_of_an_earlier_version_has_no_spread():
    stored = {"kind": "matrix", "name": "x", "rows": ["a"], "columns": ["a"], "values": [[1.0]]}
    assert from_json([stored]) == [Matrix("x", ("a",), ("a",), ((1.0,),))]


def test_a_kind_of_a_later_version_is_left_out():
    stored = [{"kind": "hologram", "name": "x"}, *to_json([Note("a", "b")])]
    assert from_json(stored) == [Note("a", "b")]


def test_a_state_that_lacks_a_field_is_refused_by_name():
    with pytest.raises(UnreadableFile, match="kind 'note' lacks what it needs"):
        from_json([{"kind": "note", "name": "a"}])
