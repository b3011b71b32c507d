from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from napari_noisylabel.arrays.metrics import dice, signed_distance
from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.engine.data import CaseArrays, prepare
from napari_noisylabel.engine.fold import Fold, FoldSpec
from napari_noisylabel.engine.patches import PatchPlan
from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.errors import BadSetting
from napari_noisylabel.inner import Curve, Matrix, Mixtures, Note, from_json, to_json
from napari_noisylabel.methods import method_info
from napari_noisylabel.methods.base import Evidence, Method, Prediction
from napari_noisylabel.methods.boundary_bias import border_bias
from napari_noisylabel.methods.cross_entropy import CrossEntropy
from napari_noisylabel.methods.spatial_correction import SpatialCorrection, cleaned_labels, measured
from napari_noisylabel.records import IGNORE, Track

SPACING = (1.5, 1.0)
TRACK = Track("organ", ("background", "liver", "spleen"), (0, 1, 2))
ONE = Track("organ", ("background", "organ"), (0, 1))


def two_squares() -> np.ndarray:
    labels = np.zeros((40, 60), np.uint8)
    labels[8:32, 6:26], labels[8:32, 34:54] = 1, 2
    return labels


def predicted(labels: np.ndarray, grown: dict[int, float], n_classes: int = 3) -> np.ndarray:
    """Probabilities (K, *spatial) of a network that draws each class of `labels` too large by so many mm."""
    logits = np.zeros((n_classes, *labels.shape))
    for k in range(1, n_classes):
        logits[k] = -2 * (signed_distance(labels == k, SPACING[: labels.ndim]) - grown.get(k, 0.0))
    e = np.exp(np.clip(logits, -30, 30))
    return (e / e.sum(0)).astype(np.float16)


@dataclass
class PlayedRun:
    """A run whose network says what it is told to; counts new starts."""

    probs: dict[str, dict[str, np.ndarray]]
    truth: dict[str, dict[str, np.ndarray]]
    tracks: tuple[Track, ...] = (TRACK,)
    reference_ids: tuple[str, ...] = ("ref",)
    epoch: int = 1
    epochs: int = 4
    first_epoch_of_stage: bool = True
    restarts: int = 0
    working_labels: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.labels = self.truth
        self.spacing = dict.fromkeys(self.probs, SPACING)
        self.working_labels = {i: {t: a.copy() for t, a in own.items()} for i, own in self.truth.items()}

    def predict(self, cases: Any = None, **_: Any):
        chosen = [i for i in self.probs if i not in self.reference_ids] if cases is None else cases
        yield from (Prediction(i, self.probs[i]) for i in chosen)

    def restart(self) -> None:
        self.restarts += 1


def played(grown: dict[int, float], cases: int = 2, references: int = 1, **fields: Any) -> PlayedRun:
    ids = [f"c{i}" for i in range(cases)] + [f"ref{i}" for i in range(references)]
    truth = {i: {"organ": two_squares()} for i in ids}
    probs = {i: {"organ": predicted(two_squares(), grown)} for i in ids}
    return PlayedRun(probs, truth, reference_ids=tuple(ids[cases:]), **fields)


def started(run: PlayedRun, **settings: Any) -> SpatialCorrection:
    method = SpatialCorrection(**settings)
    method.on_run_start(run)
    return method


# ---------------------------------------------------------------- measuring and cleaning


def test_labels_that_are_too_large_are_moved_back_and_a_new_network_starts():
    run = played({1: 2.2, 2: 2.2})
    started(run).on_epoch_start(run)
    before = run.probs["c0"]["organ"].argmax(0)
    after = run.working_labels["c0"]["organ"]
    assert run.restarts == 1
    for k in (1, 2):
        assert dice(before == k, two_squares() == k) < 0.9 < 0.97 < dice(after == k, two_squares() == k)


def test_without_a_bias_labels_stay_and_training_goes_on():
    run = played({1: 0.1, 2: -0.1})
    run.working_labels["c0"]["organ"][0] = 2
    kept = run.working_labels["c0"]["organ"].copy()
    method = started(run)
    method.on_epoch_start(run)
    assert run.restarts == 0 and (run.working_labels["c0"]["organ"] == kept).all()
    assert "no boundary is surely off by 0.4 voxels" in method.inner()[-3].text


