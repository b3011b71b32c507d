from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np

from napari_noisylabel.records import Verdict
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.copies import copy_project
from napari_noisylabel.workbench import Workbench


def test_a_copy_has_the_decisions_and_goes_its_own_way(trained, tmp_path):
    bench = Workbench()
    bench.open(trained, by="ann")
    bench.review(Verdict.ACCEPTED)
    folder = copy_project(bench.store, tmp_path / "copy", ["run-001"])
    bench.close()

    other = Workbench()
    other.open(folder, by="bob")
    assert [e.by for e in other.store.events()] == ["ann"]
    other.review(Verdict.REJECTED)
    other.close()
    with ProjectStore.open(trained, read_only=True) as store:
        assert [e.by for e in store.events()] == ["ann"]


def test_files_inside_a_project_are_read_from_there_by_its_copy(trained, tmp_path):
    bench = Workbench()
    bench.open(trained)
    case = bench.store.cases()[0]
    own = trained / "images" / case.images[0].path.name
    own.parent.mkdir()
    shutil.copy2(case.images[0].path, own)
    bench.store.update_source(case.id, replace(case.images[0], path=own), replaces=case.images[0].path)
    folder = copy_project(bench.store, tmp_path / "elsewhere" / "copy")
    bench.close()
    with ProjectStore.open(folder, read_only=True) as copy:
        assert copy.case(case.id).images[0].path == own
        assert [r.id for r in copy.runs()] == ["run-001"]
        assert np.array([not p.exists() for p in (folder / "runs").glob("*")]).all()
