"""A typed client for asyncio: native questions in, native answers out, errors as the server's tree.

Requests are idempotent, so a chunk that gets no answer is sent again as a whole: nothing is lost,
and nothing is answered twice.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, Iterable, Sized
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from urllib.parse import quote

from assay import wire
from assay.client import clock
from assay.client import progress as bars
from assay.client import stream as streams
from assay.client.chunk import ClientCall
from assay.client.coalescing import Together
from assay.client.pool import Pool
from assay.client.retry import PATIENCE_S
from assay.client.route import BEST_OF_N, COMPARE, SCORE, Route, written

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Unpack

    import httpx

    from assay.client import types

EntryT = TypeVar("EntryT", bound=wire.Entry)


class AsyncClient:
    """One or more servers' native routes. Use as an async context manager, or call `aclose`.

    A client is of one event loop; where that is closed, of the next that asks. It can't be pickled;
    an adapter's reward can.

    Args:
        urls: Servers of the same models; the one with the least to do is asked.
        api_key: Sent as a bearer token.
        timeout_s: Longest silence of a server; None waits as long as it lives.
        deadline_s: Longest a call may take, its retries and its source's waits included;
            `deadline_ms` overrides it. With several servers a try has a share of it.
        concurrency: Chunks of one call that are under way together. Calls share 32 slots a server
            (more where `concurrency` is); calls about one thing that wait for one with the same
            options share a request.
        chunk_bytes: About the size of a request's body.
        patience_s: How long a request is sent again that gets no answer: a restart of the server
            shall fit in. It begins with the first failure; an address that never answered gets
            three tries.
        retries: How often at most; None doesn't count.
        model: The default of the option `model`.
        transport: In place of the network.
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
        self._build = functools.partial(
            Pool,
            urls,
            api_key=api_key,
            timeout_s=timeout_s,
            patience_s=patience_s,
            retries=retries,
            concurrency=concurrency,
            transport=transport,
        )
        self._open()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._deadline_s = deadline_s
        self._concurrency = concurrency
        self._chunk_bytes = chunk_bytes
        self._defaults = {} if model is None else {"model": model}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; what is asked meanwhile or later raises RuntimeError."""
        if self._is_closed:
            return
        self._come_here()
        self._is_closed = True
        await self._together.aclose()
        await self._pool.aclose()

    @overload
    async def score(self, items: wire.ScoreRequest, /) -> wire.ScoreAnswer: ...
    @overload
    async def score(
        self,
        items: types.AnItem,
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.ScoreOptions],
    ) -> wire.ScoreEntry: ...
    @overload
    async def score(
        self,
        items: types.Several[types.AnItem],
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.ScoreOptions],
    ) -> list[wire.ScoreEntry]: ...
    async def score(self, items: Any, /, *, progress: bool = False, **options: Any) -> Any:
        """Score an item, many, or a whole request (`POST /score`).

        One item gives its entry, an iterable of any length a list of them in its order, a
        `wire.ScoreRequest` the whole `wire.ScoreAnswer`. An item is a dict, a `wire.Item`, or a
        tuple of prompt and response.

        Raises:
            RequestError: An item or an option is refused; with `on_error="item"` an item's entry
                has its `error` instead.
            NotReady, Overloaded, Draining: No server answered, whatever was tried.
            DeadlineExceeded: The deadline passed; with `on_error="item"` only where the source was
                waited for, else it is in the entries.
            AssayError: Any other error of the server, of the server's class.
        """
        return await self._answer(SCORE, items, options, progress=progress)

    @overload
    async def compare(self, comparisons: wire.CompareRequest, /) -> wire.CompareAnswer: ...
    @overload
    async def compare(
        self,
        comparisons: types.AComparison,
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.CompareOptions],
    ) -> wire.CompareEntry: ...
    @overload
    async def compare(
        self,
        comparisons: types.Several[types.AComparison],
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.CompareOptions],
    ) -> list[wire.CompareEntry]: ...
    async def compare(self, comparisons: Any, /, *, progress: bool = False, **options: Any) -> Any:
        """Compare responses (`POST /compare`), as `score` does; a tuple is prompt and responses."""
        return await self._answer(COMPARE, comparisons, options, progress=progress)

    @overload
    async def best_of_n(self, groups: wire.BestOfNRequest, /) -> wire.BestOfNAnswer: ...
    @overload
    async def best_of_n(
        self,
        groups: types.AGroup,
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.BestOfNOptions],
    ) -> wire.BestOfNEntry: ...
    @overload
    async def best_of_n(
        self,
        groups: types.Several[types.AGroup],
        /,
        *,
        progress: bool = ...,
        **options: Unpack[types.BestOfNOptions],
    ) -> list[wire.BestOfNEntry]: ...
    async def best_of_n(self, groups: Any, /, *, progress: bool = False, **options: Any) -> Any:
        """Pick the best responses (`POST /best-of-n`), as `score` does; a tuple as in `compare`."""
        return await self._answer(BEST_OF_N, groups, options, progress=progress)

    async def stream(
        self,
        items: types.Several[types.AnItem],
        /,
        *,
        progress: bool = False,
        **options: Unpack[types.ScoreOptions],
    ) -> AsyncGenerator[wire.ScoreEntry, None]:
        """Yield the entries of items in their order, as they come; raises as `score`.

        The source is read as its items can be sent; it may be endless. `on_error` is "item"
        unless given.
        """
        async with aclosing(self.chunks(SCORE, items, options, progress=progress)) as chunks:
            async for entries in chunks:
                for entry in entries:
                    yield entry

    async def models(self) -> wire.ModelList:
        """List what is served (`GET /models`); raises as `score`."""
        deadline = None if self._deadline_s is None else clock.now() + self._deadline_s
        self._come_here()
        return await self._pool.get("/models", wire.ModelList, deadline)

    async def model(self, name: str) -> wire.ModelDetail:
        """Describe one target by its name or an alias (`GET /models/{name}`); raises as `score`."""
        deadline = None if self._deadline_s is None else clock.now() + self._deadline_s
        self._come_here()
        path = f"/models/{quote(name, safe='').replace('.', '%2E')}"
        return await self._pool.get(path, wire.ModelDetail, deadline)

    async def chunks(
        self,
        route: Route[EntryT],
        things: Any,
        options: Any,
        *,
        progress: bool = False,
    ) -> AsyncGenerator[list[EntryT], None]:
        """Yield entries in order, a chunk at a time, a bad thing failing alone unless told."""
        call = self._call(route, {"on_error": "item", **options})
        total = len(things) if isinstance(things, Sized) else None
        answers = streams.in_order(
            self._intake(route, things), call.send, self._concurrency, call.deadline
        )
        with bars.bar(total, enabled=progress) as advance:
            async with aclosing(answers):
                async for entries in answers:
                    advance(len(entries))
                    yield entries

    async def _answer(
        self, route: Route[EntryT], things: Any, options: dict[str, Any], *, progress: bool
    ) -> Any:
        if isinstance(things, route.request):
            return await self._whole(route, things)
        if route.is_one(things):
            call = self._call(route, options)
            return await self._together.ask(call, route.element(0, things))
        if isinstance(things, str | bytes | wire.Request) or not isinstance(
            things, Iterable | AsyncIterable
        ):
            raise route.strange(things)
        strict = {"on_error": "fail", **options}
        if isinstance(things, list) and len(things) == 1 and not progress:
            call = self._call(route, strict)
            return [await self._together.ask(call, route.element(0, things[0]))]
        async with aclosing(self.chunks(route, things, strict, progress=progress)) as chunks:
            return [entry async for entries in chunks for entry in entries]

    async def _whole(self, route: Route[EntryT], request: wire.Options) -> wire.Envelope:
        if request.model is None and self._defaults:
            request = request.model_copy(update=self._defaults)
        call = self._call(route, {"deadline_ms": request.deadline_ms})
        fields = written(request, "deadline_ms")
        async with self._pool.slot(call.deadline):
            return await self._pool.post(route.path, route.answer, fields[1:-1], call.deadline)

    def _open(self) -> None:
        self._pool = self._build()
        self._together = Together(self._pool)

    def _come_here(self) -> None:
        """Be of the running loop: connections end with theirs.

        Raises:
            RuntimeError: The client is closed, or another loop that goes on has it.
        """
        if self._is_closed:
            raise RuntimeError("the client is closed; make another one")
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            if self._loop and not self._loop.is_closed():
                raise RuntimeError(
                    "the client belongs to another event loop; make one a loop, or use Client"
                )
            self._open()
        self._loop = loop

    def _call(self, route: Route[EntryT], options: dict[str, Any]) -> ClientCall[EntryT]:
        self._come_here()
        return ClientCall.of(self._pool, route, {**self._defaults, **options}, self._deadline_s)

    def _intake(self, route: Route[EntryT], things: Any) -> streams.Intake:
        kind = streams.Fed if isinstance(things, AsyncIterable) else streams.Pulled
        return kind(things, route.element, self._chunk_bytes)