def test_a_bias_below_one_voxel_is_no_new_start_but_taken_out_of_the_opinions():
    run = played({1: -1.2})
    method = started(run)
    method.on_epoch_start(run)
    evidence = Evidence("c0", TRACK, run.probs["c0"]["organ"], two_squares(), SPACING)
    assert run.restarts == 0 and 0.4 < method._measured["organ"].borders[1, 0] < 1.3
    after, before = (dice(p.argmax(0) == 1, two_squares() == 1) for p in (method.corrected(evidence), evidence.probs))
    assert after > before


def test_the_published_schedule_starts_anew_without_a_bias_too():
    run = played({})
    started(run, until_unbiased=False).on_epoch_start(run)
    assert run.restarts == 1


def test_the_first_epoch_and_those_within_a_stretch_clean_nothing():
    for fields in ({"epoch": 0}, {"first_epoch_of_stage": False}):
        run = played({1: 3.0, 2: 3.0}, **fields)
        started(run).on_epoch_start(run)
        assert run.restarts == 0


def test_classes_without_a_bias_take_the_prediction_or_keep_their_labels():
    for self_training in (True, False):
        run = played({1: 3.0, 2: 0.0})
        run.truth["c0"]["organ"][20:24, 40:44] = 0  # a hole that the network does not see
        started(run, self_training=self_training).on_epoch_start(run)
        hole = run.working_labels["c0"]["organ"][20:24, 40:44]
        assert (hole == (2 if self_training else 0)).all()
        assert dice(run.working_labels["c0"]["organ"] == 1, two_squares() == 1) > 0.95


def test_what_is_not_annotated_stays_so_and_only_moved_classes_are_concerned():
    labels = np.array([[0, 1, 2, 2, IGNORE]], np.uint8)
    moved = np.eye(3)[[[1, 0, 1, 0, 1]]].transpose(2, 0, 1)
    concerned = np.array([False, True, False])
    np.testing.assert_array_equal(cleaned_labels(labels, moved, concerned, True), [[1, 0, 1, 0, IGNORE]])
    np.testing.assert_array_equal(cleaned_labels(labels, moved, concerned, False), [[1, 0, 1, 2, IGNORE]])


def test_tracks_are_measured_each_by_itself():
    tracks = (ONE, Track("lesion", ("background", "lesion"), (0, 1)))
    truth = {i: {t.name: (two_squares() == 1).astype(np.uint8) for t in tracks} for i in ("c0", "ref")}
    large, right = (predicted(truth["ref"]["organ"], {1: g}, 2) for g in (2.0, 0.0))
    run = PlayedRun({i: {"organ": large, "lesion": right} for i in truth}, truth, tracks)
    method = started(run)
    method.on_epoch_start(run)
    evidence = [Evidence("c0", t, large, truth["c0"][t.name], SPACING) for t in tracks]
    assert (method.corrected(evidence[0]) != large).any() and method.corrected(evidence[1]) is large


def test_the_opinion_on_a_case_is_freed_from_what_bias_is_left():
    run = played({1: -2.0, 2: 0.0}, epoch=3, first_epoch_of_stage=False)
    method = started(run)
    method.on_epoch_end(run)
    evidence = Evidence("c0", TRACK, run.probs["c0"]["organ"], two_squares(), SPACING)
    before, after = (p.argmax(0) for p in (evidence.probs, method.corrected(evidence)))
    assert dice(before == 1, two_squares() == 1) < 0.85 < 0.95 < dice(after == 1, two_squares() == 1)
    np.testing.assert_array_equal(before == 2, after == 2)


def test_a_shared_border_moves_only_where_three_verified_cases_agree():
    truth = np.zeros((40, 60), np.uint8)
    truth[8:32, 10:30], truth[8:32, 30:50] = 1, 2
    wrong = truth.copy()
    wrong[8:32, 30:34] = 1
    for n, moved in ((2, False), (3, True)):
        run = played({}, references=n)
        for i in run.reference_ids:
            run.truth[i]["organ"], run.probs[i]["organ"] = truth, predicted(wrong, {})
        method = started(run)
        method.on_epoch_end(run)
        evidence = Evidence("c0", TRACK, predicted(wrong, {}), wrong, SPACING)
        after = method.corrected(evidence).argmax(0)
        assert (dice(after == 2, truth == 2) > 0.97) == moved
        assert not ((after == 0) & (wrong > 0)).any()


def test_a_bias_that_verified_cases_do_not_agree_on_is_none():
    run = played({}, references=4)
    for i, g in zip(run.reference_ids, (-2.0, 2.0, -2.0, 2.5), strict=True):
        run.probs[i]["organ"] = predicted(two_squares(), {1: g, 2: 2.2})
    method = started(run)
    method.on_epoch_start(run)
    assert "spleen -1" in method.inner()[-3].text and "liver" not in method.inner()[-3].text


