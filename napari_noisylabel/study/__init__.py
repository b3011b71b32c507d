"""What is done around the six verbs: make a project, measure it, simulate a reviewer, spoil labels.

    make_project("heart", images="images", labels={"labels": "masks"})
    with ProjectStore.open(Path("heart"), read_only=True) as store:
        figures = evaluate(store, Path("truth"))

Functions in modules of their own, above the engine and beside the workbench.
"""

from __future__ import annotations

from napari_noisylabel.study.corrupt import CorruptedFolder, corrupt_folder
from napari_noisylabel.study.demo import data_folder, make_demo, start_demo
from napari_noisylabel.study.evaluate import evaluate
from napari_noisylabel.study.project import ProjectPlan, check_project, make_project, plan_project
from napari_noisylabel.study.rounds import Plan, simulate_rounds
from napari_noisylabel.study.simulate import SHARES, compare_orders, simulate
from napari_noisylabel.study.tags import read_tagged, simulate_tags, tag_settings

__all__ = [
    "CorruptedFolder",
    "SHARES",
    "Plan",
    "ProjectPlan",
    "check_project",
    "compare_orders",
    "corrupt_folder",
    "data_folder",
    "evaluate",
    "make_demo",
    "make_project",
    "plan_project",
    "read_tagged",
    "simulate",
    "simulate_rounds",
    "simulate_tags",
    "start_demo",
    "tag_settings",
]
