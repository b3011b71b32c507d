from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from napari_noisylabel.arrays.metrics import auroc, dice
from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.data import CaseArrays, prepare
from napari_noisylabel.engine.fold import Fold, FoldSpec
from napari_noisylabel.engine.patches import PatchPlan
from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.engine.spec import RunSpec
from napari_noisylabel.engine.train import train
from napari_noisylabel.inner import Curve, Matrix, Mixtures, Note, from_json, to_json
from napari_noisylabel.methods import method_info
from napari_noisylabel.methods.base import Evidence, Method, Prediction
from napari_noisylabel.methods.self_cleansing import SelfCleansing
from napari_noisylabel.records import IGNORE, Track

TRACK = Track("organ", ("background", "organ"), (0, 1))


def ellipses(noise: str, n: int = 30, share: float = 0.4) -> tuple[list[CaseArrays], list[np.ndarray], np.ndarray]:
    """Pictures of one ellipse whose masks are spoiled in every so many cases; the truth; which are spoiled."""
    cases, truths, spoiled = [], [], []
    for i in range(n):
        rng = np.random.default_rng([7, i])
        image, truth = phantom((32, 40), (1.2, 1.0), 2, rng, noise=0.3)
        bad = i % 5 < 5 * share
        labels = corrupt(truth, noise, 1.0, rng, (1.2, 1.0)).labels if bad else truth
        cases.append(CaseArrays(f"{i:02}", f"{i:02}", False, (1.2, 1.0), image, {"organ": labels}, {}))
        truths.append(truth)
        spoiled.append(bad)
    return cases, truths, np.array(spoiled)


def trained_fold(folder, cases, method: Method, epochs: int = 8) -> Fold:
    torch.set_num_threads(1)
    engine = EngineSettings(precision="32-true", lr=5e-3, ema=0.9)
    plan = PatchPlan(2, (1, 32, 40), 0, 0, 6, 10, False)
    spec = FoldSpec((TRACK,), plan, engine, 1, 0, epochs, Fabric(accelerator="cpu", devices=1, precision="32-true"))
    fold = Fold(spec, 0, [prepare(c, (TRACK,), folder / c.id, 0) for c in cases], method)
    fold.start()
    for fold.epoch in range(epochs):
        method.on_epoch_start(fold)
        fold.keep_verified()
        for step in range(10):
            fold.step(step)
    return fold


def suspicion_of_cases(fold: Fold, method: SelfCleansing) -> np.ndarray:
    """The highest P(noisy) in each case, by the filters as they are after training."""
    found = []
    for p in fold.predict():
        labels = np.asarray(fold.labels[p.case]["organ"])
        evidence = Evidence(p.case, TRACK, p.probs["organ"], labels, fold.spacing[p.case])
        maps = method.maps(evidence)
        found.append(max([float(m.max()) for name, m in maps.items() if name.startswith("noisy")] or [0.0]))
    return np.array(found)


@pytest.fixture(scope="module", params=["boundary", "missing"])
def repaired(request, tmp_path_factory):
    cases, truths, spoiled = ellipses(request.param)
    method = SelfCleansing(warmup=0.5, refresh=1)
    return cases, truths, spoiled, method, trained_fold(tmp_path_factory.mktemp("fold"), cases, method)


def test_spoiled_ellipses_are_told_from_clean_ones(repaired):
    _, _, spoiled, method, fold = repaired
    assert auroc(suspicion_of_cases(fold, method), spoiled) > 0.85


def test_pseudo_labels_are_better_than_the_labels_they_replace_and_harm_no_clean_case(repaired):
    cases, truths, spoiled, _, fold = repaired
    working = [fold.working_labels[c.id]["organ"] for c in cases]
    changed = np.array([(w != c.labels["organ"]).any() for w, c in zip(working, cases, strict=True)])
    assert changed[spoiled].mean() > 0.7
    known = [w != IGNORE for w in working]
    pseudo = np.array([dice((w == 1)[k], (t == 1)[k]) for w, t, k in zip(working, truths, known, strict=True)])
    given = np.array([dice(c.labels["organ"] == 1, t == 1) for c, t in zip(cases, truths, strict=True)])
    assert pseudo[changed & spoiled].mean() > given[changed & spoiled].mean() + 0.05
    assert pseudo[~spoiled].mean() > 0.97