def test_a_class_that_no_verified_case_shows_is_left_alone_and_named():
    run = played({1: 2.0, 2: 2.0})
    run.truth["ref0"]["organ"][run.truth["ref0"]["organ"] == 2] = 0
    run.probs["ref0"]["organ"] = predicted(run.truth["ref0"]["organ"], {1: 2.0})
    method = started(run)
    method.on_epoch_start(run)
    assert "not measured, and left alone: spleen" in method.inner()[-3].text
    np.testing.assert_array_equal(run.working_labels["c0"]["organ"] == 2, run.probs["c0"]["organ"].argmax(0) == 2)


@pytest.mark.parametrize("move", ["boundary", "logits"])
def test_thick_slices_are_measured_and_moved_in_their_plane(move):
    truth = np.stack([two_squares() * 0, two_squares(), two_squares()]).astype(np.uint8)
    spacing = (9.0, *SPACING)
    flat = predicted(two_squares(), {1: 3.0, 2: 3.0})
    empty = np.stack([np.ones((40, 60)), np.zeros((40, 60)), np.zeros((40, 60))]).astype(np.float16)
    probs = np.stack([empty, flat, flat], 1)
    run = PlayedRun({"ref": {"organ": probs}}, {"ref": {"organ": truth}})
    run.spacing = {"ref": spacing}
    method = started(run, move=move)
    method.on_epoch_end(run)
    after = method.corrected(Evidence("ref", TRACK, probs, truth, spacing)).argmax(0)
    assert not after[0].any() and (after[1] == after[2]).all()
    assert dice(after == 1, truth == 1) > dice(probs.argmax(0) == 1, truth == 1) + 0.08


# ---------------------------------------------------------------- what the labels share


def drawn_too_large(**settings: Any) -> tuple[PlayedRun, SpatialCorrection]:
    """Twelve cases with class 1 drawn one voxel too large, and a network that has learnt it."""
    run = played({1: 1.6}, cases=12, epoch=3, first_epoch_of_stage=False)
    large = predicted(two_squares(), {1: 1.6}).argmax(0).astype(np.uint8)
    for i in set(run.probs) - set(run.reference_ids):
        run.labels[i]["organ"] = large
    method = started(run, **settings)
    method.on_epoch_end(run)
    return run, method


def shown_for(method: SpatialCorrection, run: PlayedRun, labels: np.ndarray) -> np.ndarray | None:
    evidence = Evidence("new", TRACK, run.probs["c0"]["organ"], labels, SPACING)
    return method.systematic(replace(evidence, probs=method.corrected(evidence)))


def test_what_all_labels_share_and_a_verified_case_has_shown_is_called_systematic():
    run, method = drawn_too_large()
    found = shown_for(method, run, run.labels["c0"]["organ"])
    assert found[1, 0] > 0.99 and found.sum() == found[1, 0]


def test_a_label_that_is_drawn_right_is_not_called_so_among_labels_that_are_too_large():
    run, method = drawn_too_large()
    assert shown_for(method, run, two_squares())[1, 0] < 0.05


def test_a_network_with_a_bias_of_its_own_says_nothing_against_labels_that_are_right():
    run = played({1: 1.6}, cases=12, epoch=3, first_epoch_of_stage=False)  # the labels are the true ones
    method = started(run)
    method.on_epoch_end(run)
    assert method._shifts("organ").any() and shown_for(method, run, two_squares()) is None


def test_without_a_bias_and_by_wish_nothing_is_called_systematic():
    run, method = drawn_too_large(shared_errors=False)
    assert shown_for(method, run, run.labels["c0"]["organ"]) is None
    run = played({}, cases=12, epoch=3, first_epoch_of_stage=False)
    method = started(run)
    method.on_epoch_end(run)
    assert shown_for(method, run, two_squares()) is None


# ---------------------------------------------------------------- settings


def test_one_divisor_for_all_classes_takes_back_less_as_in_the_released_code():
    run = played({1: 3.0, 2: 3.0})
    shifts = {}
    for divided in (False, True):
        method = started(run, move="logits", least=0.5, shared_divisor=divided)
        method.on_epoch_start(run)
        shifts[divided] = method._shifts("organ")
    np.testing.assert_allclose(shifts[True], shifts[False] / 2)


