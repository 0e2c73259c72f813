"""Standard error behind a queue: who writes a line doesn't wait for who reads it.

A write to a pipe that is full waits until somebody reads, and a terminal may be stopped. Here a
thread waits instead. Lines gather meanwhile, up to a bound; what comes then is lost, and counted.
It knows nothing of levels and formats: `logging` does.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from threading import Event, RLock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 512 * 1024  # that wait: some thousand lines
_PAUSE_S = 0.01  # so that a busy loop isn't interrupted for each line


class Outlet:
    """The stream that handlers write to; `start` before what it should do.

    Args:
        descriptor: What is written to.
        report: Makes the line that says how many lines before it are lost.
        most_bytes: How many may wait.
    """

    def __init__(
        self, descriptor: int, report: Callable[[int], str], most_bytes: int = MOST_BYTES
    ) -> None:
        self.on_loss: Callable[[int], None] | None = None
        self._descriptor = descriptor
        self._report = report
        self._most_bytes = most_bytes
        self._bell: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._waiting = bytearray()  # in one piece: a thousand strings hold a thousand places
        self._lines = 0  # in it
        self._lost = 0  # lines, since it was last said
        self._lock = RLock()  # a finalizer may log anywhere, also in here

    def start(self) -> None:
        """Begin to write what comes."""
        Thread(target=self._run, name="log", daemon=True).start()

    def write(self, line: str) -> int:
        """Take a line, or count it as lost."""
        text = line.encode(errors="backslashreplace")
        with self._lock:
            if len(self._waiting) + len(text) <= self._most_bytes:
                if not self._lines:
                    self._bell.put(None)
                self._waiting += text
                self._lines += 1
                return len(line)
        self._lose(1)
        return len(line)

    def flush(self) -> None:
        """Do nothing: nobody waits."""

    def drain(self, timeout_s: float) -> bool:
        """Wait until what came so far is written; return whether it is."""
        reached = Event()
        self._bell.put(reached)
        return reached.wait(timeout_s)

    def _run(self) -> None:
        while True:
            rung = [self._bell.get()]
            with self._lock:
                rung += [self._bell.get() for _ in range(self._bell.qsize())]
                waiting, self._waiting = self._waiting, bytearray()
                lines, self._lines = self._lines, 0
                lost, self._lost = self._lost, 0
            self._put(waiting, lines, lost)
            for reached in filter(None, rung):
                reached.set()
            time.sleep(_PAUSE_S)

    def _put(self, waiting: bytearray, lines: int, lost: int) -> None:
        """Write what waited, then that what came after it is lost."""
        if not self._write(waiting):
            self._lose(lines)
        if lost and not self._write(self._report(lost).encode(errors="backslashreplace")):
            with self._lock:
                self._lost += lost

    def _write(self, text: bytes | bytearray) -> bool:
        """Return whether it is written: nobody may be there to read any more, or a disk full."""
        left = memoryview(text)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]
        return not left

    def _lose(self, count: int) -> None:
        with self._lock:
            self._lost += count
        if self.on_loss is not None and count:
            self.on_loss(count)
