"""Who waited is woken a few an iteration of the loop, so that it gets to all else in between.

The promise it keeps: readiness and single items are answered in the midst of a burst of ten
thousand requests (`loadtest.attacks`, `/health/live` beside it).

A finished batch or a rendered round can be what hundreds of requests waited for; woken at once they
would all parse, answer and write before the loop looks at anything else.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

WOKEN_AN_ITERATION = 16  # some 5 ms of answers
ResultT = TypeVar("ResultT")


class WakeupThrottle:
    """Sets the results of futures in the order given. For one loop, and only on it."""

    def __init__(self) -> None:
        self._due: deque[tuple[asyncio.Future[Any], Any]] = deque()

    def set_result(self, future: asyncio.Future[ResultT], result: ResultT | Exception) -> None:
        """Set a result, or an exception, soon; a future cancelled meanwhile is left alone."""
        if not self._due:
            future.get_loop().call_soon(self._wake)
        self._due.append((future, result))

    def _wake(self) -> None:
        for _ in range(min(WOKEN_AN_ITERATION, len(self._due))):
            future, result = self._due.popleft()
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if self._due:
            self._due[0][0].get_loop().call_soon(self._wake)
