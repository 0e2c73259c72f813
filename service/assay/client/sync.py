"""The same client for code without asyncio: an `AsyncClient` on a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sized
from concurrent import futures
from itertools import islice
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from assay import wire
from assay.client.client import AsyncClient
from assay.client.retry import PATIENCE_S
from assay.client.route import SCORE
from assay.client.stream import CHUNK_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
    from typing import Unpack

    import httpx

    from assay.client import types

ResultT = TypeVar("ResultT")
StreamT = TypeVar("StreamT", bound="AsyncGenerator[Any, None]")
_LOOK_S = 0.01  # how often a source that waits is looked at


class Client:
    """`AsyncClient` for threads: the same arguments, the same answers, the same errors.

    Threads may share one. Use as a context manager, or call `close`: questions that are under way
    in other threads, and later ones, raise RuntimeError. A process that was forked opens
    connections of its own; a client can't be pickled, an adapter's reward can.

    An iterable without a length is read in another thread than the caller's: what belongs to one
    thread (a cursor of SQLite) is to be made a list first.
    """

    def __init__(
        self,
        *urls: str,
        api_key: str | None = None,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
        concurrency: int = 8,
        chunk_bytes: int = 1_000_000,
        patience_s: float = PATIENCE_S,
        retries: int | None = None,
        model: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        def build() -> AsyncClient:
            return AsyncClient(
                *urls,
                api_key=api_key,
                timeout_s=timeout_s,
                deadline_s=deadline_s,
                concurrency=concurrency,
                chunk_bytes=chunk_bytes,
                patience_s=patience_s,
                retries=retries,
                model=model,
                transport=transport,
            )

        self._thread = _Thread(build)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._thread.close()

    @overload
    def score(self, items: wire.ScoreRequest, /) -> wire.ScoreAnswer: ...
    @overload
    def score(
        self,
        items: types.AnItem,
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.ScoreOptions],
    ) -> wire.ScoreEntry: ...
    @overload
    def score(
        self,
        items: Iterable[types.AnItem],
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.ScoreOptions],
    ) -> list[wire.ScoreEntry]: ...
    def score(self, items: Any, /, *, progress: bool = False, **options: Any) -> Any:
        """Score an item, many, or a whole request; see `AsyncClient.score`."""
        things = _given(items)
        return self._thread.run(lambda client: client.score(things, progress=progress, **options))

    @overload
    def compare(self, comparisons: wire.CompareRequest, /) -> wire.CompareAnswer: ...
    @overload
    def compare(
        self,
        comparisons: types.AComparison,
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.CompareOptions],
    ) -> wire.CompareEntry: ...
    @overload
    def compare(
        self,
        comparisons: Iterable[types.AComparison],
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.CompareOptions],
    ) -> list[wire.CompareEntry]: ...
    def compare(self, comparisons: Any, /, *, progress: bool = False, **options: Any) -> Any:
        """Compare responses; see `AsyncClient.compare`."""
        things = _given(comparisons)
        return self._thread.run(lambda client: client.compare(things, progress=progress, **options))

    @overload
    def best_of_n(self, groups: wire.BestOfNRequest, /) -> wire.BestOfNAnswer: ...
    @overload
    def best_of_n(
        self,
        groups: types.AGroup,
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.BestOfNOptions],
    ) -> wire.BestOfNEntry: ...
    @overload
    def best_of_n(
        self,
        groups: Iterable[types.AGroup],
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.BestOfNOptions],
    ) -> list[wire.BestOfNEntry]: ...
    def best_of_n(self, groups: Any, /, *, progress: bool = False, **options: Any) -> Any:
        """Pick the best responses; see `AsyncClient.best_of_n`."""
        things = _given(groups)
        return self._thread.run(
            lambda client: client.best_of_n(things, progress=progress, **options)
        )

    def stream(
        self,
        items: Iterable[types.AnItem],
        /,
        *,
        progress: bool = False,
        **options: Unpack[types.ScoreOptions],
    ) -> Iterator[wire.ScoreEntry]:
        """Yield entries in order, as they come; see `AsyncClient.stream`."""
        things = _given(items)
        chunks = self._thread.enter(
            lambda client: client.chunks(SCORE, things, options, progress=progress)
        )
        try:
            while (entries := self._thread.run(lambda _: anext(chunks, None))) is not None:
                yield from entries
        finally:
            self._thread.leave(chunks)

    def models(self) -> wire.ModelList:
        """List what is served; see `AsyncClient.models`."""
        return self._thread.run(lambda client: client.models())

    def model(self, name: str) -> wire.ModelDetail:
        """Describe one target; see `AsyncClient.model`."""
        return self._thread.run(lambda client: client.model(name))


class _Thread:
    """A client and the event loop it lives on; the loop begins with the first question."""

    def __init__(self, build: Callable[[], AsyncClient]) -> None:
        self.client = build()
        self._build = build
        self._opening = threading.RLock()  # a stream may be collected while it is held
        self._owner = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._streams: set[AsyncGenerator[Any, None]] = set()

    def run(self, ask: Callable[[AsyncClient], Awaitable[ResultT]]) -> ResultT:
        """Return what the client answers; interrupted, take the question back.

        Raises:
            RuntimeError: The client is closed, or was closed meanwhile.
        """
        future = self._begin(ask)
        try:
            return future.result()
        except futures.CancelledError:
            if self._is_closed:
                raise RuntimeError("the client was closed while it was asked") from None
            raise
        except BaseException:
            future.cancel()
            raise

    def enter(self, begin: Callable[[AsyncClient], StreamT]) -> StreamT:
        """Begin a stream, which is to be left."""
        chunks = begin(self.client)
        self._streams.add(chunks)
        return chunks

    def leave(self, chunks: AsyncGenerator[Any, None]) -> None:
        """End a stream, unless closing the client or a fork has."""
        with self._opening:
            self._streams.discard(chunks)
            if self._is_closed or self._owner != os.getpid():
                return
            future = self._begin(lambda _: _left(chunks))
        if threading.current_thread() is not self._thread:  # where a stream may be collected, too
            futures.wait([future])

    def close(self) -> None:
        """Take back what is asked, close the connections, stop the loop, end the thread."""
        with self._opening:
            loop, thread = self._loop, self._thread
            is_first, self._is_closed = not self._is_closed, True
            if not is_first or loop is None or thread is None or self._owner != os.getpid():
                return
            ended = asyncio.run_coroutine_threadsafe(self._end(), loop)
        ended.result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        _threads.discard(self)

    def _begin(self, ask: Callable[[AsyncClient], Awaitable[ResultT]]) -> futures.Future[ResultT]:
        async def asking() -> ResultT:
            return await ask(self.client)

        with self._opening:
            loop = self._open()
            return asyncio.run_coroutine_threadsafe(asking(), loop)

    def _open(self) -> asyncio.AbstractEventLoop:
        if self._is_closed:
            raise RuntimeError("the client is closed; make another one")
        if self._owner != os.getpid():  # a fork has the parent's connections, but no thread
            self._owner, self._loop, self.client = os.getpid(), None, self._build()
            self._streams = set()
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="assay client", daemon=True
            )
            self._thread.start()
            _threads.add(self)
        return self._loop

    async def _end(self) -> None:
        asking = asyncio.all_tasks() - {asyncio.current_task()}
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        for chunks in list(self._streams):
            await _left(chunks)
        await self.client.aclose()


_threads: weakref.WeakSet[_Thread] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what the program left open: a stream that is collected later would wait for ever."""
    for thread in list(_threads):
        thread.close()


