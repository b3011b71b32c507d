from __future__ import annotations

import numpy as np

from napari_noisylabel.arrays.likelihood import to_nats
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.score import objects_per_case, score_case
from napari_noisylabel.methods.base import Method, Prediction
from napari_noisylabel.records import IGNORE
from tests.engine.conftest import ORGANS, make_case, prepared


class Knowing(Method):
    """Knows how labels are drawn."""

    def systematic(self, evidence):
        return np.array([[0, 0, 0], [0.75, 0, 0], [0, 0, 0]])


def measured(tmp_path, change=None, verified=None, method=None):
    """Statistics of a phantom with classes 1 and 2 that a network sees moved by two columns."""
    case = make_case("a", (20, 27))
    truth = case.labels["organ"].copy()
    if change is not None:
        case.labels["organ"][...] = change(truth)
    case.verified["organ"] = verified
    opinion = np.roll(truth, 2, axis=1)
    probs = np.stack([np.where(opinion == k, 0.9, 0.05) for k in range(3)]).astype(np.float16)
    own, scores = prepared(tmp_path, case), CaseScores(tmp_path / "run", "a")
    prediction = Prediction("a", {"organ": probs})
    score_case(scores, own, prediction, prediction, ORGANS, method or Method(), (1, 2))
    return scores, scores.statistics()["organ"], case.labels["organ"], probs


def test_the_score_is_the_loss_of_the_label_and_the_histogram_counts_it(tmp_path):
    scores, statistics, labels, probs = measured(tmp_path)
    expected = -np.log(np.take_along_axis(probs.astype(float), labels[None].astype(int), 0)[0])
    np.testing.assert_allclose(to_nats(scores.read("organ.score")), expected, atol=1e-3)
    assert statistics.histogram.sum() == labels.size
    assert (statistics.seen[1:] > 0).all() and np.isnan(statistics.seen[0]) and (statistics.between[1:] == 0).all()


def test_ignored_voxels_have_no_score_and_no_say(tmp_path):
    scores, statistics, labels, _ = measured(tmp_path, lambda truth: np.where(truth == 2, IGNORE, truth))
    assert not scores.read("organ.score")[labels == IGNORE].any()
    assert statistics.histogram.sum() == (labels != IGNORE).sum()


def test_what_is_verified_is_neither_counted_nor_called_displaced(tmp_path):
    corner = np.zeros((20, 27), bool)
    corner[:, :13] = True
    _, open_, _, _ = measured(tmp_path / "open")
    _, half, _, _ = measured(tmp_path / "half", verified=corner)
    _, whole, _, _ = measured(tmp_path / "whole", verified=np.ones((20, 27), bool))
    assert half.histogram.sum() == (~corner).sum() and whole.histogram.sum() == 0
    assert np.nansum(half.seen) < np.nansum(open_.seen)
    assert np.isnan(whole.seen).all() and np.isnan(whole.unseen).all()


def test_what_a_method_knows_of_all_labels_is_kept_for_the_filter(tmp_path):
    _, plain, _, _ = measured(tmp_path / "plain")
    _, known, _, _ = measured(tmp_path / "known", method=Knowing())
    assert plain.systematic is None and known.systematic.tolist() == [[0, 0, 0], [0.75, 0, 0], [0, 0, 0]]


def test_the_proposal_of_a_held_out_case_does_not_hear_its_labels(tmp_path):
    class Repeats(Method):
        """Proposes the label itself, wherever there is one."""

        def propose(self, evidence):
            return np.where(evidence.labels == IGNORE, 0, evidence.labels)

    for held_out in (False, True):
        case = make_case("a", (20, 27), held_out=held_out)
        labels = case.labels["organ"]
        prediction = Prediction("a", {"organ": np.full((3, 20, 27), 1 / 3, np.float16)})
        scores = CaseScores(tmp_path / f"run-{held_out}", "a")
        own = prepared(tmp_path / f"{held_out}", case)
        score_case(scores, own, prediction, prediction, ORGANS, Repeats(), (1, 2))
        assert (scores.read("organ.proposal") == labels).all() == (not held_out)
        assert to_nats(scores.read("organ.score")).max() > 1  # what it measures is measured against them all the same


def test_where_every_case_shows_one_object_a_second_one_speaks_against_no_label(tmp_path):
    found = {}
    for number in (0, 1):
        case = make_case("a", (20, 27))
        labels = case.labels["organ"]
        labels[...] = 0
        labels[2:7, 2:7] = 1
        seen = labels.copy()
        seen[14:18, 20:24] = 1
        probs = np.stack([np.where(seen == k, 0.9, 0.05) for k in range(3)]).astype(np.float16)
        prediction, scores = Prediction("a", {"organ": probs}), CaseScores(tmp_path / f"run-{number}", "a")
        own = prepared(tmp_path / f"case-{number}", case)
        score_case(scores, own, prediction, prediction, ORGANS, Method(), (1, 2), {"organ": (0, number, 0)})
        assert (scores.read("organ.proposal") == seen).all()  # it is what the network says
        found[number] = scores.read("organ.rejection")[seen != labels], scores.statistics()["organ"].seen[1]
    (rejected, seen_off), (spared, spared_off) = found[0], found[1]
    assert rejected.min() > 200 and seen_off > 0
    assert spared.max() == 0 and spared_off == 0


def test_objects_are_counted_over_the_cases_that_have_a_mask(tmp_path):
    cases = [prepared(tmp_path / str(i), make_case(f"c{i}", (20, 27))) for i in range(12)]
    assert objects_per_case(cases, ORGANS) == {"organ": (0, 1, 1)}
    assert objects_per_case(cases[:9], ORGANS) == {"organ": (0, 0, 0)}
