"""The door: how much may wait, and when to come back.

What may wait is bounded in tokens, in requests, and by what the devices can do within the longest
wait. Who is refused is promised a time: `Retry-After` is when the backlog, and what was promised
to others before, will have made room. Then the room is kept for a while; newcomers get it where
the one who was promised doesn't come, and always as long as less than half of what may wait does.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.errors import Draining, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

_LOW_PART = 0.1  # of the bound: so little waits that a request above the bound is admitted
_OPEN_PART = 0.5  # of the bound: so much is for newcomers whatever was promised
_IN_TIME_PART = 0.5  # of the longest wait: what is late was computed for nothing, in part or whole
_KEPT_PART = 1.1  # of the bound: the rate is an estimate, a promise isn't
_LONGEST_WAIT_S = 600.0
_UNKNOWN_WAIT_S = 60.0  # where no rate was measured
_GRACE_S = 5.0  # for the way back
_MOST_PROMISES = 100_000


@dataclass(eq=False, slots=True)
class _Promise:
    """Room for a request's tokens, from when it is due until it ends."""

    name: Hashable
    tokens: int
    due: float
    ends: float
    is_kept: bool = False  # the request came, and was admitted
    holds_room: bool = False


class Room:
    """What one request holds."""

    def __init__(self, door: Admission, tokens: int) -> None:
        self.tokens = tokens
        self._door = door
        self._whole = tokens
        self._done = 0.0

    def give_back(self, part: float) -> None:
        """Leave the room of a part of the request, in (0, 1], that is done."""
        self._done = min(1.0, self._done + part)
        left = round(self._whole * (1.0 - self._done))
        self._door.tokens -= self.tokens - left
        self.tokens = left

    def leave(self) -> None:
        """Leave all of it; what is done later, of a request that was given up, leaves no more."""
        self._door.tokens -= self.tokens
        self.tokens = self._whole = 0

    def correct(self, more: int) -> None:
        """Hold so many tokens more than were estimated; less where negative."""
        self._whole += more
        self.give_back(0.0)


class Admission:
    """Bounds what is admitted, all-or-nothing per request.

    A request that is larger than the bound by itself is admitted when hardly anything waits.
    """

    def __init__(
        self,
        max_tokens: int,
        tokens_per_s: Callable[[], float],
        *,
        max_requests: int = 2**31,
        max_wait_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_tokens = max_tokens
        self._max_requests = max_requests
        self._max_wait_s = max_wait_s
        self._tokens_per_s = tokens_per_s
        self._clock = clock
        self._promises: dict[Hashable, _Promise] = {}
        self._coming: deque[_Promise] = deque()  # about in the order in which they are due
        self._due: deque[_Promise] = deque()
        self._due_tokens = 0
        self._promised_until = -math.inf
        self.tokens = 0
        self.requests = 0
        self.is_closed = False

    @contextmanager
    def admit(self, tokens: int, identity: Callable[[], Hashable] | None = None) -> Iterator[Room]:
        """Hold room for a request's tokens while it runs, less as parts of it are done.

        `identity` is what a request has in common with itself when it comes again; it is asked for
        only where there is no room for all.

        Raises:
            Overloaded: There is no room; `retry_after_s` is when there will be.
            Draining: The server is stopping.
        """
        if self.is_closed:
            raise Draining("the server is stopping; send the request to another", retry_after_s=1)
        self._look(tokens, identity)
        room = Room(self, tokens)
        self.tokens += tokens
        self.requests += 1
        try:
            yield room
        finally:
            room.leave()
            self.requests -= 1

    def close(self) -> None:
        """Admit nothing more."""
        self.is_closed = True

    def _look(self, tokens: int, identity: Callable[[], Hashable] | None) -> None:
        """Return if there is room for so many tokens more."""
        bound = self.bound
        self._forget(self._clock())
        if self.requests < self._max_requests:
            if not self.tokens or (tokens > bound and self.tokens <= _LOW_PART * bound):
                return
            after = self.tokens + tokens
            if after <= _OPEN_PART * bound or after + self._due_tokens <= bound:
                return
        name = identity() if identity is not None else None
        promise = self._promises.get(name)
        if promise is not None and self._is_kept(promise, tokens, bound):
            return
        if self.requests >= self._max_requests:
            waits = f"{self.requests} requests wait"
        else:
            waits = f"{self.tokens} tokens wait, the limit is {bound:.0f}"
        raise Overloaded(
            f"{waits}; retry later", retry_after_s=self._when(tokens, bound, name, promise)
        )

    @property
    def bound(self) -> float:
        """How many tokens may wait: what is surely served in time, at the most.

        All who wait have a share of the devices: were they twice as slow as they were, and no less
        admitted, nobody would be served in time.
        """
        in_time = self._tokens_per_s() * _IN_TIME_PART * self._max_wait_s
        return min(self._max_tokens, in_time) if in_time > 0 else self._max_tokens

    def _is_kept(self, promise: _Promise, tokens: int, bound: float) -> bool:
        """Whether a promise is due and there is room; it is over then."""
        if promise.due > self._clock() or self.requests >= self._max_requests:
            return False
        if self.tokens and self.tokens + tokens > _KEPT_PART * bound:
            return False
        promise.is_kept = True
        self._end(promise)
        return True

    def _when(self, tokens: int, bound: float, name: Hashable, promise: _Promise | None) -> float:
        """Return in how many seconds to come back, and promise that there will be room."""
        now = self._clock()
        if promise is not None and promise.due > now:
            return promise.due - now
        if (rate := self._tokens_per_s()) <= 0:
            return _UNKNOWN_WAIT_S
        room_at = now + max(0.0, self.tokens + tokens - bound) / rate
        if promise is None:
            room_at = max(room_at, self._promised_until)
            self._promised_until = room_at + tokens / rate
        # The header has whole seconds.
        wait_s = min(_LONGEST_WAIT_S, max(1.0, math.ceil(room_at - now)))
        ends = now + wait_s + max(_GRACE_S, wait_s / 4)
        if promise is not None:
            promise.due, promise.ends = now + wait_s, ends
        elif name is not None and len(self._promises) < _MOST_PROMISES:
            self._promises[name] = _Promise(name, tokens, now + wait_s, ends)
            self._coming.append(self._promises[name])
        return wait_s

    def _forget(self, now: float) -> None:
        """Keep room for the promises that are due, and for none that is over."""
        while self._coming and self._coming[0].due <= now:
            promise = self._coming.popleft()
            if not promise.is_kept:
                promise.holds_room = True
                self._due_tokens += promise.tokens
                self._due.append(promise)
        while self._due and (self._due[0].is_kept or self._due[0].ends <= now):
            self._end(self._due.popleft())

    def _end(self, promise: _Promise) -> None:
        if promise.holds_room:
            promise.holds_room = False
            self._due_tokens -= promise.tokens
        if self._promises.get(promise.name) is promise:
            del self._promises[promise.name]
