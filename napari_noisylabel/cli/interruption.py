"""Ctrl-C and a request to terminate, which no command may lose."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interruption:
    """Whether somebody has asked this command to end.

    Python's own KeyboardInterrupt is not enough: raised inside a destructor or a callback of the garbage collector
    it is printed and forgotten, and hours of work go on. What was asked here stays asked.
    """

    asked: bool = False

    def heed(self) -> None:
        """To be called now and then. Raises KeyboardInterrupt once somebody has asked."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def interruptible(stop: Callable[[], None] | None = None) -> Iterator[Interruption]:
    """Call `stop` when somebody asks, or raise KeyboardInterrupt where there is none; in a shell's background, too."""
    interruption = Interruption()

    def hear(number: int, frame: FrameType | None) -> None:
        interruption.asked = True
        (stop or interruption.heed)()

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
