"""How long the window's thread is busy: every event that Qt delivers is timed, and every method of the program.

Drawing is kept apart, and so is the adding of layers: Qt's paint and update events, and the methods named in
`Meter.adding`, wherever they happen within another event.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QEventLoop, QObject, Qt, QTimer
from qtpy.QtWidgets import QApplication

DRAWING = {
    QEvent.Type.Paint,
    QEvent.Type.UpdateRequest,
    QEvent.Type.Expose,
    QEvent.Type.LayoutRequest,
    QEvent.Type.PolishRequest,
}
QUEUED = {QEvent.Type.Timer, QEvent.Type.MetaCall, QEvent.Type.DeferredDelete}
ADDING = "SessionLayers._add"
INTERVAL_MS = 10
WAIT_MS = 20


@dataclass
class Call:
    """One event delivered: its wall time and processor time in ms without drawing, and what it did."""

    what: str
    wall: float
    cpu: float


@dataclass
class Phase:
    """What happened on the window's thread between two moments."""

    name: str
    calls: list[Call] = field(default_factory=list)
    drawing: list[float] = field(default_factory=list)
    adding: list[float] = field(default_factory=list)
    intervals: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def longest(self) -> Call:
        return max(self.calls, key=lambda call: call.wall, default=Call("", 0.0, 0.0))

    def percentiles(self, *at: float) -> list[float]:
        """Of the intervals of a 10 ms timer, in ms."""
        return np.percentile(self.intervals, at).tolist()


class Meter:
    """Times events and methods of the thread that made it, phase by phase."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.adding = {ADDING}
        self._now = Phase("start")
        self._thread = get_ident()
        self._open: list[_Span] = []
        self._named: tuple[float, str] = (0.0, "")
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._tick)
        self._ticked = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Everything that happens within belongs to phase `name`."""
        self._now = Phase(name)
        self.phases.append(self._now)
        self._ticked = 0.0
        self._timer.start()
        began = time.perf_counter()
        yield self._now
        self._now.seconds = time.perf_counter() - began
        self._timer.stop()
        self._now = Phase("between")

    def notify(self, deliver: Callable[[], bool], receiver: QObject, event: QEvent) -> bool:
        """Deliver an event and time it."""
        if get_ident() != self._thread:
            return deliver()
        kind = event.type()
        if kind in DRAWING:
            with self._aside(self._now.drawing):
                return deliver()
        if self._open and kind not in QUEUED:  # within another one, and a part of it
            return deliver()
        if self._open:  # napari's progress bars let waiting events come
            with self._aside([]):
                self._open.clear()
                return self.notify(deliver, receiver, event)
        self._named = (0.0, "")
        with self._span() as span:
            result = deliver()
        ours = self._named[0] > 0.5 * span.wall
        what = self._named[1] if ours else f"Qt or napari: {type(receiver).__name__}, event {int(kind)}"
        self._now.calls.append(Call(what, 1e3 * span.wall, 1e3 * span.cpu))
        return result

    def watch(self, owners: Sequence[type]) -> None:
        """Time all methods that these classes define, so that a long call has a name."""
        for owner in owners:
            for name, function in list(vars(owner).items()):
                if inspect.isfunction(function) and not name.startswith("__") and "event" not in name.lower():
                    setattr(owner, name, self._timed(f"{owner.__name__}.{name}", function))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        takes = list(inspect.signature(function).parameters.values())
        limit = None if any(p.kind is p.VAR_POSITIONAL for p in takes) else len(takes)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            args = args[:limit]  # a signal sends more than its slot may take
            if get_ident() != self._thread:
                return function(*args, **kwargs)
            if name in self.adding:
                with self._aside(self._now.adding):
                    return function(*args, **kwargs)
            with self._span() as span:
                result = function(*args, **kwargs)
            # the outermost name is kept, unless one inside took nearly all of it
            if 0.8 * span.wall > self._named[0]:
                self._named = (span.wall, name)
            return result

        return timed

    @contextmanager
    def _span(self) -> Iterator[_Span]:
        span = _Span(time.perf_counter(), time.thread_time())
        self._open.append(span)
        try:
            yield span
        finally:
            self._open.pop()
            span.wall = time.perf_counter() - span.began - span.aside
            span.cpu = time.thread_time() - span.began_cpu - span.aside_cpu

    @contextmanager
    def _aside(self, durations: list[float]) -> Iterator[None]:
        """What happens within is taken off all that is open around it."""
        around, self._open = self._open, []
        named, span = self._named, _Span(time.perf_counter(), time.thread_time())
        self._open.append(_Span(0.0, 0.0))
        try:
            yield
        finally:
            self._open, self._named = around, named
            wall, cpu = time.perf_counter() - span.began, time.thread_time() - span.began_cpu
            for each in around:
                each.aside += wall
                each.aside_cpu += cpu
            if not any(each.began == 0.0 for each in around):  # else a part of something aside already
                durations.append(1e3 * wall)

    def _tick(self) -> None:
        now = time.perf_counter()
        if self._ticked:
            self._now.intervals.append(1e3 * (now - self._ticked))
        self._ticked = now


@dataclass
class _Span:
    began: float
    began_cpu: float
    aside: float = 0.0
    aside_cpu: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0


class MeteredApplication(QApplication):
    """An application that hands every event to its meter."""

    meter: Meter | None = None

    def notify(self, receiver: QObject, event: QEvent) -> bool:
        deliver = functools.partial(super().notify, receiver, event)
        return deliver() if self.meter is None else self.meter.notify(deliver, receiver, event)


# ---------------------------------------------------------------- a script in the event loop


def rest(seconds: float) -> None:
    """Let the event loop run."""
    loop = QEventLoop()
    QTimer.singleShot(round(1e3 * seconds), loop.quit)
    loop.exec_()


def wait_until(condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    """Let the event loop run until `condition` holds. Raises TimeoutError."""
    loop, timer = QEventLoop(), QTimer()
    limit = time.monotonic() + timeout_s
    timer.setInterval(WAIT_MS)
    timer.timeout.connect(lambda: loop.quit() if condition() or time.monotonic() > limit else None)
    timer.start()
    loop.exec_()
    timer.stop()
    if not condition():
        raise TimeoutError(f"waited {timeout_s:.0f} s in vain")


def act(action: Callable[[], Any], seconds: float = 0.0) -> None:
    """Do `action` as the event loop would do a click, then let it run for `seconds`."""
    QTimer.singleShot(0, action)
    rest(seconds)


def every(interval_ms: int, action: Callable[[], Any]) -> QTimer:
    """A running timer that does `action` again and again."""
    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.setInterval(interval_ms)
    timer.timeout.connect(action)
    timer.start()
    return timer
