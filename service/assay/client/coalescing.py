"""Questions about one thing each, asked together: those that wait for a slot share a request.

The promise it keeps: a reward function that asks for one item a call isn't a hundred times slower
than one that asks for a list (`loadtest client`).

No timer: what is asked in one turn of the event loop, or while all slots are taken, goes when a
slot is free. An answer is the one that the question alone would have had: what a shared request
refuses is asked again alone.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from assay import errors, wire
from assay.client import response_parsing
from assay.client.pool import GRACE_S

if TYPE_CHECKING:
    from assay.client.chunk import ClientCall
    from assay.client.pool import Pool
    from assay.client.route import Element

EntryT = TypeVar("EntryT", bound=wire.Entry)
_TOGETHER = 64  # of a request: who shares one waits for all of it


@dataclass(frozen=True, slots=True)
class _Asked(Generic[EntryT]):
    """A question that waits; its future has the entry, or None where it must be asked alone."""

    call: ClientCall[EntryT]
    one: Element
    entry: asyncio.Future[EntryT | None]


@dataclass(slots=True)
class _Line(Generic[EntryT]):
    """Who asks the same with the same options, and how many requests wait to fetch them."""

    waiting: deque[_Asked[EntryT]] = field(default_factory=deque)
    fetching: int = 0

    def taken(self) -> list[_Asked[EntryT]]:
        """Take those who go together, a fair share; who has left isn't among them."""
        share = -(-len(self.waiting) // self.fetching)
        self.fetching -= 1
        several = [self.waiting.popleft() for _ in range(min(share, _TOGETHER))]
        return [waiter for waiter in several if not waiter.entry.done()]


class Together:
    """The lines before a pool's slots."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lines: dict[tuple[str, bytes], _Line[Any]] = {}
        self._requests: set[asyncio.Task[None]] = set()

    async def ask(self, call: ClientCall[EntryT], element: Element) -> EntryT:
        """Return the entry of one element; raises as `Call.send`."""
        if element.refusal is None:
            try:
                entry = await self._shared(call, element)
            except errors.DeadlineExceeded as error:
                return call.failed(element, error)
            if entry is not None and (call.is_lenient or entry.error is None):
                return entry
        (entry,) = await call.send([element])
        return entry

    async def aclose(self) -> None:
        """Fail who waits."""
        for task in self._requests:
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        for line in self._lines.values():
            _fail(list(line.waiting), _closed())

    async def _shared(self, call: ClientCall[EntryT], element: Element) -> EntryT | None:
        waiter = _Asked(call, element, asyncio.get_running_loop().create_future())
        key = (call.route.path, call.fields)
        line = self._lines.setdefault(key, _Line())
        line.waiting.append(waiter)
        concurrency = max(-(-len(line.waiting) // _TOGETHER), len(self._pool.servers))
        if line.fetching < min(concurrency, len(line.waiting)):
            line.fetching += 1
            task = asyncio.create_task(self._fetch(key, line), name="ask together")
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
        # Later than the request's own end, by which a silent server is known.
        until = None if call.deadline is None else call.deadline + 2 * GRACE_S
        try:
            async with asyncio.timeout_at(until):
                return await waiter.entry
        except TimeoutError as error:
            raise errors.DeadlineExceeded("the deadline passed without an answer") from error

    async def _fetch(self, key: tuple[str, bytes], line: _Line[Any]) -> None:
        async with self._pool.slot(None):
            several = line.taken()
            if not line.waiting and not line.fetching:
                self._lines.pop(key, None)
            if several:
                await _answer(several)


async def _answer(several: list[_Asked[Any]]) -> None:
    """Give each its entry."""
    task = asyncio.current_task()

    def leave(future: asyncio.Future[Any]) -> None:
        if future.cancelled() and task and all(waiter.entry.done() for waiter in several):
            task.cancel()

    for waiter in several:
        waiter.entry.add_done_callback(leave)
    try:
        entries = await _call(several).answer([waiter.one for waiter in several])
    except asyncio.CancelledError:
        _fail(several, _closed())
        raise
    except Exception as error:  # noqa: BLE001  it is raised where it was asked
        _fail(several, error)
    else:
        for waiter, entry in zip(several, entries, strict=True):
            if not waiter.entry.done():
                waiter.entry.set_result(entry)


def _call(several: list[_Asked[Any]]) -> ClientCall[Any]:
    """Return the call that stands for several: it ends with the last, a bad element fails alone."""
    first = several[0].call
    if len(several) == 1:
        return first
    deadlines = [waiter.call.deadline for waiter in several]
    until = [deadline for deadline in deadlines if deadline is not None]
    return replace(
        first, on_error="item", deadline=max(until) if len(until) == len(deadlines) else None
    )


def _fail(several: list[_Asked[Any]], error: Exception) -> None:
    """Raise an error where each was asked; what may be the fault of one is asked alone."""
    is_of_all = not isinstance(error, errors.ServiceError) or isinstance(
        error, (*response_parsing.AWAY, errors.DeadlineExceeded)
    )
    for waiter in several:
        if waiter.entry.done():
            continue
        if is_of_all or len(several) == 1:
            waiter.entry.set_exception(copy.copy(error))
        else:
            waiter.entry.set_result(None)


def _closed() -> RuntimeError:
    return RuntimeError("the client was closed while it was asked")
