from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.engine.courtesy import Courtesy
from napari_noisylabel.engine.fold import Fold
from napari_noisylabel.engine.journal import (
    Journal,
    JournalReader,
    cut_back,
    epoch_reports,
    from_line,
    journal_file,
    to_line,
)
from napari_noisylabel.engine.source import iterate_cases
from napari_noisylabel.engine.spec import RunSpec, read_spec, write_spec
from napari_noisylabel.engine.train import train
from napari_noisylabel.engine.watch import Watch, last_report, worker_is_alive
from napari_noisylabel.engine.worker import main
from napari_noisylabel.inner import Note, to_json
from napari_noisylabel.io.cases import make_cases, make_tracks
from napari_noisylabel.io.checks import check_cases
from napari_noisylabel.io.pairing import find_cases
from napari_noisylabel.records import Report, Run, RunState
from napari_noisylabel.store import ProjectStore
from tests.engine.conftest import checkpoints, losses, make_spec, same


@pytest.fixture
def project(tmp_path: Path) -> ProjectStore:
    """Four pictures with masks, as a project."""
    for i in range(4):
        image, labels = phantom((20, 27), (1, 1), 2, np.random.default_rng(i))
        for folder, array in (("images", np.clip(image[0] * 120 + 60, 0, 255)), ("labels", labels * 255)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / folder / f"case-{i}.png")
    checked = list(check_cases(find_cases(tmp_path / "images", {"mask": tmp_path / "labels"})))
    with ProjectStore.create(tmp_path / "project", "cells", make_tracks(checked), make_cases(checked)) as store:
        yield store


def add_run(store: ProjectStore, spec: RunSpec) -> RunSpec:
    run = store.add_run(Run("", spec.method, {}, {}, spec.seed, spec.folds, spec.epochs, 0, RunState.RUNNING, ""))
    spec = replace(spec, run=run.id)
    write_spec(store.run_folder(run.id), spec)
    return spec


def until(watch: Watch, kind: str, after: int = 0, patience_s: float = 90.0) -> list[Report]:
    """All reports up to the one after the first `after` of this kind."""
    reports: list[Report] = []
    deadline = time.monotonic() + patience_s
    while sum(r.kind == kind for r in reports) <= after and time.monotonic() < deadline:
        reports += watch.poll()
        time.sleep(0.02)
    return reports


def test_a_worker_that_is_stopped_and_then_killed_comes_to_the_same_end(project, tmp_path):
    spec = add_run(project, make_spec("self-cleansing", epochs=16, steps=1))
    folder = project.run_folder(spec.run)

    watch = Watch(project.folder, spec.run)
    reports = until(watch, "epoch")
    assert psutil.Process(watch.pid).nice() > 0 and worker_is_alive(folder) and reports[0].kind == "start"
    watch.stop()
    asked = time.monotonic()
    assert until(watch, "stopped")[-1].message == "stopped; it can be resumed"
    while watch.is_alive:
        time.sleep(0.01)
    assert time.monotonic() - asked < 1.2

    watch = Watch(project.folder, spec.run)
    assert until(watch, "epoch", after=3)
    psutil.Process(watch.pid).kill()
    assert "was killed by signal 9 without a word; the run is interrupted" in until(watch, "stopped")[-1].message
    assert not worker_is_alive(folder)

    ends = list(Watch(project.folder, spec.run).wait())
    assert ends[-1].kind == last_report(folder).kind == "done"
    settled = read_spec(folder)
    assert settled.engine["precision"] == "32-true" and settled.device == "cpu"
    whole = list(train(settled, iterate_cases(project, 0), project.tracks, tmp_path / "whole"))
    assert losses(JournalReader(journal_file(folder, "train")).read()) == losses(map(from_line, map(to_line, whole)))
    assert same(checkpoints(folder), checkpoints(tmp_path / "whole"))


@pytest.mark.usefixtures("trial_methods", "every_step")
def test_a_worker_gives_way_to_the_person_and_comes_to_the_same_end(project, monkeypatch):
    monkeypatch.setattr("napari_noisylabel.engine.worker.os.nice", lambda _: 0)  # this process shall stay as it is
    monkeypatch.setattr("napari_noisylabel.engine.courtesy.cores", lambda: 2)
    monkeypatch.setattr("napari_noisylabel.engine.courtesy.PATIENCE_S", 0.2)
    ends = {}
    for name, busy in (("left alone", False), ("in use", True)):
        spec = add_run(project, make_spec("trial-parameters", epochs=2, steps=2))
        folder, signs = project.run_folder(spec.run), count()
        if busy:  # somebody works without a pause: each look finds another sign
            monkeypatch.setattr(Courtesy, "_sign", lambda _, signs=signs: next(signs))
        began = time.monotonic()
        code = main([str(project.folder), spec.run])
        assert code == 0, last_report(folder)
        reports = JournalReader(journal_file(folder, "train")).read()
        ends[name] = losses(reports), checkpoints(folder), time.monotonic() - began, len(reports)
    alone, beside = ends.values()
    assert alone[0] == beside[0] and same(alone[1], beside[1])
    assert beside[2] > 0.2 * (beside[3] - 1)


