from __future__ import annotations

import json
import math

import numpy as np
import pytest

from napari_noisylabel.methods.memorisation import Detector, Watch

RELEASED = Detector(0.9, "gain", 0.1, 1)


DEFAULT = Detector()


def learnt(c: float, n: int, late: int = 0, detector: Detector = DEFAULT, epochs: int = 100) -> Watch:
    """A class of IoU 0.8 (1 - exp(-t / c)), which starts `late`, asked after each of `n` epochs."""
    watch = Watch()
    for t in range(n):
        iou = 0.8 * (1 - math.exp(-max(0, t - late) / c))
        watch.add(round(iou * 1e6), 10**6, round(iou * 1e6))
        if watch.decide(detector, t + 1, epochs):
            watch.on = t + 1
    return watch


@pytest.mark.parametrize(("c", "fires"), [(2.0, 8), (4.0, 13)])
@pytest.mark.parametrize("detector", [DEFAULT, RELEASED])
def test_a_class_is_switched_on_online_after_as_many_epochs_as_the_test_vectors_say(c, fires, detector):
    assert learnt(c, 16, detector=detector).on == fires


def test_a_class_that_starts_late_is_switched_on_later_by_so_much():
    assert learnt(2.0, 20, late=5).on == 8 + 5
    assert learnt(2.0, 20, late=5, detector=RELEASED).on == 8 + 5


def test_a_slow_class_is_never_switched_on_as_released_and_says_so():
    watch = learnt(8.0, 31, detector=RELEASED)
    assert watch.on is None and "0 points since it is learnt, 1 needed" in watch._why(RELEASED, 100, 1.0)
    assert learnt(8.0, 31).on == 22


def test_a_class_stays_on_and_is_not_fitted_again():
    watch = learnt(2.0, 8)
    before = (watch.on, watch.fit, watch.due)
    for _ in range(5):
        watch.add(99, 100, 99)  # the jump after a correction
        assert not watch.decide(DEFAULT, 20, 100)
    assert (watch.on, watch.fit, watch.due) == before and len(watch.points) == 13


def test_without_a_labelled_voxel_there_is_no_curve_and_an_empty_epoch_repeats_the_last_value():
    absent, rare = Watch(), Watch()
    for both, predicted, labelled in [(0, 5, 0), (0, 0, 0), (0, 7, 0), (0, 0, 0), (0, 1, 0)]:
        absent.add(both, predicted, labelled)
    assert not absent.decide(DEFAULT, 5, 10) and absent._why(DEFAULT, 10, 1.0).startswith("no voxel of this class")
    for counts in [(0, 3, 0), (3, 4, 5), (0, 2, 0)]:
        rare.add(*counts)
    assert rare.points == [0.0, 0.5, 0.5]


def test_too_few_points_are_not_fitted():
    watch = learnt(0.5, 3)
    assert watch.fit is None and "3 points since it is learnt, 4 needed" in watch._why(DEFAULT, 10, 1.0)
    assert learnt(0.5, 4).on == 4


def test_no_class_is_switched_on_before_the_earliest_time_and_it_says_when():
    early = Detector(earliest=0.3)
    assert learnt(2.0, 40, detector=early).on == 30 and learnt(2.0, 40, detector=early, epochs=20).on == 8
    assert "after 30 epochs" in learnt(2.0, 12, detector=early)._why(early, 100, 1.0)


def test_a_trigger_after_the_last_epoch_is_told_as_such():
    watch = learnt(4.0, 10, epochs=10)
    assert watch.on is None and "which is after the last" in watch._why(DEFAULT, 10, 1.0)


def test_points_within_an_epoch_are_fitted_in_epochs():
    coarse, fine = Watch(), Watch()
    for i in range(40):
        iou = 0.8 * (1 - math.exp(-(i / 39 * 10) / 2))
        fine.add(round(iou * 1e6), 10**6, round(iou * 1e6))
        if i % 4 == 3:
            coarse.add(round(iou * 1e6), 10**6, round(iou * 1e6))
    coarse.decide(Detector(skip="none"), 10, 30)
    fine.decide(Detector(skip="none"), 10, 30, 0.25)
    assert fine.fit == pytest.approx((0.8, 1.0, 2.0), abs=1e-3)
    assert fine.due == math.floor(1 + 2 * math.log(10)) + 1
    assert abs(coarse.due - fine.due) <= 2


def test_half_epochs_as_units_are_shown_in_epochs():
    watch = learnt(2.0, 8)
    watch.on = 4
    iou, slope = watch.shown("organ/liver", DEFAULT, 50, 0.5)
    assert iou.x == tuple(i / 2 for i in range(1, 9)) and iou.parameters["t*"] == 3.5
    assert len(slope.x) == 99 and slope.x[:2] == (0.5, 1.0)


def test_what_is_shown_is_the_curve_at_its_points_and_the_limit_it_has_to_pass():
    watch = learnt(2.0, 12, late=2)
    iou, slope = watch.shown("organ/liver", DEFAULT, 30)
    assert iou.name == "IoU of organ/liver" and iou.x == tuple(range(1, 13)) and iou.mark == watch.on == 10
    np.testing.assert_allclose(iou.fitted[2:10], iou.y[2:10], atol=1e-3)
    assert iou.parameters["t*"] + 1 == iou.mark and iou.note == "corrected since 10 epochs were finished"
    passed = [x for x, y, limit in zip(slope.x, slope.y, slope.fitted, strict=True) if y > limit]
    assert set(slope.fitted) == {0.9} and passed[0] == watch.due
    assert watch.shown("a/b", DEFAULT, 30) and Watch().shown("a/b", DEFAULT, 30)[0].fitted == ()


def test_a_watch_survives_a_checkpoint():
    for watch in (learnt(2.0, 3), learnt(2.0, 12), Watch()):
        back = Watch.from_state(json.loads(json.dumps(watch.state_dict())))
        assert vars(back) == vars(watch)