async def _left(chunks: AsyncGenerator[Any, None]) -> None:
    """Close a stream; its last step may have been taken back a moment ago."""
    while isinstance(chunks, AsyncGeneratorType) and chunks.ag_running:  # noqa: ASYNC110  it has no event
        await asyncio.sleep(0)
    await chunks.aclose()


def _given(things: Any) -> Any:
    """Return things to ask about; what may block while it is read becomes an async iterable."""
    is_lazy = isinstance(things, Iterable) and not isinstance(things, Sized | wire.Request)
    return _sliced(things) if is_lazy else things


async def _sliced(source: Iterable[object]) -> AsyncIterator[object]:
    """Read in a thread; yield what there is while the source makes the thread wait."""
    rest = iter(source)
    goes_on = True
    while goes_on:
        some: deque[object] = deque()
        reading = _aside(_read, rest, some)
        try:
            while some or not reading.done():
                while some:
                    yield some.popleft()
                await asyncio.wait([reading], timeout=_LOOK_S)
        finally:
            reading.cancel()
        goes_on = reading.result()


def _aside(read: Callable[..., bool], *args: object) -> asyncio.Future[bool]:
    """Call in a thread that a process doesn't wait for at its end: a source may block for ever."""
    done: futures.Future[bool] = futures.Future()
    done.set_running_or_notify_cancel()  # who stops to wait doesn't cancel it
    context = contextvars.copy_context()

    def work() -> None:
        try:
            done.set_result(context.run(read, *args))
        except BaseException as error:  # noqa: BLE001  it is raised where the source is given
            done.set_exception(error)

    threading.Thread(target=work, name="assay source", daemon=True).start()
    return asyncio.wrap_future(done)


def _read(rest: Iterator[object], some: deque[object]) -> bool:
    """Read some of a source; return whether there may be more."""
    read = 0
    for value in islice(rest, CHUNK_ELEMENTS):
        some.append(value)
        read += 1
    return read == CHUNK_ELEMENTS
