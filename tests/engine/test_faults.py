"""Data and machines at their limits: too few cases, classes that are not there, losses that are no number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.engine.fold import Fold
from napari_noisylabel.errors import InputError, RunFailed
from napari_noisylabel.methods import BUILT_IN
from napari_noisylabel.methods.base import Batch
from napari_noisylabel.records import IGNORE, Report
from tests.engine.conftest import (
    OVERLAPPING,
    QUICK,
    checkpoints,
    make_spec,
    same,
    some_cases,
    with_reference,
    working,
)  # fmt: skip

METHODS = ("cross-entropy", *QUICK)


def all_are_finite(reports: Iterable[Report]) -> bool:
    return all(np.isfinite(v) for r in reports if r.kind == "epoch" for v in r.losses.values())


def spoil_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are no numbers in the second step of the second epoch of the first fold."""
    as_it_was = Fold.batch

    def batch(fold: Fold, step: int) -> Batch:
        made = as_it_was(fold, step)
        if (fold.number, fold.epoch, step) == (0, 1, 1):
            made.images.fill_(float("nan"))
        return made

    monkeypatch.setattr(Fold, "batch", batch)


# ---------------------------------------------------------------- few cases


@pytest.mark.parametrize("method", METHODS)
def test_with_one_case_per_fold_each_case_is_judged_by_the_network_of_the_other(train, method):
    cases = with_reference(method, some_cases(2))
    folder, reports = train(make_spec(method, epochs=4), cases)
    assert all_are_finite(reports)
    assert {(fold, case) for fold, case, _ in working(folder, cases)} in (
        {("fold-0", "a"), ("fold-1", "b")}, {("fold-0", "b"), ("fold-1", "a")},
    )  # fmt: skip
    assert all(np.isfinite(CaseScores(folder, c.id).read("organ.probs")).all() for c in cases)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_case_is_refused_unless_one_fold_is_asked_for(train, method):
    cases = with_reference(method, some_cases(1))
    with pytest.raises(InputError, match=r"at least one group of cases per fold: 1 group\(s\).*give fewer folds"):
        train(make_spec(method), cases, name="two")
    folder, reports = train(replace(make_spec(method, epochs=4), folds=1), cases, name="one")
    assert all_are_finite(reports) and CaseScores(folder, "a").complete


@pytest.mark.parametrize("method", [m.name for m in BUILT_IN if "a verified case" in m.needs])
def test_without_a_verified_case_a_method_that_needs_one_says_how_to_verify_it(train, tmp_path, method):
    with pytest.raises(InputError, match=f"'{method}' measures itself on a case .* none is verified. Verify one"):
        train(make_spec(method), some_cases(4))
    assert not list(tmp_path.rglob("epoch-*"))


# ---------------------------------------------------------------- classes that are not there


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_no_case_shows_and_a_case_without_any_are_no_obstacle(train, method):
    cases = with_reference(method, some_cases(3))
    for case in cases:
        case.labels["organ"][case.labels["organ"] == 2] = 0
    cases[1].labels["organ"][...] = 0
    folder, reports = train(make_spec(method, epochs=4), cases)
    assert all_are_finite(reports)
    assert all(np.isin(labels, (0, 1, 2, IGNORE)).all() for labels in working(folder, cases).values())
    assert all(np.isfinite(CaseScores(folder, c.id).read("organ.probs")).all() for c in cases)


@pytest.mark.parametrize("method", METHODS)
def test_voxels_without_annotation_stay_without_in_volumes_of_two_tracks(train, method):
    shape = (8, 16, 13)
    cases = with_reference(method, some_cases(2, shape, OVERLAPPING), shape, OVERLAPPING)
    for case in cases[:2]:
        case.labels["lesion"][..., :6] = IGNORE
    folder, reports = train(make_spec(method, epochs=3, dims="3d", patch=(8, 8, 8), batch=1), cases, OVERLAPPING)
    assert all_are_finite(reports)
    left = [labels for (_, _, track), labels in working(folder, cases).items() if track == "lesion"]
    assert len(left) == 2 and all((labels[..., :6] == IGNORE).all() for labels in left)
    assert CaseScores(folder, "a").read("lesion.score")[..., :6].max() == 0


# ---------------------------------------------------------------- a loss that is no number


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_that_gives_no_number_stops_the_run_and_it_goes_on_from_before(train, tmp_path, monkeypatch, method):
    cases, spec = with_reference(method, some_cases(2)), make_spec(method, epochs=3, batch=1)
    with monkeypatch.context() as patched:
        spoil_one_batch(patched)
        with pytest.raises(RunFailed, match=r"nan in fold 0, epoch 2, step 2 \(cases [ab]\)\. Look"):
            train(spec, cases)
    left = checkpoints(tmp_path / "run")
    assert list(left) == ["fold-0"] and left["fold-0"]["epoch"] == 0
    train(spec, cases)
    whole, _ = train(spec, cases, name="whole")
    assert same(checkpoints(tmp_path / "run"), checkpoints(whole))


def test_a_gradient_that_is_no_number_does_not_reach_the_checkpoint(train, tmp_path, monkeypatch):
    as_it_was = Fold.batch

    def batch(fold: Fold, step: int) -> Batch:
        if (fold.number, fold.epoch, step) == (0, 1, 1):  # the last step of its epoch
            next(fold.networks[0].parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return as_it_was(fold, step)

    monkeypatch.setattr(Fold, "batch", batch)
    with pytest.raises(RunFailed):
        train(make_spec(epochs=3), some_cases(2))
    assert checkpoints(tmp_path / "run")["fold-0"]["epoch"] == 0
