"""Which job is done next: callers share it by size, and of one caller's small ones go first.

Of a caller's jobs the next is the one whose finish tag is least: the tag of the last one done, at
the time the job came, plus its size (self-clocked fair queueing, Golestani 1994). So a small job
waits for the one being done, and a large one for as many small ones as are together as large as it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

JobT = TypeVar("JobT")


@dataclass(eq=False, slots=True)
class _Caller(Generic[JobT]):
    """Who has jobs waiting: what was done for it, and the tag of what was done last."""

    done: float
    now: float = 0.0
    jobs: list[tuple[float, int, int, JobT]] = field(default_factory=list)  # a heap


class FairQueue(Generic[JobT]):
    """Jobs on their way to one who does them."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller[JobT]] = {}
        self._numbers = count()
        self._level = 0.0  # what a caller who begins to wait counts as having had

    def put(self, job: JobT, *, caller: str, size: int) -> None:
        """Let a job wait."""
        if caller not in self._callers:
            self._callers[caller] = _Caller(self._level)
        flow = self._callers[caller]
        heapq.heappush(flow.jobs, (flow.now + size, next(self._numbers), size, job))

    def take(self) -> JobT | None:
        """Return the next job; None if there is none."""
        if not self._callers:
            return None
        name = min(self._callers, key=lambda caller: self._callers[caller].done)
        flow = self._callers[name]
        flow.now, _, size, job = heapq.heappop(flow.jobs)
        self._level = max(self._level, flow.done)
        flow.done += size
        if not flow.jobs:
            del self._callers[name]
        return job
