from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.methods.cleansing import surprise
from napari_noisylabel.methods.cleansing_objects import (
    classes_of,
    concerned,
    find_objects,
    find_pieces,
    redrawn_off,
    rescored,
    scores_of,
    suspicion,
)
from napari_noisylabel.records import IGNORE


def from_labels(shown: np.ndarray, n_classes: int = 2, sure: float = 0.97) -> np.ndarray:
    """Probabilities of a network that sees `shown` confidently."""
    probs = np.full((n_classes, *shown.shape), (1 - sure) / (n_classes - 1), np.float32)
    np.put_along_axis(probs, shown[None].astype(int), sure, 0)
    return probs


def two_lesions(shape=(24, 40)) -> np.ndarray:
    truth = np.zeros(shape, np.uint8)
    truth[4:10, 4:12], truth[14:20, 26:32] = 1, 1
    return truth


def test_a_lesion_without_a_label_and_a_label_without_a_lesion_are_candidates():
    truth, labels = two_lesions(), two_lesions()
    labels[14:20, 26:32] = 0  # the second one was missed
    labels[2:5, 30:36] = 1  # and this is none
    found = find_objects(from_labels(truth), labels, (1.5, 1.0))
    assert sorted((c.kind, int(c.mask.sum()), c.key != "") for c in found) == [
        ("false label", 18, True), ("missing label", 36, False), ("object", 48, True)
    ]  # fmt: skip
    right = next(c for c in found if c.kind == "object")
    assert right.off == 0 and all(c.off == 1 for c in found if c is not right)
    assert all(c.score > right.score + 1 for c in found if c is not right)
    assert right.volume_mm3 == 48 * 1.5 and [*classes_of(found)] == [1, 1, 1]


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 0.5), (1.0, 1.0, 1.0)])
def test_an_objects_score_is_that_of_its_voxels_and_a_shell_in_mm(spacing):
    rng = np.random.default_rng(0)
    labels = np.zeros((7, 14, 16), np.uint8)
    labels[2:4, 5:8, 6:11] = 1
    labels[:, 0] = IGNORE
    p = rng.uniform(0.05, 0.45, labels.shape)  # nothing is predicted
    probs = np.stack([1 - p, p])
    (found,) = find_objects(probs, labels, spacing)
    own = [np.array(p) * spacing for p in zip(*np.nonzero(labels == 1), strict=True)]
    near = np.array([
        labels[p] != IGNORE and min(np.linalg.norm(np.array(p) * spacing - q) for q in own) <= 3 * min(spacing) + 1e-4
        for p in np.ndindex(labels.shape)
    ]).reshape(labels.shape)  # fmt: skip
    assert found.score == pytest.approx(surprise(probs[:, near], labels[near], 1))


def test_diagonal_voxels_belong_to_one_object_in_three_dimensions():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[0, :2, :2], labels[1, 2, 2], labels[2, 3, 3] = 1, 1, 1
    assert [c.mask.sum() for c in find_objects(from_labels(labels), labels, (2.0, 1.0, 1.0))] == [6]


def test_what_people_decided_about_has_no_say():
    truth, labels = two_lesions(), two_lesions()
    labels[14:20, 26:32] = 0
    verified = np.zeros(labels.shape, bool)
    verified[12:, 20:] = True
    what = from_labels(truth), labels, (1.0, 1.0)
    assert [c.kind for c in find_objects(*what, verified)] == ["object"]
    assert find_pieces(*what, verified) == [] and len(find_pieces(*what)) == 1


def test_pieces_are_scored_by_their_thickness_in_mm():
    labels, shown = np.zeros((2, 30, 44), np.uint8)
    shown[5:25, 5:30] = 1
    labels[6:25, 5:30] = 1  # a sliver is missing
    labels[12:21, 22:30] = 0  # and a corner
    labels[2:7, 36:41] = 1  # and this is too much
    found = find_pieces(from_labels(shown), labels, (2.0, 1.0))
    mask = np.zeros((30, 44), bool)
    mask[12:21, 22:30] = True
    outside = [np.array(p) * (2, 1) for p in np.argwhere(~mask)]
    slow = np.mean([min(np.linalg.norm(p * (2, 1) - q) for q in outside) for p in np.argwhere(mask)])
    by_kind = {(c.kind, int(c.mask.sum())): np.exp(c.score) for c in found}
    assert by_kind[("missing label", 72)] == pytest.approx(slow, rel=1e-5)
    assert by_kind[("missing label", 25)] == pytest.approx(2.0, rel=0.1)  # one row of 2 mm, its ends nearer
    assert set(by_kind) == {("missing label", 72), ("missing label", 25), ("false label", 25)}


def test_a_piece_at_the_border_of_the_array_has_a_finite_thickness():
    shown = np.ones((6, 9), np.uint8)
    (found,) = find_pieces(from_labels(shown), np.zeros((6, 9), np.uint8), (1.0, 1.0))
    assert np.isfinite(found.score) and find_pieces(from_labels(shown), shown, (1.0, 1.0)) == []


def test_an_object_that_only_lacks_a_piece_is_right_without_it():
    truth, labels = two_lesions(), two_lesions()
    labels[4:10, 8:12] = 0
    probs = from_labels(truth)
    objects, pieces = find_objects(probs, labels, (1.0, 1.0)), find_pieces(probs, labels, (1.0, 1.0))
    settled = concerned(labels, truth, pieces, [1.0]) > 0.5
    assert settled[4:10, 8:12].all() and not settled[14:20].any()
    scores = rescored(objects, probs, labels, settled)
    assert scores_of(objects)[0] > scores_of(objects)[1] + 1 and scores[0] < 0.1
    assert scores[1] == objects[1].score and rescored(objects, probs, labels, labels < 9)[0] == -np.inf


def test_voxels_of_other_classes_are_no_concern_of_a_noisy_object():
    labels, best = np.zeros((2, 12, 15), np.uint8)
    labels[3:8, 3:8], labels[3:8, 8:12], best[3:8, 3:9] = 1, 2, 1
    objects = find_objects(from_labels(best, 3), labels, (1.0, 1.0))
    p = concerned(labels, best, objects, [0.7 if c.k == 1 else 0.0 for c in objects])
    np.testing.assert_array_equal(p > 0, (labels == 1) | (best == 1))
    assert p.max() == np.float32(0.7)


def test_the_most_suspicious_candidate_counts_in_and_near_its_voxels():
    truth, labels = two_lesions(), np.zeros((24, 40), np.uint8)
    pieces = find_pieces(from_labels(truth), labels, (1.0, 1.0))
    p = suspicion(labels.shape, pieces, [0.4, 0.9], 1)
    assert p[4, 4] == np.float32(0.4) and p[3, 4] == np.float32(0.4) and p[2, 4] == 0
    assert p[13, 26] == np.float32(0.9) and p[13, 25] == 0  # diagonal: over one voxel away


def test_how_far_off_an_object_is_redrawn_is_1_minus_dice():
    own, shown = np.zeros((2, 6, 7), bool)
    own[1:4, 1:5], shown[1:4, 3:6] = True, True
    assert redrawn_off(own, shown) == pytest.approx(1 - 2 * 6 / (12 + 9))
    assert redrawn_off(~own, own) == 1 and redrawn_off(own & ~own, own & ~own) == 0
