"""How the request at hand ended: noted where that is known, read where it is counted and logged."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

_CURRENT: ContextVar[Ending | None] = ContextVar("ending", default=None)


@dataclass(slots=True)
class Ending:
    """What is known so far of one request's end."""

    model: str = ""
    outcome: str = ""  # `ok`, `partial`, `client_gone`, or the code of an error
    is_counted: bool = False


def begun() -> Ending:
    """Return the ending of the request that begins here."""
    _CURRENT.set(ending := Ending())
    return ending


def failed(code: str) -> None:
    """Note that the request is answered with an error."""
    if ending := _CURRENT.get():
        ending.outcome = code


def counted(model: str, outcome: str) -> None:
    """Note that the request's end is in the metrics."""
    if ending := _CURRENT.get():
        ending.model, ending.outcome, ending.is_counted = model, outcome, True
