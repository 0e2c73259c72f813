"""Who waits, in which order, and who has left.

Order is start-time fair queueing over requests: each request is a flow whose items get turns spaced
by their tokens, starting at the turn now being served. A request of one item waits behind at most
what is already on the device, however many items another request brought. Each batch moves the turn
on by half its first item at least: newcomers still go before the next item of that flow, but a
stream of them can't hold the others back for ever. Batch priority starts `BATCH_HEAD_START_TOKENS`
later, which is also how it ages: once the turn has moved on that far, it is even with newcomers.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.errors import AssayError, DeadlineExceeded
from assay.scheduling.planner import Plan, Work, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

BATCH_HEAD_START_TOKENS = 65_536


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's stake in the queue.

    `settle` is called once for each item, with its place in the request and its score or error.
    `compute_s` adds up the batches that carried its items.
    """

    settle: Callable[[int, float | AssayError], None]
    deadline: float | None = None
    is_batch: bool = False
    is_cancelled: bool = False
    compute_s: float = 0.0
    next_turn: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """Whom an item's score goes to: the ticket, and the item's place in its request."""

    ticket: Ticket
    place: int
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch on its way to a device; `work` maps sequence numbers to what waited and for whom."""

    model: str
    plan: Plan
    work: dict[int, tuple[Work, Claim]]


@dataclass(slots=True)
class _Line:
    """The work that waits for one model."""

    heap: list[Work] = field(default_factory=list)
    tokens: int = 0


class Queue:
    """The waiting work of all models, shared by all devices."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._claims: dict[int, Claim] = {}
        self._sequence = 0
        self._now: float = 0.0  # the turn now being served
        self._arrived = asyncio.Event()

    def put(self, model: str, ids: np.ndarray, ticket: Ticket, place: int) -> None:
        """Let one item wait for one model."""
        self._push(model, ids, Claim(ticket, place), self._turn(model, ticket, len(ids)))

    def put_back(self, model: str, work: Work, claim: Claim, *, was_tried: bool = True) -> None:
        """Let an item wait again, first in line; an attempt is counted if it was tried."""
        again = Claim(claim.ticket, claim.place, claim.attempts + was_tried)
        self._push(model, work.ids, again, work.turn)

    async def wait(self) -> None:
        """Return as soon as something waits."""
        await self._arrived.wait()

    def take(self, budgets: Mapping[str, int]) -> Taken | None:
        """Remove the next batch: the model whose head waits longest, filled up to its budget.

        An item that already failed once in a batch goes alone. Those whose caller has left are
        dropped, those whose deadline passed are answered; neither costs compute.
        """
        waiting = [model for model in self._lines if model in budgets and self._has_head(model)]
        if not waiting:
            self._note_emptiness()
            return None
        model = min(waiting, key=lambda name: self._lines[name].heap[0])
        popped: list[Work] = []
        drafted = plan(self._candidates(model, popped), budgets[model])
        chosen = set(drafted.order)
        self._now = max(self._now, popped[0].turn + popped[0].tokens / 2)
        taken: dict[int, tuple[Work, Claim]] = {}
        for work in popped:
            if work.sequence in chosen:
                self._lines[model].tokens -= work.tokens
                taken[work.sequence] = (work, self._claims.pop(work.sequence))
                self._now = max(self._now, work.turn)
            else:
                heapq.heappush(self._lines[model].heap, work)
        self._note_emptiness()
        return Taken(model, drafted, taken)

    def depth(self, model: str) -> tuple[int, int]:
        """Return how many items and tokens wait for a model."""
        line = self._lines.get(model)
        return (len(line.heap), line.tokens) if line else (0, 0)

    def fail_all(self, model: str, error: AssayError) -> None:
        """Answer everything that waits for a model with an error."""
        line = self._lines.pop(model, None)
        for work in line.heap if line else ():
            claim = self._claims.pop(work.sequence)
            claim.ticket.settle(claim.place, error)
        self._note_emptiness()

    def _push(self, model: str, ids: np.ndarray, claim: Claim, turn: float) -> None:
        work = Work(turn, self._sequence, ids)
        self._sequence += 1
        line = self._lines.setdefault(model, _Line())
        heapq.heappush(line.heap, work)
        line.tokens += work.tokens
        self._claims[work.sequence] = claim
        self._arrived.set()

    def _turn(self, model: str, ticket: Ticket, tokens: int) -> float:
        start = ticket.next_turn.get(model)
        if start is None:
            start = self._now + (BATCH_HEAD_START_TOKENS if ticket.is_batch else 0)
        start = max(start, self._now)
        ticket.next_turn[model] = start + tokens
        return start

    def _candidates(self, model: str, popped: list[Work]) -> Iterator[Work]:
        """Pop live work in order, noting it; an item that failed in a batch before goes alone."""
        heap = self._lines[model].heap
        while self._has_head(model):
            is_second_try = self._claims[heap[0].sequence].attempts > 0
            if is_second_try and popped:
                return
            popped.append(heapq.heappop(heap))
            yield popped[-1]
            if is_second_try:
                return

    def _has_head(self, model: str) -> bool:
        """Drop the departed from a line's head; return whether anyone is left."""
        line = self._lines[model]
        while line.heap:
            work = line.heap[0]
            claim = self._claims[work.sequence]
            if not self._has_left(claim):
                return True
            heapq.heappop(line.heap)
            line.tokens -= work.tokens
            del self._claims[work.sequence]
            if not claim.ticket.is_cancelled:
                claim.ticket.settle(
                    claim.place,
                    DeadlineExceeded("the deadline passed before the item ran; allow more time"),
                )
        return False

    def _has_left(self, claim: Claim) -> bool:
        ticket = claim.ticket
        return ticket.is_cancelled or (
            ticket.deadline is not None and self._clock() >= ticket.deadline
        )

    def _note_emptiness(self) -> None:
        if not any(line.heap for line in self._lines.values()):
            self._arrived.clear()