def test_a_worker_that_cannot_work_says_why(project):
    spec = add_run(project, make_spec(network="NoSuchNet"))
    reports = list(Watch(project.folder, spec.run).wait())
    assert reports[-1].kind == "failed" and "there is no network 'NoSuchNet'" in reports[-1].message


def no_memory_on_a_gpu() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")


def no_memory_for_numpy() -> Exception:
    return MemoryError("Unable to allocate 8.00 EiB for an array")


def no_memory_for_torch() -> Exception:
    """What torch says when it asks for more than the machine has."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize("raised", [no_memory_on_a_gpu, no_memory_for_numpy, no_memory_for_torch])
def test_without_memory_the_run_says_what_to_lower_and_goes_on_from_its_checkpoint(project, monkeypatch, raised):
    monkeypatch.setattr("napari_noisylabel.engine.worker.os.nice", lambda _: 0)  # this process shall stay as it is
    spec = add_run(project, make_spec(epochs=3))
    folder, error, step = project.run_folder(spec.run), raised(), Fold.step

    def out_of_memory(fold: Fold, number: int) -> float | None:
        if fold.epoch == 1:
            raise error
        return step(fold, number)

    with monkeypatch.context() as patched:
        patched.setattr(Fold, "step", out_of_memory)
        assert main([str(project.folder), spec.run]) == 1
    told = last_report(folder)
    assert told.kind == "failed" and "more memory than there is" in told.message
    assert "smaller patch or batch (--set patch=8,8 --set batch=1)" in told.message
    assert "resume this one" in told.message
    assert checkpoints(folder)["fold-0"]["epoch"] == 0
    assert main([str(project.folder), spec.run]) == 0 and last_report(folder).kind == "done"


def test_half_a_line_waits_for_its_end_and_a_torn_one_is_passed_over(tmp_path):
    path = journal_file(tmp_path, "train")
    first, second = to_line(Report("run-001", "step", done=1)), to_line(Report("run-001", "step", done=2))
    path.write_text(first + second[:9])
    reader = JournalReader(path)
    assert [r.done for r in reader.read()] == [1]
    with open(path, "a") as file:
        file.write(second[9:] + '{"run": "ru\n' + "\0\0\n" + first)
    assert [r.done for r in reader.read()] == [2, 1]
    assert reader.read() == []


def test_epochs_are_read_in_their_order_each_once_and_without_the_steps(tmp_path):
    journal = Journal(tmp_path, "train")
    for fold, epoch, kind in ((0, 0, "step"), (1, 0, "epoch"), (0, 0, "epoch"), (0, 1, "epoch"), (0, 1, "epoch")):
        journal.write(Report("run-001", kind, fold, epoch, inner=to_json([Note("a", "epoch")])))
    assert [(r.kind, r.fold, r.epoch) for r in epoch_reports(tmp_path)] == [
        ("epoch", 0, 0), ("epoch", 0, 1), ("epoch", 1, 0),
    ]  # fmt: skip
    assert epoch_reports(tmp_path / "no run") == ()


def test_cutting_back_keeps_the_epochs_that_have_a_checkpoint_each_once(tmp_path):
    journal = Journal(tmp_path, "train")
    for fold, epoch, kind in ((0, 0, "epoch"), (0, 1, "step"), (0, 1, "epoch"), (1, 0, "epoch"), (1, 1, "epoch")):
        journal.write(Report("run-001", kind, fold, epoch, losses={"train": epoch + fold / 10}))
    journal_file(tmp_path, "train").open("a").write('{"run": "run-0')
    for fold, epoch in ((0, 1), (1, 0)):
        kept = tmp_path / "checkpoints" / f"fold-{fold}" / f"epoch-{epoch:05d}"
        kept.mkdir(parents=True)
        (kept / "report.json").write_text(to_line(Report("run-001", "epoch", fold, epoch, losses={"train": 9.0})))

    cut_back(tmp_path)

    kept = JournalReader(journal_file(tmp_path, "train")).read()
    assert [(r.fold, r.epoch, r.losses["train"]) for r in kept] == [(0, 0, 0.0), (0, 1, 9.0), (1, 0, 9.0)]


def test_a_report_survives_its_line_and_nan_becomes_null():
    inner = to_json([Note("filter", "no split")])
    report = Report("run-001", "epoch", 1, 2, losses={"train": float("nan")}, dice={"a/b": None}, inner=inner)
    assert from_line(to_line(report)) == replace(report, losses={"train": None})
    assert "\n" not in to_line(report)[:-1]
