"""The door: how much may wait, and when to come back."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assay.errors import Draining, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LONGEST_WAIT_S = 60.0


class Admission:
    """Bounds the tokens of admitted requests, all-or-nothing per request.

    A request larger than the whole bound is admitted when nothing else waits.
    """

    def __init__(self, max_tokens: int, tokens_per_s: Callable[[], float]) -> None:
        self._max_tokens = max_tokens
        self._tokens_per_s = tokens_per_s
        self.tokens = 0
        self.requests = 0
        self.is_closed = False

    @contextmanager
    def admit(self, tokens: int) -> Iterator[None]:
        """Hold room for a request's tokens while it runs.

        Raises:
            Overloaded: There is no room; `retry_after_s` is the backlog over the measured rate.
            Draining: The server is stopping.
        """
        if self.is_closed:
            raise Draining("the server is stopping; send the request to another", retry_after_s=1)
        if self.tokens and self.tokens + tokens > self._max_tokens:
            raise Overloaded(
                f"{self.tokens} tokens wait, the limit is {self._max_tokens}; retry later",
                retry_after_s=self._backlog_s(),
            )
        self.tokens += tokens
        self.requests += 1
        try:
            yield
        finally:
            self.tokens -= tokens
            self.requests -= 1

    def close(self) -> None:
        """Admit nothing more."""
        self.is_closed = True

    def _backlog_s(self) -> float:
        return min(_LONGEST_WAIT_S, math.ceil(self.tokens / max(1.0, self._tokens_per_s())))
