"""Who waits, whose turn it is, and who has left.

Order is start-time fair queueing, over callers (`fair_share`) and over the requests of each. Each
request is a flow whose turn moves on by the tokens it is given, starting at the turn now being
served. A request of one item waits behind at most what is already on the device, however many items
another request brought. Each batch moves the turn on by half its first item at least: newcomers
still go before the next item of that flow, but a stream of them can't hold the others back for
ever. Batch priority has its turns `BATCH_HEAD_START_TOKENS` later, which is also how it ages: once
the turn has moved on that far, it is even with newcomers. The planner lets items that share a
prefix overtake; see there for the bounds.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from assay.errors import AssayError, DeadlineExceeded
from assay.fair_share import FairShare
from assay.jobs import JobUsage
from assay.scheduling import policy
from assay.scheduling.planner import ModelQueue, Plan, plan
from assay.scheduling.work_item import RequestFlow, WorkItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np

    from assay.fair_share import Caller
    from assay.items import ReadPositions
    from assay.scheduling.prefix_cache import PrefixCache
    from assay.worker_protocol import Loaded


class Timer(Protocol):
    """What `asyncio` returns of a call that is to come."""

    def cancel(self) -> None:
        """Don't call."""


@dataclass(eq=False, slots=True)
class RequestHandle:
    """One request's stake in the queue.

    `settle` is called once for each item, with its place in the request and its numbers, (places
    read, outputs), or its error. Only those of one `scope` share what they begin with.
    """

    settle: Callable[[int, np.ndarray | AssayError], None]
    deadline: float | None = None
    is_batch: bool = False
    caller: str = ""
    scope: str = ""
    is_cancelled: bool = False
    usage: JobUsage = field(default_factory=JobUsage)
    flows: dict[str, RequestFlow] = field(default_factory=dict)  # by model
    waiting: int = 0
    alarm: Timer | None = None


@dataclass(frozen=True, slots=True)
class ItemHandle:
    """Whom an item's score goes to: the ticket, and the item's place in its request."""

    ticket: RequestHandle
    place: int
    attempts: int = 0
    deaths: int = 0  # of workers, while they ran it

    def settle(self, result: np.ndarray | AssayError) -> None:
        """Answer the item, unless its caller has left."""
        if not self.ticket.is_cancelled:
            self.ticket.settle(self.place, result)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """A batch on its way to a device; `claims[i]` is the claim of the plan's item i."""

    model: str
    plan: Plan
    claims: tuple[ItemHandle, ...]
    is_full: bool = False  # nothing more that waits would have fitted
    budget_tokens: int = 0  # that it might have had

    @property
    def fills_its_budget(self) -> bool:
        """Whether it is about as large as it might be."""
        return (
            self.is_full and self.plan.prefix_batch.tokens >= policy.FULL_PART * self.budget_tokens
        )

    @property
    def entries(self) -> list[tuple[WorkItem, ItemHandle]]:
        """What waited, and for whom."""
        return list(zip(self.plan.works, self.claims, strict=True))


