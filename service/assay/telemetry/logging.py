"""One line a request, with its id and never its text: for a person, or as JSON for a machine."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import time
from threading import Thread
from typing import Any, Literal

from assay.telemetry import tracing

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"
# What a line may have beside its message, given as `extra`.
FIELDS = ("request_id", "method", "route", "status", "ms", "model", "outcome")
Form = Literal["text", "json"]
_LAST_WORDS_S = 1.0


class JsonFormatter(logging.Formatter):
    """Makes of each record one JSON object on a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        if trace_id := tracing.trace_id():
            entry["trace_id"] = trace_id
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(level: str, form: Form = "text") -> None:
    """Send Assay's log to standard error at a level; as JSON, with what libraries warn of."""
    # FORMAT has none of these; looking them up is half of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(FORMAT))
    logging.getLogger("assay").setLevel(level.upper())
    for name in ("assay", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    if is_structured():
        logging.getLogger().handlers[:] = [handler]
        logging.captureWarnings(capture=True)


def adopt_stderr() -> None:
    """Log, until the process ends, each line that it or its workers write to standard error bare.

    A worker's warnings, what a library written in C says, a traceback on the way out: where lines
    are objects, these are, too.
    """
    own = os.dup(2)
    for handler in logging.getLogger("assay").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(os.fdopen(own, "w", closefd=False))
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    thread = Thread(target=_relay, args=(reader,), name="stderr", daemon=True)
    thread.start()

    def give_back() -> None:
        os.dup2(own, 2)
        thread.join(_LAST_WORDS_S)

    atexit.register(give_back)


def _relay(reader: int) -> None:
    logger = logging.getLogger("assay.stderr")
    with os.fdopen(reader, errors="replace") as lines:
        for line in lines:
            grave = max(logging.WARNING, logger.getEffectiveLevel())  # nothing of it is lost
            logger.log(grave, "%s", line.rstrip("\n"))


def is_structured() -> bool:
    """Return whether each line of the log is a JSON object."""
    handlers = logging.getLogger("assay").handlers
    return any(isinstance(one.formatter, JsonFormatter) for one in handlers)