def test_single_classes_may_have_a_gamma_of_their_own():
    run = played({1: 3.0, 2: 3.0})
    plain, own = started(run), started(run, gamma=0.5, class_gamma={"organ/liver": 0.25, "liver": 2.0, "spleen": 1.0})
    for method in (plain, own):
        method.on_epoch_start(run)
    whole, part = plain._shifts("organ"), own._shifts("organ")
    np.testing.assert_allclose(part[1:, 0], whole[1:, 0] * [0.25, 1.0])
    np.testing.assert_allclose(part, -part.T)


def test_gammas_are_read_from_text_and_checked():
    info = method_info("spatial-correction")
    assert info.check({"class_gamma": "liver=0.8, spleen=0.4"}).class_gamma == {"liver": 0.8, "spleen": 0.4}
    with pytest.raises(BadSetting, match="class_gamma.*over 0 and at most 2"):
        info.check({"class_gamma": "liver=3"})
    with pytest.raises(BadSetting, match="class_gamma"):
        info.check({"class_gamma": "liver"})


def test_the_presets_are_the_published_bump_with_one_new_start():
    info = method_info("spatial-correction")
    paper, released = (info.check({"preset": p}) for p in ("paper", "as-released"))
    assert (paper.move, paper.cleanings, paper.first, paper.least, paper.gamma) == ("logits", 1, 0.5, 1.0, 0.8)
    assert released.shared_divisor and not paper.shared_divisor


@pytest.mark.parametrize("cleanings", [1, 3])
@pytest.mark.parametrize("period", [0.01, 0.2, 0.5, 0.9])
def test_the_stages_fill_every_number_of_epochs_and_the_last_has_one_at_least(cleanings, period):
    for epochs in range(1, 61):
        stages = SpatialCorrection(cleanings=cleanings, first=0.4, period=period).stages(epochs)
        assert sum(s.epochs for s in stages) == epochs and all(s.epochs > 0 for s in stages)
        assert 1 <= len(stages) <= cleanings + 1


# ---------------------------------------------------------------- state and what is shown


def test_a_restored_method_corrects_and_shows_the_same():
    run = played({1: 2.0, 2: -2.0}, references=2)
    first, second = started(run), started(run)
    first.on_epoch_start(run)
    second.load_state_dict(first.state_dict())
    evidence = Evidence("c0", TRACK, run.probs["c0"]["organ"], two_squares(), SPACING)
    np.testing.assert_array_equal(first.corrected(evidence), second.corrected(evidence))
    assert to_json(first.inner()) == to_json(second.inner())


def test_what_is_shown_can_be_stored_and_says_how_far_boundaries_are_off():
    run = played({1: 2.2, 2: 0.0})  # two columns of 1 mm, one row of 1.5 mm
    run.working_labels["c0"]["organ"][8:12] = 0
    method = started(run)
    method.on_epoch_start(run)
    shown = from_json(json.loads(json.dumps(to_json(method.inner()))))
    by_name = {item.name: item for item in shown}
    assert by_name["boundary bias of organ"].values["liver"] == pytest.approx(-1.75, abs=0.15)
    assert by_name["boundary bias of organ, in voxels"].unit == "voxels"
    assert by_name["cleanings"].values == {"cleanings": 1.0}
    assert 0 < by_name["share of voxels changed by the last cleaning"].values["organ"] < 0.2
    quality = by_name["Dice of verified cases, organ"].values
    assert quality["liver, corrected"] > quality["liver, predicted"] + 0.05
    histogram = by_name["predicted boundary over the true outer ring, organ/liver"]
    assert histogram.threshold == pytest.approx(-1.75, abs=0.15) and sum(histogram.counts["organ/liver"]) > 80
    table = by_name["largest changes of the last cleaning, organ"]
    assert table.rows == ("c0", "c1") and table.columns[0] == "liver volume %"
    assert {type(item) for item in shown} == {Curve, Matrix, Mixtures, Note}


def test_means_over_cases_leave_out_those_that_lack_a_class():
    there, empty = two_squares(), np.zeros((40, 60), np.uint8)
    large = predicted(there, {1: 2.0}).argmax(0)
    found = measured([large, empty], [there, empty], [SPACING] * 2, 3, 3.0, True)
    np.testing.assert_allclose(found.borders[1, 0], border_bias(large, there, 3, SPACING, None)[1, 0])
    assert found.n_cases[1, 0] == 1 and found.dice[2] == pytest.approx(1, abs=0.02) and found.voxel == 1.0


# ---------------------------------------------------------------- properties 5 to 7, on ellipses