class Queue:
    """The waiting work of all models, shared by all devices."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        self._clock = clock
        self._call_later = call_later or _call_later
        self._lines: dict[str, ModelQueue] = {}
        self._claims: dict[WorkItem, ItemHandle] = {}
        self._numbers = count()
        self._callers = FairShare()
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call a function, from now on, whenever something was put."""
        self._listeners.append(listener)

    def put(
        self,
        model: str,
        ids: np.ndarray,
        ticket: RequestHandle,
        place: int,
        read_at: ReadPositions | None = None,
        segments: np.ndarray | None = None,
    ) -> None:
        """Let one item wait for one model; `ids` is (tokens,) int32, `read_at` where it is read.

        `segments` are its segment ids, (tokens,) int32; None: all 0.
        """
        if model not in ticket.flows:
            caller = self._callers.caller(ticket.caller)
            lag = policy.BATCH_HEAD_START_TOKENS if ticket.is_batch else 0.0
            ticket.flows[model] = RequestFlow(caller, lag, scope=ticket.scope)
        flow = ticket.flows[model]
        assert flow.caller is not None
        work = WorkItem(ids, flow, read_at=read_at, segments=segments)
        self._hold(work, ItemHandle(ticket, place))
        self._line(model).add(work, flow.caller.now)
        self._tell()

    def put_back(
        self,
        model: str,
        entries: Iterable[tuple[WorkItem, ItemHandle]],
        *,
        was_tried: bool = True,
        was_deadly: bool = False,
    ) -> None:
        """Let items wait again, first of their request; those that were tried go alone.

        They were deadly where the worker died at them.
        """
        for tried, claim in reversed(list(entries)):
            again = ItemHandle(
                *(claim.ticket, claim.place),
                attempts=claim.attempts + was_tried,
                deaths=claim.deaths + was_deadly,
            )
            work = replace(tried, goes_alone=again.attempts > 0)
            self._hold(work, again)
            self._line(model).put_back(work)
        self._tell()

    def cancel(self, ticket: RequestHandle) -> None:
        """Let all that waits of a request leave; what is at a device is answered to nobody."""
        ticket.is_cancelled = True
        for model, flow in ticket.flows.items():
            self._lines[model].drop(flow)
            self._fail_expired(self._lines[model])

    def take(
        self,
        loaded: Mapping[str, Loaded],
        caches: Mapping[str, PrefixCache] = MappingProxyType({}),
        *,
        only_full: bool = False,
    ) -> ScheduledBatch | None:
        """Remove the next batch: of the model whose head is due, filled up to its budget.

        `caches` says what the device that asks keeps of earlier batches, by model.

        With `only_full`, None unless enough waits to fill it. An item that already failed once in a
        batch goes alone. Those whose caller has left are dropped, those whose deadline passed are
        answered; neither costs compute.
        """
        while heads := self._heads(loaded):
            model = min(heads, key=lambda name: heads[name].flow.rank)
            line, spec = self._lines[model], loaded[model]
            waiting = line.to_compute(shares=spec.shares_prefixes)
            if only_full and waiting < policy.FULL_PART * spec.budget_tokens:
                return None
            self._begin(heads[model])
            drafted = plan(
                line, spec.budget_tokens, shares=spec.shares_prefixes, cache=caches.get(model)
            )
            self._fail_expired(line)
            if not drafted.works:  # the head's deadline passed meanwhile
                continue
            self._advance(drafted)
            is_full = (
                line.items > 0
                or drafted.prefix_batch.tokens >= policy.FULL_PART * spec.budget_tokens
            )
            claims = tuple(map(self._release, drafted.works))
            is_alone = drafted.works[0].goes_alone
            return ScheduledBatch(
                model, drafted, claims, is_full and not is_alone, spec.budget_tokens
            )
        return None

    def depth(self, model: str) -> tuple[int, int]:
        """Return how many items and tokens wait for a model."""
        line = self._lines.get(model)
        return (line.items, line.tokens) if line else (0, 0)

    def fail_all(self, model: str, error: AssayError) -> None:
        """Answer everything that waits for a model with an error."""
        line = self._line(model)
        line.drop_all()
        self._fail_expired(line, error)

    def _line(self, model: str) -> ModelQueue:
        if model not in self._lines:
            self._lines[model] = ModelQueue(self._has_left, self._numbers)
        return self._lines[model]

    def _heads(self, models: Iterable[str]) -> dict[str, WorkItem]:
        """Return the heads of the lines that have one; see off those who have left before it."""
        heads: dict[str, WorkItem] = {}
        for model in models:
            if line := self._lines.get(model):
                if head := line.head():
                    heads[model] = head
                self._fail_expired(line)
        return heads

    def _begin(self, head: WorkItem) -> None:
        """Move the turns on to the one that is served now, by half its item."""
        caller = head.flow.caller
        assert caller is not None
        caller.now = max(caller.now, head.flow.turn + policy.TURN_PART * head.tokens)

    def _advance(self, drafted: Plan) -> None:
        """Move the turns on: a caller's newcomers go before its next in line, by half an item.

        Where nothing is left of a caller, the past is forgotten: all its requests start even.
        """
        served: dict[Caller | None, float] = {}
        for work in drafted.works:
            turn = work.flow.turn
            served[work.flow.caller] = max(turn, served.get(work.flow.caller, turn))
        following: dict[Caller | None, float] = {}
        for line in self._lines.values():
            for caller, head in line.heads().items():
                turn = head.flow.turn - policy.TURN_PART * head.tokens
                following[caller] = min(turn, following.get(caller, turn))
            self._fail_expired(line)
        for caller, turn in (served | following).items():
            if caller is not None and caller in served:
                caller.now = max(caller.now, turn)
        self._callers.move_on(filter(None, following), filter(None, served))

    def _hold(self, work: WorkItem, claim: ItemHandle) -> None:
        ticket = claim.ticket
        self._claims[work] = claim
        ticket.waiting += 1
        if caller := work.flow.caller:
            self._callers.begin(caller)
        if ticket.deadline is not None and ticket.alarm is None:
            left_s = max(0.0, ticket.deadline - self._clock())
            ticket.alarm = self._call_later(left_s, partial(self._expire, ticket))

    def _release(self, work: WorkItem) -> ItemHandle:
        claim = self._claims.pop(work)
        ticket = claim.ticket
        ticket.waiting -= 1
        if work.flow.caller:
            work.flow.caller.waiting -= 1
        if ticket.alarm and not ticket.waiting:
            ticket.alarm.cancel()
            ticket.alarm = None
        return claim

    def _expire(self, ticket: RequestHandle) -> None:
        """Answer what waits of a request whose deadline has come: many items, so model by model."""
        late_ones = [(model, flow) for model, flow in ticket.flows.items() if flow.works]
        for model, flow in late_ones[:1]:
            self._lines[model].drop(flow)
            self._fail_expired(self._lines[model])
        if ticket.waiting:
            ticket.alarm = self._call_later(0.0, partial(self._expire, ticket))

    def _fail_expired(self, line: ModelQueue, error: AssayError | None = None) -> None:
        """Answer those who are gone, by default because they are late; who cancelled wants none."""
        for claim in map(self._release, line.pop_gone()):
            claim.settle(error or late())

    def _has_left(self, work: WorkItem) -> bool:
        ticket = self._claims[work].ticket
        return ticket.is_cancelled or (
            ticket.deadline is not None and self._clock() >= ticket.deadline
        )

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def late() -> DeadlineExceeded:
    """Return the error of an item that waited for too long."""
    return DeadlineExceeded("the deadline passed before the item ran; allow more time")


def _call_later(delay_s: float, call: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(delay_s, call)
