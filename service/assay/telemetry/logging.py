"""One line a request, with its id and never its text."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"


def configure(level: str) -> None:
    """Send Assay's log to standard error at a level."""
    # FORMAT has none of these; looking them up is half of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger("assay")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
