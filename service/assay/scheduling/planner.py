"""Pure: who is next, who goes along, and their batch. No clock, no torch, no await.

Callers take turns by the tokens they were given so far, whatever the number of their requests. The
requests of one caller do, too; an item's turn is its request's. A batch begins with the item whose
turn is earliest, of the caller who was given least, however long it is. Items of its scope that
share at least an eighth of its tokens as a prefix join its batch ahead of their turn, nearest
first. Then the next in turn and those that share its prefix, until one doesn't fit the budget. A
request is charged for what joins as for the rest. Where the device keeps a prefix from an earlier
batch, that costs nothing.

Two rules bound what items that share a prefix may overtake:

- They go before the next in turn only if that one shares less. Where all that waits begins with the
  same system prompt, the prompts' own groups are pulled together and the rest goes by turn.
- Batch priority is never pulled ahead while interactive work waits.

Each batch takes the head of the line and moves the turn on by half of it at least, and newcomers
start at that turn. So whoever is pulled ahead, an item waits for at most as many batches as there
are items with an earlier turn.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from assay.items import ReadPositions
from assay.scheduling import policy
from assay.scheduling.batch_builder import BatchBuilder, UnsharedBatchBuilder
from assay.scheduling.head_outputs import HeadOutputs
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.prefixes import Node, Prefixes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from assay.fair_share import Caller
    from assay.scheduling.work_item import RequestFlow, WorkItem
    from assay.worker_protocol import PrefixBatch


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A batch: its item i is `works[i]`."""

    works: tuple[WorkItem, ...]
    prefix_batch: PrefixBatch
    head_outputs: HeadOutputs | None = None  # None: each item is read at its end

    @property
    def shared_tokens(self) -> int:
        """Tokens of its items that needn't be computed."""
        return sum(work.tokens for work in self.works) - self.prefix_batch.tokens

    @property
    def rows(self) -> int:
        """How many rows of numbers the device gives."""
        return len(self.prefix_batch.reads) if self.head_outputs is None else len(self.head_outputs)

    def numbers(self, read: np.ndarray) -> list[np.ndarray]:
        """Return each item's numbers, (places, outputs), of what the device read: (rows, outputs).

        To be called once for a batch, in the order in which batches were planned.
        """
        return list(read[:, None]) if self.head_outputs is None else self.head_outputs.settle(read)

    def computed_tokens(self) -> list[float]:
        """Return each item's part of the computed tokens: a run is split among its readers."""
        lengths = self.prefix_batch.lengths.copy()
        lengths[: self.prefix_batch.held] = 0
        runs = list(zip(lengths.tolist(), self.prefix_batch.parents.tolist(), strict=True))
        readers = np.bincount(self.prefix_batch.reads, minlength=len(runs)).tolist()
        for run in range(len(runs) - 1, -1, -1):
            if (parent := runs[run][1]) >= 0:
                readers[parent] += readers[run]
        parts: list[float] = []
        for (length, parent), count in zip(runs, readers, strict=True):
            parts.append(length / count + (parts[parent] if parent >= 0 else 0.0))
        return [parts[run] for run in self.prefix_batch.reads.tolist()]