def test_samples_that_are_clean_train_on_the_given_label_to_the_last_bit(repaired):
    cases, _, spoiled, _, fold = repaired
    working = [fold.working_labels[c.id]["organ"] for c in cases]
    same = np.array([w.tobytes() == c.labels["organ"].tobytes() for w, c in zip(working, cases, strict=True)])
    assert same[~spoiled].mean() > 0.6 and all(w.dtype == np.uint8 for w in working)
    given = [np.asarray(fold.labels[c.id]["organ"]) for c in cases]
    assert all((g == c.labels["organ"]).all() for g, c in zip(given, cases, strict=True))


def test_what_it_shows_are_mixtures_shares_gaps_a_ranking_and_reasons_that_json_can_keep(repaired):
    method = repaired[3]
    shown = method.inner()
    names = {type(item): [i.name for i in shown if type(i) is type(item)] for item in shown}
    assert {"share of objects called clean", "gap between the two humps of objects"} <= set(names[Curve])
    assert "scores of objects, organ/organ" in names[Mixtures] and "filter of pieces, organ" in names[Note]
    (ranking,) = (i for i in shown if isinstance(i, Matrix))
    p = [row[0] for row in ranking.values]
    assert p == sorted(p, reverse=True) and ranking.columns == ("P(noisy)", "score", "ml")
    assert to_json(from_json(to_json(shown))) == to_json(shown)


def test_another_instance_goes_on_from_its_state(repaired):
    method, fold = repaired[3], repaired[4]
    other = SelfCleansing(warmup=0.5, refresh=1)
    other.load_state_dict(method.state_dict())
    p = next(iter(fold.predict()))
    labels = np.asarray(fold.labels[p.case]["organ"])
    evidence = Evidence(p.case, TRACK, p.probs["organ"], labels, fold.spacing[p.case])
    np.testing.assert_array_equal(other.score(evidence), method.score(evidence))
    assert other.inner() == method.inner()


# ---------------------------------------------------------------- what a trained network is not needed for