def ellipses(theta1: float | None, n: int) -> tuple[list[CaseArrays], dict[str, np.ndarray]]:
    """Pictures of one ellipse, their masks all grown (theta1 = 0.8), all shrunk (0.2) or true (None); and the truth."""
    cases, truth = [], {}
    for i in range(n):
        rng = np.random.default_rng([11, i])
        image, true = phantom((40, 48), (1.2, 1.0), 2, rng, noise=0.3)
        labels = true if theta1 is None else corrupt(true, "markov", 0.75, rng, (1.2, 1.0), theta1=theta1).labels
        cases.append(CaseArrays(f"{i:02}", f"{i:02}", False, (1.2, 1.0), image, {"organ": labels}, {}))
        truth[f"{i:02}"] = true
    return cases, truth


def trained(folder, cases, truth, method: Method, references: int, epochs: int = 15) -> Fold:
    """A fold trained to its end on 24 cases; then come the references, with their true labels, and the tests."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    torch.set_num_threads(1)
    engine = EngineSettings(precision="32-true", lr=5e-3, ema=0.9)
    spec = FoldSpec((ONE,), PatchPlan(2, (1, 40, 48), 0, 0, 6, 10, False), engine, 1, 0, epochs, fabric)
    right = [CaseArrays(c.id, c.id, False, c.spacing, c.image, {"organ": truth[c.id]}, {}) for c in cases[24:]]
    own = [prepare(c, (ONE,), folder / c.id, 0) for c in [*cases[:24], *right]]
    fold = Fold(spec, 0, own[:24], method, own[24:])
    fold.reference_ids = fold.reference_ids[:references]
    fold.start()
    for fold.epoch in range(epochs):
        method.on_epoch_start(fold)
        for step in range(10):
            fold.step(step)
        method.on_epoch_end(fold)
    return fold


def quality(fold: Fold, truth: dict[str, np.ndarray], tests: list[str]) -> tuple[float, float]:
    """Mean Dice and bias, in voxels, of the corrected opinions on unseen cases."""
    own, bias = [], []
    for p in fold.predict(cases=tests):
        probs = fold.method.corrected(Evidence(p.case, ONE, p.probs["organ"], truth[p.case], (1.2, 1.0)))
        own.append(dice(probs.argmax(0) == 1, truth[p.case] == 1))
        bias.append(border_bias(probs.argmax(0), truth[p.case], 2, (1.2, 1.0), None)[1, 0])
    return float(np.mean(own)), float(np.mean(bias))


@pytest.mark.slow
@pytest.mark.parametrize("theta1", [0.8, 0.2])
def test_one_sided_noise_is_unlearnt_with_one_verified_case(tmp_path, theta1):
    cases, truth = ellipses(theta1, 36)
    tests = [c.id for c in cases[28:]]
    clean = [CaseArrays(c.id, c.id, False, c.spacing, c.image, {"organ": truth[c.id]}, {}) for c in cases]
    plain = quality(trained(tmp_path / "a", cases, truth, CrossEntropy(), 1), truth, tests)
    upper = quality(trained(tmp_path / "b", clean, truth, CrossEntropy(), 1), truth, tests)
    fold = trained(tmp_path / "c", cases, truth, SpatialCorrection(guard=0.5), 1)
    found = quality(fold, truth, tests)

    given, mended = (
        np.mean([dice(labels[c.id] == 1, truth[c.id] == 1) for c in cases[:24]])
        for labels in (
            {c.id: c.labels["organ"] for c in cases},
            {i: t["organ"] for i, t in fold.working_labels.items()},
        )
    )
    assert np.sign(plain[1]) == (-1 if theta1 > 0.5 else 1) and abs(plain[1]) > 0.5
    assert mended > given + 0.05
    assert abs(found[1]) < 0.5 * abs(plain[1])
    assert plain[0] + 0.03 < found[0] < upper[0] + 0.01

    several = quality(trained(tmp_path / "d", cases, truth, SpatialCorrection(guard=0.5), 4), truth, tests)
    assert several[0] == pytest.approx(found[0], abs=0.05)


@pytest.mark.slow
def test_clean_labels_cost_less_than_a_point_and_are_off_by_less_than_a_voxel(tmp_path):
    cases, truth = ellipses(None, 36)
    tests = [c.id for c in cases[28:]]
    plain = quality(trained(tmp_path / "a", cases, truth, CrossEntropy(), 1), truth, tests)
    fold = trained(tmp_path / "b", cases, truth, SpatialCorrection(), 1)
    found = quality(fold, truth, tests)
    assert abs(found[1]) < 1 and found[0] > plain[0] - 0.01
