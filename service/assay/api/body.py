"""A request's body: its bytes while these are few, else what was parsed of them as they came."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from assay import wire
from assay.api import problems
from assay.api.piecemeal import Parser
from assay.errors import BodyTooLarge, MalformedBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import Request

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=wire.Request)
MOST_WHOLE_BYTES = 262_144  # some milliseconds of one call, whatever is in them
MOST_OPAQUE_BYTES = 16 * 1024**2  # of what can't be parsed as it comes
_PARSED_ON_THE_LOOP_BYTES = 16_384
_JSON_BEGINS = {b"{", b"[", b""}


@dataclass(frozen=True, slots=True)
class Body:
    """What came: `raw`, or `content` where it was parsed on the way, or why that can't be done."""

    raw: bytes | None
    content: Any = None
    error: MalformedBody | None = None

    async def parsed(self, parse: Callable[[bytes], T], check: Callable[[Any], T]) -> T:
        """Return what `parse` makes of the bytes, or `check` of the content; off the loop if large.

        Raises:
            MalformedBody: It was to be parsed on the way, and isn't JSON.
        """
        if self.error is not None:
            raise self.error
        if self.raw is None:
            return await asyncio.to_thread(check, self.content)
        if len(self.raw) <= _PARSED_ON_THE_LOOP_BYTES:
            return parse(self.raw)
        return await asyncio.to_thread(parse, self.raw)


async def read(request: Request) -> Body:
    """Return the body; the same one when it is read again.

    Raises:
        BodyTooLarge: It has more than one request may bring.
        ClientDisconnect: The caller left before it was whole.
    """
    known: Body | None = getattr(request.state, "body", None)
    if known is None:
        known = request.state.body = await _received(request)
    return known


async def body_of(request: Request, kind: type[RequestT]) -> RequestT:
    """Read and validate the body of a native route.

    Raises:
        MalformedBody: It isn't JSON.
        BodyTooLarge: It has more than one request may bring.
        InvalidField: A field is wrong.
    """
    body = await read(request)
    try:
        return await body.parsed(kind.model_validate_json, kind.model_validate)
    except ValidationError as error:
        raise problems.from_validation(error, kind) from None


async def _received(request: Request) -> Body:
    chunks = request.stream()
    try:
        return await _taken(chunks)
    except (BodyTooLarge, MalformedBody) as error:
        async for _ in chunks:  # who still sends when the connection ends never sees the answer
            pass
        if isinstance(error, BodyTooLarge):
            raise
        return Body(None, error=error)


async def _taken(chunks: AsyncIterator[bytes]) -> Body:
    buffer = bytearray()
    parser: Parser | None = None
    async for chunk in chunks:
        buffer += chunk
        if len(buffer) <= MOST_WHOLE_BYTES:
            continue
        if parser is None and bytes(buffer.lstrip()[:1]) in _JSON_BEGINS:
            parser = Parser()
        if parser is not None:
            await asyncio.to_thread(parser.feed, bytes(buffer))
            buffer.clear()
        elif len(buffer) > MOST_OPAQUE_BYTES:
            raise BodyTooLarge(f"what isn't JSON may have {MOST_OPAQUE_BYTES} bytes")
    if parser is None:
        return Body(bytes(buffer))
    await asyncio.to_thread(parser.feed, bytes(buffer))
    return Body(None, await asyncio.to_thread(parser.end))