class OneEpoch:
    """A run that is at its first refresh, of cases whose prediction is given."""

    def __init__(self, labels: dict[str, np.ndarray], shown: dict[str, np.ndarray], verified=None) -> None:
        self.epoch, self.epochs, self.tracks = 1, 4, (TRACK,)
        self.labels = {i: {"organ": a} for i, a in labels.items()}
        self.working_labels = {i: {"organ": a.copy()} for i, a in labels.items()}
        self.verified = {i: {"organ": (verified or {}).get(i)} for i in labels}
        self.spacing = dict.fromkeys(labels, (1.5, 1.0))
        self.axes = (1, 2)
        self.attached: dict[str, np.ndarray] = {}
        planes = {i: np.where(s, 0.95, 0.02).astype(np.float16) for i, s in shown.items()}
        self._predictions = [Prediction(i, {"organ": np.stack([1 - p, p])}) for i, p in planes.items()]

    @property
    def case_ids(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def predict(self, cases=None, features: bool = False):
        return (p for p in self._predictions if cases is None or p.case in cases)

    def attach(self, name: str, case: str, track: str, values: np.ndarray) -> None:
        self.attached[case] = values


def squares(n: int = 20, missed: int = 4) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Labels and what the network shows: two squares per case with ragged contours; in some one is not labelled."""
    labels, shown = {}, {}
    for i in range(n):
        rng = np.random.default_rng(i)
        a = np.zeros((30, 44), bool)
        a[4:14, 4:15], a[16:26, 26:38] = True, True
        shown[f"{i:02}"] = a
        own = a.astype(np.uint8)
        for column in range(4, 38, 3):
            rows = np.flatnonzero(a[:, column])
            if rows.size:
                own[rows[: int(rng.integers(0, 3))], column : column + 3] = 0
        if i < missed:
            own[16:26, 26:38] = 0
        labels[f"{i:02}"] = own
    return labels, shown


def test_a_missing_lesion_is_drawn_where_the_whole_case_would_not_be_redrawn():
    labels, shown = squares()
    run, method = OneEpoch(labels, shown), SelfCleansing(warmup=0.1)
    method.on_epoch_start(run)
    drawn = {i: (run.working_labels[i]["organ"][18:24, 28:36] == 1).all() for i in labels}
    assert all(drawn[f"{i:02}"] for i in range(4))
    for i in list(labels)[4:]:
        np.testing.assert_array_equal(run.working_labels[i]["organ"], labels[i])


def test_neighbours_that_nobody_labels_stay_background_however_sure_the_network_is():
    labels, shown = squares(missed=0)
    for own in labels.values():
        own[15:, 20:] = 0  # of two squares, everybody draws the first
    for i in list(shown)[6:]:
        shown[i] = shown[i].copy()
        shown[i][15:, 20:] = False  # the network has learnt so in most cases
    labels["00"][:15] = 0  # and one lacks it, which is an error
    shown["00"] = shown["00"].copy()
    shown["00"][15:, 20:] = False
    run, method = OneEpoch(labels, shown), SelfCleansing(warmup=0.1)
    method.on_epoch_start(run)
    assert (run.working_labels["00"]["organ"][6:12, 6:13] == 1).all()
    for i in list(labels)[1:]:
        np.testing.assert_array_equal(run.working_labels[i]["organ"], labels[i])


def test_a_refresh_holds_the_prediction_of_one_case_at_a_time():
    labels, shown = squares()
    alive, most = weakref.WeakSet(), []

    class Counting(OneEpoch):
        def predict(self, cases=None, features: bool = False):
            for p in super().predict(cases, features):
                fresh = Prediction(p.case, {"organ": p.probs["organ"].copy()})
                alive.add(fresh)
                most.append(len(alive))
                yield fresh
                del fresh

    SelfCleansing(warmup=0.1).on_epoch_start(Counting(labels, shown))
    assert len(most) > len(labels) and max(most) <= 2  # the last one goes when the next is there


def test_at_the_case_level_there_are_no_pieces_and_the_score_stays_the_cross_entropy():
    labels, shown = squares()
    run, method = OneEpoch(labels, shown), SelfCleansing(warmup=0.1, level="case")
    method.on_epoch_start(run)
    assert not any("pieces, organ/" in item.name for item in method.inner() if isinstance(item, Mixtures))
    probs = np.where(shown["00"], 0.95, 0.02)
    evidence = Evidence("00", TRACK, np.stack([1 - probs, probs]), labels["00"], (1.5, 1.0))
    np.testing.assert_allclose(method.score(evidence), Method().score(evidence), rtol=1e-5, atol=1e-7)


def test_verified_lesions_have_no_say_and_are_not_changed():
    labels, shown = squares()
    decided = np.zeros((30, 44), bool)
    decided[15:, 20:] = True
    run, method = OneEpoch(labels, shown, {"00": decided}), SelfCleansing(warmup=0.1)
    method.on_epoch_start(run)
    np.testing.assert_array_equal(run.working_labels["00"]["organ"][15:, 20:], labels["00"][15:, 20:])
    assert (run.working_labels["01"]["organ"][18:24, 28:36] == 1).all()


def test_of_lesions_that_nobody_sees_only_a_capped_share_is_deleted_and_the_deletions_are_named():
    labels, shown = squares(missed=0)
    for i in range(6):
        shown[f"{i:02}"] = shown[f"{i:02}"].copy()
        shown[f"{i:02}"][16:26, 26:38] = False
    run, method = OneEpoch(labels, shown), SelfCleansing(warmup=0.1, max_deleted=0.1, drop_small=False)
    method.on_epoch_start(run)
    gone = [i for i in labels if (run.working_labels[i]["organ"][18:24, 28:36] == 0).all()]
    left_out = [i for i in labels if (run.working_labels[i]["organ"][18:24, 28:36] == IGNORE).all()]
    assert len(gone) == 4 and len(left_out) == 2  # of 40 objects a tenth
    (note,) = (item.text for item in method.inner() if item.name == "objects deleted, organ")
    assert all(i in note for i in gone) and "2 further ones are left out" in note


def test_the_soft_version_attaches_how_clean_each_voxel_is():
    labels, shown = squares()
    run, method = OneEpoch(labels, shown), SelfCleansing(warmup=0.1, soft=True)
    method.on_epoch_start(run)
    assert set(run.attached) == set(labels)
    assert run.attached["00"][20, 30] < 0.5 and run.attached["10"].min() > 0.5
    assert all(0 <= a.min() and a.max() <= 1 for a in run.attached.values())


def test_a_class_that_no_case_shows_is_no_trouble():
    empty = {f"{i}": np.zeros((12, 15), np.uint8) for i in range(3)}
    run, method = OneEpoch(empty, {i: np.zeros((12, 15), bool) for i in empty}), SelfCleansing(warmup=0.1)
    method.on_epoch_start(run)
    assert all((run.working_labels[i]["organ"] == 0).all() for i in empty)
    assert any("no case shows this class" in item.text for item in method.inner() if isinstance(item, Note))


def test_its_preset_is_called_a_reconstruction_and_not_the_papers():
    info = method_info("self-cleansing")
    assert set(info.settings.PRESETS) == {"reconstruction"}
    assert info.check({"preset": "reconstruction"}).model_dump()["level"] == "case"


# ---------------------------------------------------------------- slow: whole runs


def proposals(folder, cases, method: str, **settings) -> list[np.ndarray]:
    """What the networks propose for cases that they have not seen."""
    engine = {"steps": 12, "batch": 6, "precision": "32-true", "threads": 1, "lr": 5e-3}
    spec = RunSpec("run-001", method, settings, engine, seed=0, folds=2, epochs=12, device="cpu")
    list(train(spec, cases, (TRACK,), folder))
    return [CaseScores(folder, c.id).read("organ.proposal") for c in cases]


def mean_dice(found: list[np.ndarray], truths: list[np.ndarray]) -> float:
    return float(np.mean([dice(p == 1, t == 1) for p, t in zip(found, truths, strict=True)]))


@pytest.mark.slow
def test_it_beats_plain_training_on_a_phantom_with_known_noise_and_lies_under_clean_labels(tmp_path):
    cases, truths, _ = ellipses("missing", n=40, share=0.6)
    clean = [replace(c, labels={"organ": t}) for c, t in zip(cases, truths, strict=True)]
    plain, own = (mean_dice(proposals(tmp_path / m, cases, m), truths) for m in ("cross-entropy", "self-cleansing"))
    upper = mean_dice(proposals(tmp_path / "upper", clean, "cross-entropy"), truths)
    assert plain < own <= upper + 0.01


@pytest.mark.slow
def test_the_filter_alone_helps_and_pseudo_labels_are_within_half_a_point_of_it(tmp_path):
    cases, truths, _ = ellipses("missing", n=40, share=0.6)
    plain = mean_dice(proposals(tmp_path / "plain", cases, "cross-entropy"), truths)
    filtered = mean_dice(proposals(tmp_path / "filter", cases, "self-cleansing", confident=0.9999), truths)
    cleansed = mean_dice(proposals(tmp_path / "both", cases, "self-cleansing"), truths)
    assert plain < filtered < cleansed + 0.005, (plain, filtered, cleansed)


@pytest.mark.slow
def test_without_noise_it_is_within_a_point_of_dice_of_plain_training(tmp_path):
    cases, truths, _ = ellipses("missing", n=40, share=0.0)
    plain, own = (mean_dice(proposals(tmp_path / m, cases, m), truths) for m in ("cross-entropy", "self-cleansing"))
    assert abs(own - plain) < 0.01
