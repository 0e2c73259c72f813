"""A source of any length as chunks of requests, and their answers in the source's order."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from assay import errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable

    from assay.client.route import Element

EntryT = TypeVar("EntryT")
CHUNK_ELEMENTS = 1024
_AHEAD = 4  # chunks a slot that may be sent or answered before the first one is


class Intake(Protocol):
    """Where chunks come from."""

    async def take(self) -> list[Element]:
        """Return the next elements of the source; none at its end."""

    async def aclose(self) -> None:
        """Leave the source."""


class _Ready:
    """Elements that wait to be sent."""

    def __init__(self, write: Callable[[int, object], Element], chunk_bytes: int) -> None:
        self._write = write
        self._chunk_bytes = chunk_bytes
        self._places = count()
        self._elements: deque[Element] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._elements)

    @property
    def is_full(self) -> bool:
        return self._bytes >= self._chunk_bytes or len(self._elements) >= CHUNK_ELEMENTS

    def add(self, value: object) -> None:
        element = self._write(next(self._places), value)
        self._elements.append(element)
        self._bytes += len(element.json) + 1

    def cut(self) -> list[Element]:
        """Return a chunk: what is there, up to the limits, at least one."""
        chunk: list[Element] = []
        size = 0
        while self._elements and len(chunk) < CHUNK_ELEMENTS:
            size += len(self._elements[0].json) + 1
            if chunk and size > self._chunk_bytes:
                break
            chunk.append(self._elements.popleft())
        self._bytes -= sum(len(element.json) + 1 for element in chunk)
        return chunk


class Pulled:
    """An iterable: each chunk is filled, for the source never waits."""

    def __init__(
        self, source: Iterable[object], write: Callable[[int, object], Element], chunk_bytes: int
    ) -> None:
        self._rest = iter(source)
        self._ready = _Ready(write, chunk_bytes)
        self._error: Exception | None = None

    async def take(self) -> list[Element]:
        """Return the next elements; the source's own error after those that came before it."""
        while not self._ready.is_full and self._error is None:
            try:
                self._ready.add(next(self._rest))
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001  it is raised in its turn
                self._error = error
        if self._error is not None and not self._ready:
            raise self._error
        return self._ready.cut()

    async def aclose(self) -> None:
        """Leave the source."""


class Fed:
    """An async iterable: a chunk is what has come since the last one was taken."""

    def __init__(
        self,
        source: AsyncIterable[object],
        write: Callable[[int, object], Element],
        chunk_bytes: int,
    ) -> None:
        self._source = source
        self._ready = _Ready(write, chunk_bytes)
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def take(self) -> list[Element]:
        """Return the next elements, as soon as there is one."""
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="read the source")
        while not self._ready and not self._reader.done():
            self._news.clear()
            await self._news.wait()
        if not self._ready:
            self._reader.result()  # the source's own error
        self._room.set()
        return self._ready.cut()

    async def aclose(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _read(self) -> None:
        assert self._reader is not None
        self._reader.add_done_callback(lambda _: self._news.set())
        async for value in self._source:
            self._ready.add(value)
            self._news.set()
            while self._ready.is_full:
                self._room.clear()
                await self._room.wait()


async def in_order(
    intake: Intake,
    send: Callable[[list[Element]], Awaitable[list[EntryT]]],
    concurrency: int,
    deadline: float | None,
) -> AsyncGenerator[list[EntryT], None]:
    """Send a few chunks at a time; yield each one's entries when it is its turn.

    What fails (a chunk, the source, its waits at the deadline) is raised in its turn; what was
    before it has been yielded.
    """
    sending = _Sending(intake, send, concurrency, deadline)
    feeder = asyncio.create_task(sending.feed(), name="send chunks")
    try:
        while (entries := await sending.next()) is not None:
            yield entries
        await feeder
    finally:
        await sending.stop(feeder)


class _Sending(Generic[EntryT]):
    """The chunks on their way."""

    def __init__(
        self,
        intake: Intake,
        send: Callable[[list[Element]], Awaitable[list[EntryT]]],
        concurrency: int,
        deadline: float | None,
    ) -> None:
        self._deadline = deadline
        self._sent: asyncio.Queue[asyncio.Task[list[EntryT]] | None] = asyncio.Queue()
        self._window = asyncio.Semaphore(_AHEAD * concurrency)
        self._slots = asyncio.Semaphore(concurrency)
        self._intake = intake
        self._send = send
        self._tasks: set[asyncio.Task[list[EntryT]]] = set()
        self._has_failed = False

    async def feed(self) -> None:
        """Send until the source ends or something fails; the last thing sent is None."""
        try:
            while not self._has_failed:
                await self._window.acquire()
                await self._slots.acquire()
                chunk = await self._taken()
                if not chunk:
                    break
                task = asyncio.create_task(self._answered(chunk), name="chunk")
                self._tasks.add(task)
                self._sent.put_nowait(task)
        finally:
            self._sent.put_nowait(None)

    async def next(self) -> list[EntryT] | None:
        """Return the entries of the next chunk, and forget it; None after the last one."""
        task = await self._sent.get()
        if task is None:
            return None
        entries = await task
        self._tasks.discard(task)
        self._window.release()
        return entries

    async def stop(self, feeder: asyncio.Task[None]) -> None:
        """Cancel what is under way."""
        feeder.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(feeder, *self._tasks, return_exceptions=True)
        await self._intake.aclose()

    async def _taken(self) -> list[Element]:
        scope = asyncio.timeout_at(self._deadline)
        try:
            async with scope:
                return await self._intake.take()
        except TimeoutError as error:
            if not scope.expired():  # the source's own
                raise
            raise errors.DeadlineExceeded("the deadline passed; the source was slow") from error

    async def _answered(self, chunk: list[Element]) -> list[EntryT]:
        try:
            return await self._send(chunk)
        except errors.AssayError:
            self._has_failed = True
            raise
        finally:
            self._slots.release()
