"""Standard error as a server has it: nothing waits for who reads it, neither the log nor workers.

What is written to it bare (a worker's warnings, what a library written in C says, a traceback on
the way out) comes through a pipe that is always read; where lines of the log are objects, these
are, too. On a terminal only the log is led through the queue: bars are drawn there.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from threading import Thread
from typing import TextIO, cast

from assay.telemetry import logging as logs
from assay.telemetry.outlet import Outlet

_LAST_WORDS_S = 1.0


class StandardError:
    """Descriptor 2 of this process, adopted until it is given back."""

    def __init__(self) -> None:
        self._own = os.dup(2)
        self._relay: Thread | None = None
        self.outlet = Outlet(self._own, _loss)

    def adopt(self) -> None:
        """Lead the log, and what is written bare, through the queue."""
        self.outlet.start()
        for handler in logging.getLogger("assay").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(cast("TextIO", self.outlet))
        if not os.isatty(self._own):
            reader, writer = os.pipe()
            os.dup2(writer, 2)
            os.close(writer)
            self._relay = Thread(target=self._read, args=(reader,), name="stderr", daemon=True)
            self._relay.start()

    def give_back(self) -> None:
        """Write what still waits, unless nobody reads: then what comes later is for nobody."""
        sys.stderr.flush()
        os.dup2(self._own, 2)
        if self._relay is not None:
            self._relay.join(_LAST_WORDS_S)
        if not self.outlet.drain(_LAST_WORDS_S):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def _read(self, reader: int) -> None:
        logger = logging.getLogger("assay.stderr")
        with os.fdopen(reader, errors="replace") as stream:
            while line := stream.readline(logs.MOST_CHARACTERS):
                if logs.is_structured():
                    grave = max(logging.WARNING, logger.getEffectiveLevel())  # none of it is lost
                    logger.log(grave, "%s", line.rstrip("\n"))
                else:
                    self.outlet.write(line)


def adopt() -> StandardError:
    """Adopt it until the process ends."""
    adopted = StandardError()
    adopted.adopt()
    atexit.register(adopted.give_back)
    return adopted


def _loss(count: int) -> str:
    return logs.line(f"{count} lines of the log are lost here: whoever reads it didn't keep up")