class ModelQueue:
    """The work that waits for one model, by turn and by prefix.

    `is_gone` says whether a work's caller has left; such works aren't planned but set aside.
    """

    def __init__(self, is_gone: Callable[[WorkItem], bool], numbers: Iterator[int]) -> None:
        self.items = 0
        self.tokens = 0
        self._is_gone = is_gone
        self._numbers = numbers
        self._turns: dict[Caller | None, list[tuple[float, int, RequestFlow]]] = {}
        self._prefixes: dict[bool, Prefixes[WorkItem]] = {False: Prefixes(), True: Prefixes()}
        self._gone: list[WorkItem] = []
        self._left: list[WorkItem] = []  # what `purge` has yet to forget

    def add(self, work: WorkItem, now: float) -> None:
        """Let a work wait behind its request's others; a request alone starts at the turn `now`."""
        if not work.flow.works:
            work.flow.virtual_time = max(work.flow.virtual_time, now + work.flow.priority_offset)
            self._enter(work.flow)
        self._hold(work)

    def put_back(self, work: WorkItem) -> None:
        """Let a work wait before its request's others, and charge nobody for it."""
        self._hold(work)
        work.flow.works.move_to_end(work, last=False)
        work.flow.virtual_time -= work.tokens
        if work.flow.caller:
            work.flow.caller.given -= work.tokens
        self._enter(work.flow)

    def head(self) -> WorkItem | None:
        """Return the work whose turn is earliest, of the caller who was given least."""
        return min(self.heads().values(), key=lambda head: head.flow.rank, default=None)

    def heads(self) -> dict[Caller | None, WorkItem]:
        """Return each caller's work whose turn is earliest; who came first among equals."""
        firsts = {caller: self._first(caller) for caller in list(self._turns)}
        return {caller: first for caller, first in firsts.items() if first is not None}

    def _first(self, caller: Caller | None) -> WorkItem | None:
        turns = self._turns.get(caller, [])
        while turns:
            turn, number, flow = turns[0]
            if number != flow.number or not flow.works:
                heapq.heappop(turns)
            elif turn != flow.virtual_time:
                heapq.heappop(turns)
                self._enter(flow)
            elif self._is_gone(first := next(iter(flow.works))):
                self.drop(first.flow)
            else:
                return first
        self._turns.pop(caller, None)
        return None

    def shared_prefix_candidates(self, head: WorkItem) -> Iterator[WorkItem]:
        """Yield those to go along with a work that was taken, nearest first.

        Each is to be taken before the next is asked for.
        """
        prefixes = self._prefixes[head.flow.is_batch]
        if head.flow.is_batch and self._prefixes[False]:
            return
        inner: Node[WorkItem] | None = None
        for node in prefixes.above(head):
            following = self.head()
            if following is None or node.end < policy.SHARED_PREFIX_PART * head.tokens:
                return
            if prefixes.is_below(following, node):
                return
            yield from filter(self._waits, node.below(besides=inner))
            inner = node

    def take(self, work: WorkItem) -> None:
        """Remove a work, charging its request and its caller."""
        self._leave(work)
        work.flow.virtual_time += work.tokens
        if work.flow.caller:
            work.flow.caller.given += work.tokens

    def drop(self, flow: RequestFlow) -> None:
        """Remove all works of a request and set them aside."""
        for work in list(flow.works):
            self._leave(work)
            self._gone.append(work)

    def drop_all(self) -> None:
        """Remove all works and set them aside."""
        for flow in [flow for turns in self._turns.values() for _, _, flow in turns]:
            self.drop(flow)

    def pop_gone(self) -> list[WorkItem]:
        """Return the works that were set aside since the last call."""
        self.purge()
        gone, self._gone = self._gone, []
        return gone

    def purge(self) -> None:
        """Forget the prefixes of those that were removed; not while candidates are yielded."""
        for work in self._left:
            if not work.goes_alone:
                self._prefixes[work.flow.is_batch].remove(work)
        self._left.clear()

    def to_compute(self, *, shares: bool) -> int:
        """Return about how many tokens all that waits would cost in one batch."""
        if not shares:
            return self.tokens
        return sum(prefixes.tokens for prefixes in self._prefixes.values())

    def _hold(self, work: WorkItem) -> None:
        work.flow.works[work] = None
        self.items += 1
        self.tokens += work.tokens
        if not work.goes_alone:
            self._prefixes[work.flow.is_batch].add(work, work.ids, work.flow.scope)

    def _leave(self, work: WorkItem) -> None:
        del work.flow.works[work]
        self.items -= 1
        self.tokens -= work.tokens
        self._left.append(work)
        if not self.items:
            self._turns.clear()

    def _enter(self, flow: RequestFlow) -> None:
        flow.number = next(self._numbers)
        turns = self._turns.setdefault(flow.caller, [])
        heapq.heappush(turns, (flow.virtual_time, flow.number, flow))

    def _waits(self, work: WorkItem) -> bool:
        if work in work.flow.works and self._is_gone(work):
            self.drop(work.flow)
        return work in work.flow.works


def plan(
    line: ModelQueue, budget_tokens: int, *, shares: bool, cache: PrefixCache | None = None
) -> Plan:
    """Take the next batch out of a line; without `shares` each item is a run of its own.

    What the device keeps of earlier batches, by `cache`, isn't computed again; a second try does
    without. Only a head that is longer by itself exceeds the budget of computed tokens. Reading an
    item counts as a token at least, which bounds a batch of equal items.
    """
    head = line.head()
    if cache is None or not shares or (head and head.goes_alone):
        cache = PrefixCache(0)
    draft: BatchBuilder | UnsharedBatchBuilder
    draft = BatchBuilder(cache) if shares else UnsharedBatchBuilder()
    works: list[WorkItem] = []
    for work in _candidates(line, shares=shares):
        room = budget_tokens if works else None
        if len(works) == max(1, budget_tokens) or not draft.add(work, room):
            break
        line.take(work)
        works.append(work)
    line.purge()
    prefix_batch = draft.build(works)
    if any(work.segments is not None for work in works):
        if shares:
            raise ValueError("what is shared is known by its ids alone, without segments")
        segments = [
            np.zeros_like(work.ids) if work.segments is None else work.segments for work in works
        ]
        prefix_batch = replace(prefix_batch, segments=np.concatenate(segments))
    if not any(work.read_at for work in works):
        return Plan(tuple(works), prefix_batch)
    head_outputs = HeadOutputs(prefix_batch)
    for work in works:
        at_the_end = ReadPositions(np.array([len(work.ids) - 1], np.int32))
        head_outputs.add(work.read_at or at_the_end, cache.path(work.ids, work.flow.scope))
    return Plan(tuple(works), head_outputs.batch(), head_outputs)


def _candidates(line: ModelQueue, *, shares: bool) -> Iterator[WorkItem]:
    """Yield the head, what shares its prefix, the next head; each is taken, or the last."""
    head = line.head()
    while head is not None:
        yield head
        if shares and not head.goes_alone:
            yield from line.shared_prefix_candidates(head)
        line.purge()
        following = line.head()
        head = following if following and not (head.goes_alone or following.goes_alone) else None
