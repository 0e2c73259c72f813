"""A bound on how much processor time a call of Python code may take: chat templates can loop.

`Overrun` is raised at the call's next line of Python code. What is in C code isn't ended so; the
process that renders has a limit of its own for that. In the main thread alone, where Python runs
what a signal asks for.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")


class Overrun(Exception):
    """The call took longer than it may."""


class TimeLimit:
    """Calls one at a time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_running = False

    def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Return what a function does.

        Raises:
            Overrun: It took too long.
        """
        if threading.current_thread() is not threading.main_thread():
            return function()
        before = signal.signal(signal.SIGVTALRM, self._end)
        self._is_running = True
        signal.setitimer(signal.ITIMER_VIRTUAL, self._seconds)
        try:
            return function()
        finally:
            self._is_running = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    def _end(self, *_: object) -> None:
        if self._is_running:
            raise Overrun
