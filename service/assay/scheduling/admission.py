"""The door: how much may wait, and when to come back.

The promise it keeps: who comes back when told is admitted (more than nine of ten at ten times the
capacity; `loadtest overload`), and the devices don't idle for those who don't.

What may wait is bounded in tokens, in requests, and by what the devices can do within the longest
wait. A caller who holds less than an equal share of that is admitted whatever others hold.

Who is refused is promised a time: `Retry-After` is when the backlog, and what is promised to
others, will have made room. Then the room is kept for a while. Newcomers get it where the one who
was promised doesn't come, and always as long as less than half of what may wait does, or so much
less that the largest of those who are due fits beside it.

Others count before someone only as far as those who were promised something do come back: until
that has been seen nobody is told a later time than a newcomer would be admitted at. Else the
devices would idle for those who left, while those who do as they are told wait outside.
"""

from __future__ import annotations

import heapq
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from assay.errors import Draining, Overloaded
from assay.scheduling.returns import LATE_S, Returns

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

_LOW_PART = 0.1  # of the bound: so little waits that a request above the bound is admitted
_OPEN_PART = 0.5  # of the bound: so much is for newcomers whatever was promised
_IN_TIME_PART = 0.5  # of the longest wait: what is late was computed for nothing, in part or whole
_KEPT_PART = 1.1  # of the bound: the rate is an estimate, a promise isn't
_LONGEST_WAIT_S = 600.0
_UNKNOWN_WAIT_S = 60.0  # where no rate was measured
_GRACE_S = 5.0  # for the way back
_AT_ONCE_S = 0.001
_READ_TOKENS = 16_384  # of a request that is told by its content though there is room
_NEARLY_S = 1.0  # the header has whole seconds
_MOST_PROMISES = 100_000


@dataclass(eq=False, slots=True)
class _Promise:
    """Room for a request's tokens, from when it is due until it ends.

    `first_due` is when it was the first time: one that was broken is renewed.
    """

    name: Hashable
    tokens: int
    due: float
    ends: float
    first_due: float
    before: int = 0  # tokens that were promised before, ever
    is_expected: bool = False  # about now
    is_passed: bool = False  # counts before nobody any more
    is_over: bool = False
    holds_room: bool = False


