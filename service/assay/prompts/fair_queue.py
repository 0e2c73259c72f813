"""Which job is done next: callers share it by size, and of one caller's small ones go first.

Of a caller's jobs the next is the one whose finish tag is least: the tag of the last one done, at
the time the job came, plus its size (self-clocked fair queueing, Golestani 1994). So a small job
waits for the one being done, and a large one for as many small ones as are together as large as it.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from assay.fair_share import FairShare

if TYPE_CHECKING:
    from assay.fair_share import Caller

JobT = TypeVar("JobT")


class FairQueue(Generic[JobT]):
    """Jobs on their way to one who does them."""

    def __init__(self) -> None:
        self._callers = FairShare()
        self._waiting: dict[Caller, list[tuple[float, int, int, JobT]]] = {}  # heaps by tag
        self._numbers = count()

    def put(self, job: JobT, *, caller: str, size: int) -> None:
        """Let a job wait."""
        who = self._callers.caller(caller)
        self._callers.begin(who)
        jobs = self._waiting.setdefault(who, [])
        heapq.heappush(jobs, (who.now + size, next(self._numbers), size, job))

    def take(self) -> JobT | None:
        """Return the next job; None if there is none."""
        if not self._waiting:
            return None
        who = min(self._waiting, key=self._rank)
        who.now, _, size, job = heapq.heappop(self._waiting[who])
        who.given += size
        who.waiting -= 1
        if not who.waiting:
            del self._waiting[who]
        self._callers.move_on(self._waiting, [who])
        return job

    def _rank(self, caller: Caller) -> tuple[float, float]:
        """Return whom the next job is of: the least; of equals who has the smaller one."""
        return caller.given, self._waiting[caller][0][0] - caller.now
