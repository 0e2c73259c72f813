"""A bound on how long a call of Python code may compute in its thread: chat templates can loop.

One daemon thread looks at what runs, and raises `Overrun` in the thread of a call that takes too
long, at its next line of Python code. What waits in C code can't be ended so. The time is the
thread's own where the system tells it: on a crowded machine a call takes longer without computing.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")
_LOOKS_EVERY_S = 0.5


class Overrun(Exception):
    """The call took longer than it may."""


class TimeLimit:
    """Calls one at a time in any thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadlines: dict[int, tuple[int, float]] = {}  # of what runs, on its thread's clock
        self._watcher: threading.Thread | None = None

    def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Return what a function does.

        Raises:
            Overrun: It took too long.
        """
        self._watch()
        thread = threading.get_ident()
        clock = _clock_of(thread)
        self._deadlines[thread] = clock, time.clock_gettime(clock) + self._seconds
        try:
            result = function()
        except Overrun:
            raise
        except BaseException:
            self._end(thread)
            raise
        self._end(thread)
        return result

    def _end(self, thread: int) -> None:
        """Take the call out; where the watcher was faster, its exception is still to come."""
        if self._deadlines.pop(thread, None) is None:
            while True:
                time.sleep(0.001)

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._look, name="time limit", daemon=True)
            self._watcher.start()

    def _look(self) -> None:
        while True:
            time.sleep(_LOOKS_EVERY_S)
            for thread, (clock, deadline) in list(self._deadlines.items()):
                # Whoever takes it out decides: a call that has ended is never raised in.
                if _now(clock) > deadline and self._deadlines.pop(thread, None) is not None:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(Overrun)
                    )


def _clock_of(thread: int) -> int:
    """Return the clock of what a thread computes, or the system's where there is none."""
    of_thread = getattr(time, "pthread_getcpuclockid", None)
    clock: int = time.CLOCK_MONOTONIC if of_thread is None else of_thread(thread)
    return clock


def _now(clock: int) -> float:
    try:
        return time.clock_gettime(clock)
    except OSError:  # its thread has ended
        return 0.0
