"""Whose turn it is among callers: who was given least, however much each has waiting.

What is given is counted in tokens. Who begins to wait counts as given as much as the least of those
who do, so that nobody saves up (start-time fair queueing, Goyal, Vin and Cheng 1996). A caller is
an API key's name; without keys all are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(eq=False, slots=True)
class Caller:
    """One who sends requests.

    `now` is the turn that newcomers among what a caller has waiting start at: it is for whoever
    orders these.
    """

    given: float = 0.0
    now: float = 0.0
    waiting: int = 0


class FairShare:
    """All callers of one queue."""

    def __init__(self) -> None:
        self._callers: dict[str, Caller] = {}
        self._level = 0.0

    def caller(self, name: str) -> Caller:
        """Return the caller of a name."""
        return self._callers.setdefault(name, Caller())

    def begin(self, caller: Caller) -> None:
        """Let something more of a caller wait."""
        if not caller.waiting:
            caller.given = max(caller.given, self._level)
        caller.waiting += 1

    def move_on(self, waiting: Iterable[Caller], served: Iterable[Caller]) -> None:
        """Say who waits after some were served: it is what those count as who begin to wait now."""
        least = min((caller.given for caller in waiting), default=None)
        if least is None:
            least = max(caller.given for caller in served)
        self._level = max(self._level, least)
