"""The template in docs/own-method.md, installed as a package of its own: it trains, resumes, and is in the window."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from napari_noisylabel import methods
from napari_noisylabel.cli.app import main
from napari_noisylabel.methods import broken_methods, method_info
from napari_noisylabel.records import RunState
from napari_noisylabel.study.bench.plan import cells_of
from napari_noisylabel.study.bench.protocol import Protocol
from napari_noisylabel.workbench import Workbench

PAGE = Path(__file__).parents[1] / "docs" / "own-method.md"


def blocks(page):
    """The files that the page shows: {name: text}."""
    return dict(re.findall(r"`([\w./]+\.(?:py|toml))`[^\n]*\n\n```\w+\n(.*?)```", page, re.DOTALL))


def install(source, target, monkeypatch):
    """`pip install` into a folder of its own, which this process and its workers then see."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--target", str(target), str(source)], check=True, timeout=120)
    monkeypatch.syspath_prepend(str(target))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")])))
    importlib.invalidate_caches()


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    pytest.importorskip("setuptools", minversion="77", reason="what `python -m venv` brings is too old to build it")
    for name, text in blocks(PAGE.read_text()).items():
        file = tmp_path / "source" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    install(tmp_path / "source", tmp_path / "installed", monkeypatch)
    yield tmp_path / "installed" / "noisylabel_bootstrap"
    for name in [n for n in sys.modules if n.startswith("noisylabel_bootstrap")]:
        del sys.modules[name]


def test_the_template_has_three_files_and_the_method_about_thirty_lines():
    files = blocks(PAGE.read_text())
    assert set(files) == {"pyproject.toml", "noisylabel_bootstrap/__init__.py", "noisylabel_bootstrap/method.py"}
    assert sum(len(t.splitlines()) for name, t in files.items() if name.endswith(".py")) <= 36


def test_a_method_from_the_template_is_listed_trained_stopped_and_resumed(theirs, trained, capsys):
    assert main(["methods", "--json"]) == 0
    listed = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    assert listed["bootstrap"]["settings"]["own"]["default"] == 0.2
    workbench = Workbench()
    workbench.open(trained)
    watch = workbench.retrain("bootstrap", settings={"own": 0.4}, engine={"steps": 4, "threads": 1}, epochs=3)
    for report in workbench.wait():
        if report.kind == "epoch":
            watch.stop()
    assert workbench.store.run(watch.run_id).state == RunState.INTERRUPTED
    workbench.retrain(resume=watch.run_id)
    assert [r.kind for r in workbench.wait()][-1] == "done"
    run = workbench.session.run
    assert (run.id, run.method, run.settings, run.state) == (
        watch.run_id, "bootstrap", {"own": 0.4}, RunState.COMPLETE,
    )  # fmt: skip
    workbench.close()


@pytest.mark.gui
def test_the_window_offers_it_with_a_form_of_its_settings(theirs, qtbot):
    from napari_noisylabel.widgets.train_panel import TrainPanel

    panel = TrainPanel(Workbench())
    qtbot.addWidget(panel)
    panel.method.setCurrentIndex(panel.method.findData("bootstrap"))
    assert [field.name for field in panel.form.fields] == ["own"]
    assert "soft bootstrapping" in panel.title.text()


def test_a_bench_knows_its_cells_by_its_code_and_those_of_others_without(theirs):
    protocol = Protocol.model_validate({
        "methods": ["cross-entropy", "bootstrap"], "cleanlab": False,
        "sets": [{"name": "samples", "data": "samples", "noise": [{"name": "clean"}]}],
    })  # fmt: skip
    before = [cell.name for cell in cells_of(protocol)]
    (theirs / "method.py").write_text((theirs / "method.py").read_text() + "# another line\n")
    after = [cell.name for cell in cells_of(protocol)]
    assert before[0] == after[0] and before[1] != after[1]


def test_what_it_raises_fails_the_run_in_words_and_leaves_the_project_usable(theirs, trained):
    broken = (theirs / "method.py").read_text().replace("total = 0.0", "raise KeyError('oops')")
    (theirs / "method.py").write_text(broken)
    workbench = Workbench()
    workbench.open(trained)
    watch = workbench.retrain("bootstrap", engine={"steps": 2, "threads": 1}, epochs=1)
    assert [r.kind for r in workbench.wait()][-1] == "failed"
    run = workbench.store.run(watch.run_id)
    assert run.state == RunState.FAILED and "KeyError: 'oops'" in run.message
    assert "Traceback" in (workbench.store.run_folder(run.id) / "worker.log").read_text()
    assert workbench.session.run.id == "run-001" and workbench.session.queue
    workbench.close()


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_batch(theirs, trained):
    (theirs / "method.py").write_text(
        (theirs / "method.py").read_text().replace("return total", "return total * float('nan')")
    )
    workbench = Workbench()
    workbench.open(trained)
    watch = workbench.retrain("bootstrap", engine={"steps": 2, "threads": 1}, epochs=1)
    reports = list(workbench.wait())
    assert reports[-1].kind == "failed"
    assert "became nan in fold 0, epoch 1, step 1 (cases" in workbench.store.run(watch.run_id).message
    workbench.close()


def test_what_cannot_be_loaded_is_named_with_its_reason_and_the_others_stay(monkeypatch, capsys):
    class Point:
        def __init__(self, name, gives):
            self.name, self._gives = name, gives

        def load(self):
            if isinstance(self._gives, Exception):
                raise self._gives
            return self._gives

    points = [Point("lost", ImportError("No module named 'lost_package'")), Point("odd", 3)]
    monkeypatch.setattr(methods, "entry_points", lambda group: points)
    assert "cross-entropy" in methods.methods() and set(broken_methods()) == {"lost", "odd"}
    with pytest.raises(methods.MissingPart, match="method 'lost' .* cannot be loaded: ImportError: No module named"):
        method_info("lost")
    with pytest.raises(methods.MissingPart, match="must give a MethodInfo, got int"):
        method_info("odd")
    assert main(["methods"]) == 0
    assert "method 'lost' of a third party cannot be loaded" in capsys.readouterr().err
