"""One POST, whatever its contract: the body parsed, the answer awaited unless the caller leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from assay import wire
from assay.api import problems

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import Request

    from assay.scoring.scorer import Scorer

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=wire.Request)
CLIENT_CLOSED_REQUEST = 499
_PARSED_ON_THE_LOOP_BYTES = 16_384


def scorer_of(request: Request) -> Scorer:
    """Return the scorer that this request met: it stays the same to the end."""
    scorer: Scorer = request.state.scorer
    return scorer


async def parsed(body: bytes, parse: Callable[[bytes], T]) -> T:
    """Parse a body; a large one off the loop."""
    if len(body) <= _PARSED_ON_THE_LOOP_BYTES:
        return parse(body)
    return await asyncio.to_thread(parse, body)


async def body_of(request: Request, kind: type[RequestT]) -> RequestT:
    """Read and validate the body; a large one off the loop.

    Raises:
        MalformedBody: It isn't JSON.
        InvalidField: A field is wrong.
    """
    body = await request.body()
    try:
        return await parsed(body, kind.model_validate_json)
    except ValidationError as error:
        raise problems.from_validation(error, kind) from None


async def unless_gone(request: Request, answer: Awaitable[T]) -> T:
    """Await the answer, or give it up when the caller hangs up.

    Raises:
        ClientDisconnect: The caller did.
    """
    work = asyncio.current_task()
    assert work is not None
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        work.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await answer
    except asyncio.CancelledError:
        if is_gone and not work.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
