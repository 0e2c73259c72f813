"""One line a request, with its id and never its text: for a person, or as JSON for a machine.

A server's are written by a thread (`stderr`), as is what libraries and workers write bare: nothing
waits for who reads them.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

from assay.telemetry import tracing

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"
# What a line may have beside its message, given as `extra`.
FIELDS = ("request_id", "method", "route", "status", "ms", "model", "outcome", "by", "peer")
Form = Literal["text", "json"]
MOST_CHARACTERS = 16_384  # of a message, of a traceback, and of a line that is written bare
_OURS = ("assay", "opentelemetry", "uvicorn")


class TextFormatter(logging.Formatter):
    """Makes of each record a line, and more where it has a traceback; bounded."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """Return the text."""
        return _cut(super().format(record))


class JsonFormatter(logging.Formatter):
    """Makes of each record one JSON object on a line of its own, its values bounded."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        entry |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        if trace_id := tracing.trace_id():
            entry["trace_id"] = trace_id
        if record.exc_info:
            entry["exception"] = _cut(self.formatException(record.exc_info))
        return json.dumps(entry)


def configure(level: str, form: Form = "text") -> None:
    """Send Assay's log to standard error at a level; as JSON, with what libraries warn of."""
    # FORMAT has none of these; looking them up is half of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.getLogger("assay").setLevel(level.upper())
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    if is_structured():
        logging.getLogger().handlers[:] = [handler]
        logging.captureWarnings(capture=True)


def is_structured() -> bool:
    """Return whether each line of the log is a JSON object."""
    handlers = logging.getLogger("assay").handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)


def line(text: str) -> str:
    """Return a warning as the log would have it, on a line of its own."""
    handlers = logging.getLogger("assay").handlers
    record = logging.LogRecord("assay.log", logging.WARNING, __file__, 0, text, (), None)
    return "".join(f"{handler.format(record)}\n" for handler in handlers[:1])


def _cut(text: str) -> str:
    """Return a text without the middle of it where it is too long: its end says most."""
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} … {text[-half:]}"