@dataclass(eq=False, slots=True)
class _Line:
    """Promises by a time of theirs, the earliest first."""

    _heap: list[tuple[float, int, _Promise]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def add(self, at: float, promise: _Promise) -> None:
        heapq.heappush(self._heap, (at, next(self._numbers), promise))

    def until(self, now: float) -> Iterator[_Promise]:
        """Remove and yield those whose time has come and that aren't over."""
        while self._heap and (self._heap[0][0] <= now or self._heap[0][-1].is_over):
            promise = heapq.heappop(self._heap)[-1]
            if not promise.is_over:
                yield promise


@dataclass(eq=False, slots=True)
class _Holder:
    """What all requests of a caller hold."""

    tokens: int = 0
    requests: int = 0


class Reservation:
    """What one request holds."""

    def __init__(self, door: Admission, holder: _Holder, tokens: int) -> None:
        self.tokens = 0
        self._door = door
        self._holder = holder
        self._whole = tokens
        self._done = 0.0
        self._hold(tokens)

    def give_back(self, part: float) -> None:
        """Leave the room of a part of the request, in (0, 1], that is done."""
        self._done = min(1.0, self._done + part)
        self._hold(round(self._whole * (1.0 - self._done)))

    def leave(self) -> None:
        """Leave all of it; what is done later, of a request that was given up, leaves no more."""
        self._whole = 0
        self._hold(0)

    def correct(self, more: int) -> None:
        """Hold so many tokens more than were estimated; less where negative."""
        self._whole += more
        self.give_back(0.0)

    def _hold(self, tokens: int) -> None:
        more = tokens - self.tokens
        self.tokens = tokens
        self._holder.tokens += more
        self._door.tokens += more


class Admission:
    """Bounds what is admitted, all-or-nothing per request.

    A request that is larger than the bound by itself is admitted when hardly anything waits.

    Args:
        max_tokens: How many may wait, whatever the devices do.
        tokens_per_s: What they do by the batches of callers; 0 until enough of these were timed.
            Nobody is refused by less than that.
        max_requests: How many requests may.
        max_wait_s: How long anything may.
        estimated_per_s: What they do by their warm-up, to tell when to come back until then.
        clock: The monotonic clock.
    """

    def __init__(
        self,
        max_tokens: int,
        tokens_per_s: Callable[[], float],
        *,
        max_requests: int = 2**31,
        max_wait_s: float = math.inf,
        estimated_per_s: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_tokens = max_tokens
        self._max_requests = max_requests
        self._max_wait_s = max_wait_s
        self._tokens_per_s = tokens_per_s
        self._estimated_per_s = estimated_per_s
        self._clock = clock
        self._holders: dict[str, _Holder] = {}  # of callers who hold something
        self._promises: dict[Hashable, _Promise] = {}
        self._promised_ever = 0
        self._passed = 0  # tokens of these that count before nobody
        self._near = _Line()  # by when they are nearly due
        self._expected_tokens = 0
        self._late = _Line()  # by when nobody waits for them any more
        self._returns = Returns()
        self._due = _Line()  # by when they end
        self._due_tokens = 0
        self._largest: list[tuple[int, int, _Promise]] = []  # a heap of those that hold room
        self._numbers = count()
        self.tokens = 0
        self.requests = 0
        self.is_closed = False

    @contextmanager
    def admit(
        self, tokens: int, identity: Callable[[], Hashable] | None = None, *, caller: str = ""
    ) -> Iterator[Reservation]:
        """Hold room for a request's tokens while it runs, less as parts of it are done.

        `identity` is what a request has in common with itself when it comes again; it is asked for
        only where there is, or was, no room for all.

        Raises:
            Overloaded: There is no room; `retry_after_s` is when there will be.
            Draining: The server is stopping.
        """
        if self.is_closed:
            raise Draining("the server is stopping; send the request to another", retry_after_s=1)
        holder = self._holders.get(caller, _Holder())
        if not self._is_within_share(caller, holder, tokens):
            self._look(tokens, identity)
        self._holders[caller] = holder
        room = Reservation(self, holder, tokens)
        self.requests += 1
        holder.requests += 1
        try:
            yield room
        finally:
            room.leave()
            self.requests -= 1
            holder.requests -= 1
            if not holder.requests:
                del self._holders[caller]

    def has_room(self, tokens: int, *, caller: str = "") -> bool:
        """Whether a request would be admitted now, and nobody needs to know who it is."""
        if self._promises and tokens <= _READ_TOKENS:
            return False  # one that was told to come back is to be known by its content
        holder = self._holders.get(caller, _Holder())
        return self._is_within_share(caller, holder, tokens) or self._is_open(tokens, self.bound)

    def close(self) -> None:
        """Admit nothing more."""
        self.is_closed = True

    def _is_within_share(self, caller: str, holder: _Holder, tokens: int) -> bool:
        """Whether a caller among several would hold no more than an equal share of what may."""
        callers = len(self._holders.keys() | {caller})
        return (
            callers > 1
            and (holder.tokens + tokens) * callers <= self.bound
            and (holder.requests + 1) * callers <= self._max_requests
        )

    def _look(self, tokens: int, identity: Callable[[], Hashable] | None) -> None:
        """Return if there is room for so many tokens more."""
        bound = self.bound
        if self._is_open(tokens, bound):
            self._greet(tokens, identity)
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

    def _is_open(self, tokens: int, bound: float) -> bool:
        """Whether there is room for so many tokens more, beside what is promised."""
        self._forget(self._clock())
        if self.requests >= self._max_requests:
            return False
        if not self.tokens or (tokens > bound and self.tokens <= _LOW_PART * bound):
            return True
        after = self.tokens + tokens
        return after <= self._open(bound) or after + self._due_tokens <= bound

    def _greet(self, tokens: int, identity: Callable[[], Hashable] | None) -> None:
        """End the promise to who is let in without it; not worth a look at much text."""
        if not self._promises or identity is None or tokens > _READ_TOKENS:
            return
        promise = self._promises.get(identity())
        if promise is not None:
            self._returns.come(promise.due)
            self._end(promise)

    @property
    def bound(self) -> float:
        """How many tokens may wait: what is surely served in time, at the most.

        All who wait have a share of the devices: were they twice as slow as they were, and no less
        admitted, nobody would be served in time.
        """
        in_time = self._tokens_per_s() * _IN_TIME_PART * self._max_wait_s
        return min(self._max_tokens, in_time) if in_time > 0 else self._max_tokens

    def _open(self, bound: float) -> float:
        """Return up to how many tokens newcomers are admitted whatever is due.

        At the time itself, that is: else who asks all the time would be let in before who comes
        then.
        """
        beside_these = max(_LOW_PART * bound, _KEPT_PART * bound - self._expected_tokens)
        return min(_OPEN_PART * bound, self._beside(self._largest_due(), bound), beside_these)

    def _largest_due(self) -> _Promise | None:
        while self._largest and not self._largest[0][-1].holds_room:
            heapq.heappop(self._largest)
        return self._largest[0][-1] if self._largest else None

    @staticmethod
    def _beside(promise: _Promise | None, bound: float) -> float:
        """Return beside how many tokens a promise can be kept."""
        tokens = promise.tokens if promise is not None else 0
        return max(_LOW_PART * bound, _KEPT_PART * bound - tokens)

    def _is_kept(self, promise: _Promise, tokens: int, bound: float) -> bool:
        """Whether a promise is due and there is room; it is over then.

        One that was due before, and is so large that it would never fit, goes first.
        """
        if promise.due > self._clock() + _AT_ONCE_S or self.requests >= self._max_requests:
            return False
        may = bound if self._before(promise) else _KEPT_PART * bound
        if self.tokens > _LOW_PART * bound and self.tokens + tokens > may:
            return False
        largest = self._largest_due()
        is_first = largest is None or promise.first_due <= largest.first_due
        if not is_first and self.tokens + tokens > self._beside(largest, bound):
            return False
        self._returns.come(promise.due)
        self._end(promise)
        return True

    def _when(self, tokens: int, bound: float, name: Hashable, promise: _Promise | None) -> float:
        """Return in how many seconds to come back, and promise that there will be room."""
        now = self._clock()
        if promise is not None and promise.due > now + _AT_ONCE_S:
            return promise.due - now
        if promise is not None:
            self._returns.come(promise.due)
        wait_s = self._wait_s(tokens, bound, promise)
        if wait_s < math.inf and name is not None:
            self._promise(name, tokens, wait_s, promise)
        return min(wait_s, _UNKNOWN_WAIT_S) if not self._tokens_per_s() else wait_s

    def _wait_s(self, tokens: int, bound: float, promise: _Promise | None) -> float:
        """Return in how many seconds there will be room; infinity where no rate is known.

        That is between when a newcomer would be admitted, if no other came, and when everybody has
        been served who was promised something before: the later, the more of them come back.
        """
        if (rate := self._tokens_per_s() or self._estimated_per_s()) <= 0:
            return math.inf
        first = self.tokens - max(_LOW_PART * bound, _OPEN_PART * bound - tokens)
        last = self.tokens + self._before(promise) + tokens - bound
        place = min(last, first + max(0, last - first) * self._returns.part(self._clock()))
        # The header has whole seconds.
        return min(_LONGEST_WAIT_S, max(1.0, math.ceil(place / rate)))

    def _before(self, promise: _Promise | None) -> int:
        """Return how many tokens are promised to those who were before, and may still come."""
        before = self._promised_ever if promise is None else promise.before
        return max(0, before - self._passed)

    def _promise(self, name: Hashable, tokens: int, wait_s: float, broken: _Promise | None) -> None:
        """Keep room from when a promise is due; at once where it stands for one that was broken."""
        if broken is None and len(self._promises) >= _MOST_PROMISES:
            return
        due = self._clock() + wait_s
        promise = _Promise(
            *(name, tokens, due, due + max(_GRACE_S, wait_s / 4)),
            first_due=due if broken is None else broken.first_due,
            before=self._promised_ever if broken is None else broken.before,
        )
        if broken is not None:
            self._end(broken)
            self._passed -= broken.tokens  # it goes on
            self._promised_ever -= tokens
        nearly_due = due - min(_NEARLY_S, wait_s / 2)  # not at once: small ones still fit
        if broken is not None and not self._before(promise):
            self._hold(promise)
        self._returns.expect(due)
        self._near.add(nearly_due, promise)
        self._late.add(due + LATE_S, promise)
        self._promises[name] = promise
        self._promised_ever += tokens

    def _hold(self, promise: _Promise) -> None:
        promise.holds_room = True
        self._due_tokens += promise.tokens
        self._due.add(promise.ends, promise)
        heapq.heappush(self._largest, (-promise.tokens, next(self._numbers), promise))

    def _forget(self, now: float) -> None:
        """Keep room for the promises that are due, and for none that is over."""
        for promise in self._near.until(now):
            if not promise.holds_room:
                self._hold(promise)
            self._expect(promise)
        for promise in self._late.until(now):
            self._pass(promise)
        for promise in self._due.until(now):
            self._end(promise)

    def _expect(self, promise: _Promise) -> None:
        if not promise.is_passed:
            promise.is_expected = True
            self._expected_tokens += promise.tokens

    def _pass(self, promise: _Promise) -> None:
        if promise.is_expected:
            promise.is_expected = False
            self._expected_tokens -= promise.tokens
        if not promise.is_passed:
            promise.is_passed = True
            self._passed += promise.tokens

    def _end(self, promise: _Promise) -> None:
        if promise.is_over:
            return
        promise.is_over = True
        self._pass(promise)
        del self._promises[promise.name]
        if promise.holds_room:
            promise.holds_room = False
            self._due_tokens -= promise.tokens
