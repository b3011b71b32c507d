"""A training that is watched to its end, for studies that go on with what it found."""

from __future__ import annotations

from collections.abc import Callable

from napari_noisylabel.engine.watch import Watch
from napari_noisylabel.errors import RunFailed
from napari_noisylabel.records import Report, Run, RunState
from napari_noisylabel.workbench import Workbench

Hear = Callable[[Report], None]


def watch_to_the_end(workbench: Workbench, watch: Watch, hear: Hear, next_step: str) -> Run:
    """The run that was started, complete, with its regions in the project.

    `hear` gets every report; whatever interrupts it ends the worker. `next_step` is what to do after a
    failure, as a sentence.

    Raises
    ------
    RunFailed : the run did not come to its end.
    """
    try:
        for report in workbench.wait():
            hear(report)
    except BaseException:
        watch.stop_now()
        raise
    run = workbench.store.run(watch.run_id)
    if run.state != RunState.COMPLETE:
        raise RunFailed(run.message or f"the training ended as {run.state}, without a word. {next_step}")
    return run
