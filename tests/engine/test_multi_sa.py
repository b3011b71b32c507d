"""The method in the engine: tags alone, tags beside masks, several tracks, volumes and slices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_noisylabel.arrays.phantom import part_and_body
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.data import CaseArrays
from napari_noisylabel.errors import BadSetting
from napari_noisylabel.inner import Curve, Mixtures, Note, from_json
from napari_noisylabel.methods import method_info
from napari_noisylabel.methods.base import Evidence
from napari_noisylabel.records import IGNORE, Track
from tests.engine.conftest import (
    OVERLAPPING,
    checkpoints,
    interrupted,
    losses,
    make_spec,
    maps,
    same,
    some_cases,
    working,
)

OBJECTS = (Track("object", ("background", "bright", "dark"), (0, 1, 2)),)
QUICK: dict[str, Any] = {"images": 4, "layers": (4, 5), "background": 0.2}


def tagged(n: int = 6, shape: tuple[int, ...] = (32, 40), **fields: Any) -> list[CaseArrays]:
    """Cases a, b, ... without masks, of which every third shows nothing, one class, or both."""
    cases = []
    for i in range(n):
        present = [(), (1,), (1, 2)][i % 3]
        image, _ = part_and_body(shape, present, np.random.default_rng(i))
        cases.append(
            CaseArrays(
                chr(97 + i), chr(97 + i), False, (1.0,) * len(shape), image, {}, {"object": None},
                findings={"object": present}, **fields,
            )
        )  # fmt: skip
    return cases


def spec(epochs: int = 2, settings: Any = None, folds: int = 2, **engine: Any):
    asked = make_spec("multi-sa", epochs, {**QUICK, **(settings or {})}, **{"patch": (32, 32), **engine})
    return replace(asked, folds=folds)


# ---------------------------------------------------------------- tags alone


@pytest.mark.parametrize(("shape", "engine"), [((32, 40), {}), ((32, 32, 36), {"patch": (32, 32, 32), "dims": "3d"})])
def test_masks_are_made_of_tags_in_2d_and_3d(train, shape, engine):
    cases = tagged(shape=shape)
    folder, _ = train(spec(**engine), cases, OBJECTS)
    for tree in checkpoints(folder).values():
        for case, tracks in tree["fold"]["working"].items():
            assert tracks["object"].size  # something was filled in
            assert case in "abcdef"
    for case in cases:
        scores = CaseScores(folder, case.id)
        assert scores.read("object.activation").shape == shape
        assert scores.read("object.attention-5").shape == scores.read("object.activation-4").shape == shape
        absent = {1, 2} - set(case.findings["object"])
        assert not set(np.unique(scores.read("object.proposal"))) & absent


def test_pseudo_masks_show_only_what_the_tags_name(train):
    cases = tagged()
    folder, _ = train(spec(folds=1), cases, OBJECTS)
    given = [replace(c, labels={"object": np.full(c.image.shape[1:], IGNORE, np.uint8)}) for c in cases]
    for (_, case, _), labels in working(folder, given).items():
        shown = set(np.unique(labels)) - {0, IGNORE}
        told = set(next(c for c in cases if c.id == case).findings["object"])
        assert shown <= told and bool(shown) == bool(told)


def test_volumes_are_taken_slice_by_slice_where_slices_are_thick(train):
    cases = [replace(c, spacing=(8.0, 1.0, 1.0)) for c in tagged(shape=(32, 32, 36))]
    folder, _ = train(spec(), cases, OBJECTS)
    assert CaseScores(folder, "b").read("object.activation").shape == (32, 32, 36)


def test_interrupted_anywhere_the_run_ends_the_same(tmp_path, train, every_step):
    cases = tagged()
    asked = spec(4, {"regrow": 0.5})
    whole, reports = train(asked, cases, OBJECTS)
    for points in ((4,), (9, 1, 5)):
        folder = tmp_path / f"cut-{points[0]}"
        told = interrupted(folder, points, asked, cases, OBJECTS)
        assert same(losses(told), losses(reports))
        assert same(checkpoints(folder), checkpoints(whole))
        assert same(maps(folder, cases, OBJECTS), maps(whole, cases, OBJECTS))


def test_what_a_person_decided_stays_in_a_mask_that_started_empty(train):
    cases = tagged()
    labels, decided = np.full((32, 40), IGNORE, np.uint8), np.zeros((32, 40), bool)
    decided[4:20, 8:30] = True
    labels[decided] = 0
    labels[6:9, 9:12] = 2
    cases[1] = replace(cases[1], labels={"object": labels}, verified={"object": decided}, blank=frozenset({"object"}))
    folder, _ = train(spec(4, {"regrow": 0.3}), cases, OBJECTS)
    given = [c if c.labels else replace(c, labels={"object": np.full((32, 40), IGNORE, np.uint8)}) for c in cases]
    for (_, case, _), left in working(folder, given).items():
        if case == "b":
            np.testing.assert_array_equal(left[decided], labels[decided])


def test_the_inner_state_tells_gammas_calibration_and_what_was_filled(train):
    _, reports = train(spec(4), tagged(), OBJECTS)
    last = {item.name: item for item in from_json([r for r in reports if r.kind == "epoch"][-1].inner)}
    gammas = last["gamma of attention"]
    assert isinstance(gammas, Curve) and set(gammas.values) == {"layer 4", "layer 5"}
    assert isinstance(last["probability of a finding, by its tag"], Mixtures)
    assert sum(last["share of voxels in pseudo-masks"].values.values()) == pytest.approx(1)


# ---------------------------------------------------------------- what cannot be learnt


def test_no_positive_case_is_refused_in_one_sentence(train):
    cases = [replace(c, findings={"object": ()}) for c in tagged()]
    with pytest.raises(BadSetting, match="there is no positive case. Correct the tags"):
        train(spec(), cases, OBJECTS)


def test_findings_that_are_everywhere_tell_nothing(train):
    cases = [replace(c, findings={"object": (1,)}) for c in tagged()]
    with pytest.raises(BadSetting, match="images that show it and images that do not"):
        train(spec(), cases, OBJECTS)


def test_one_finding_that_is_everywhere_is_left_out_and_nothing_counts_as_background(train):
    cases = [replace(c, findings={"object": tuple(sorted({1, *c.findings["object"]}))}) for c in tagged()]
    folder, reports = train(spec(folds=1), cases, OBJECTS)
    notes = [i for r in reports if r.kind == "epoch" for i in from_json(r.inner) if isinstance(i, Note)]
    assert any("object/bright: in all cases or in none" in n.text for n in notes)
    given = [replace(c, labels={"object": np.full((32, 40), IGNORE, np.uint8)}) for c in cases]
    for labels in working(folder, given).values():
        assert not (labels == 0).any() and not (labels == 1).any()


def test_cases_that_nobody_said_anything_about_are_left_open(train):
    cases = tagged(7)
    cases[6] = replace(cases[6], findings={"object": None})
    folder, _ = train(spec(folds=1), cases, OBJECTS)
    given = [replace(c, labels={"object": np.full((32, 40), IGNORE, np.uint8)}) for c in cases]
    for (_, case, _), labels in working(folder, given).items():
        assert (labels == IGNORE).all() == (case == "g")


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [("layers", "5,3", "ascend"), ("layers", "6", "ascend"), ("scales", "9", "0.25"), ("background", 0.5, "below")],
)
def test_settings_out_of_range_are_refused(setting, value, says):
    with pytest.raises(BadSetting, match=says):
        method_info("multi-sa").check({setting: value})


def test_one_epoch_is_too_few(train):
    with pytest.raises(BadSetting, match="two stages"):
        train(spec(1), tagged(), OBJECTS)


# ---------------------------------------------------------------- beside masks


def test_given_masks_are_used_or_ignored_as_asked(train):
    cases = some_cases(2)
    for i, c in enumerate(cases[:2]):
        own = {"organ": (1, 2) if i % 2 else ()}
        cases.append(replace(c, id="x" + c.id, group="x" + c.id, labels={}, verified={"organ": None}, findings=own))
    organs = (Track("organ", ("background", "liver", "spleen"), (0, 1, 2)),)
    given = [c if c.labels else replace(c, labels={"organ": np.full((20, 27), IGNORE, np.uint8)}) for c in cases]
    by_case = {c.id: c.labels["organ"] for c in given}
    for masks in ("use", "ignore"):
        folder, _ = train(spec(2, {"masks": masks}, folds=1), cases, organs, name=masks)
        left = {case: labels for (_, case, _), labels in working(folder, given).items() if case[0] != "x"}
        assert all(same(labels, by_case[case]) for case, labels in left.items()) == (masks == "use")


def test_ignored_voxels_stay_ignored(train):
    cases = [replace(c, labels={"organ": c.labels["organ"].copy()}) for c in some_cases(4)]
    for c in cases:
        c.labels["organ"][:5] = IGNORE
    cases[0].labels["organ"][5:] = 0
    organs = (Track("organ", ("background", "liver", "spleen"), (0, 1, 2), 255),)
    folder, _ = train(spec(2, {"masks": "ignore"}, folds=1), cases, organs)
    for left in working(folder, cases).values():
        assert (left[:5] == IGNORE).all()


def test_tracks_have_findings_of_their_own(train):
    cases = []
    for i, c in enumerate(some_cases(6, (32, 40), OVERLAPPING)):
        own = {"body": (1,), "lesion": (1,) if i % 2 else ()}
        nobody = {"body": None, "lesion": None}
        cases.append(replace(c, labels={"body": c.labels["body"]}, verified=nobody, findings=own))
    folder, _ = train(spec(), cases, OVERLAPPING)
    blank = np.full((32, 40), IGNORE, np.uint8)
    given = [replace(c, labels={**c.labels, "lesion": blank}) for c in cases]
    by_case = {c.id: c for c in given}
    for (_, case, track), left in working(folder, given).items():
        if track == "body":
            np.testing.assert_array_equal(left, by_case[case].labels["body"])
        else:
            assert (left == 1).any() == bool(by_case[case].findings["lesion"])


# ---------------------------------------------------------------- the likelihood


def evidence(**fields: Any) -> Evidence:
    p = np.array([[0.2, 0.9], [0.5, 0.05], [0.3, 0.05]], np.float16)
    return Evidence("a", OBJECTS[0], p, np.full(2, IGNORE, np.uint8), (1.0,), **fields)


def test_of_an_empty_mask_the_likelihood_is_the_probability_of_something():
    method = method_info("multi-sa").make(method_info("multi-sa").check({}))
    blank = evidence(blank=True)
    np.testing.assert_allclose(method.noise_likelihood(blank), [0.8, 0.1], atol=1e-3)
    np.testing.assert_allclose(method.score(blank), -np.log([0.2, 0.9]), atol=2e-3)
    assert method.noise_likelihood(evidence()) is None and not method.score(evidence()).any()


def test_what_the_tags_exclude_counts_as_background():
    method = method_info("multi-sa").make(method_info("multi-sa").check({}))
    kept = method.corrected(evidence(findings=(2,)))
    np.testing.assert_allclose(kept, [[0.7, 0.95], [0, 0], [0.3, 0.05]], atol=1e-3)
    assert method.corrected(evidence()) is not None and method.corrected(evidence())[1, 0] == np.float16(0.5)
