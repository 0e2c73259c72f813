"""A request's body: its bytes while these are few, else what was parsed of them as they came."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from assay import wire
from assay.api import problems
from assay.api.holdings import worth
from assay.api.incremental_json import IncrementalParser
from assay.api.request_context import context_of
from assay.errors import (
    BodyTooLarge,
    InvalidField,
    MalformedBody,
    Overloaded,
    UnsupportedMedia,
    shown,
)
from assay.scoring import garbage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import Request

    from assay.api.holdings import Holding

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=wire.Request)
TAILED = "inference-header-content-length"  # says that binary tensors follow the JSON
MOST_WHOLE_BYTES = 262_144  # some milliseconds of one call, whatever is in them
MOST_OPAQUE_BYTES = 16 * 1024**2  # of what can't be parsed as it comes
_PARSED_ON_THE_LOOP_BYTES = 16_384
_JSON_BEGINS = {b"{", b"[", b""}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # UTF-8's; it marks nothing
_PAST_ASCII = 0x80  # what MessagePack's objects begin with, and no JSON
# What begins as a body does that isn't UTF-8, or in a coding of which nothing was said.
_UNSAID = (
    (re.compile(rb"\xff\xfe|\xfe\xff|\x00|[^\x80-\xff]\x00"), "UTF-16 or UTF-32; send UTF-8"),
    (re.compile(rb"\x1f\x8b"), "gzip; say so with 'Content-Encoding: gzip'"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd, which isn't taken; send gzip, or plain JSON"),
)


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
        Overloaded: Requests hold so much memory that there is no room for it.
        UnsupportedMedia: It is in a coding or charset that isn't taken.
        ClientDisconnect: The caller left before it was whole.
    """
    context = context_of(request)
    if context.body is None:
        context.body = await _received(request, context.holding)
    body: Body = context.body
    return body


async def body_of(request: Request, kind: type[RequestT], *, empty: bytes = b"") -> RequestT:
    """Read and validate the body of a native route; `empty` stands for one without a byte.

    Raises:
        MalformedBody: It isn't JSON.
        BodyTooLarge: It has more than one request may bring.
        InvalidField: A field is wrong, or one stands in the URL.
    """
    body = await read(request)
    if body.raw == b"":
        body = Body(empty)
    for name in request.query_params:
        raise InvalidField(
            f"this route takes no query parameter '{shown(name)}'; options are fields of the body",
            param=shown(name),
        )
    try:
        parsed = await body.parsed(kind.model_validate_json, kind.model_validate)
        garbage.note(vars(parsed).values())
        return parsed  # noqa: TRY300  noting can't fail
    except ValidationError as error:
        raise problems.from_validation(error, kind) from None


async def _received(request: Request, holding: Holding) -> Body:
    chunks = request.stream()
    try:
        return await _parsed_or_freed(chunks, holding, has_tail=TAILED in request.headers)
    except (BodyTooLarge, MalformedBody, Overloaded, UnsupportedMedia) as error:
        error.__traceback__ = error.__context__ = None  # they hold what was parsed
        holding.leave()
        async for _ in chunks:  # who still sends when the connection ends never sees the answer
            pass
        if isinstance(error, MalformedBody):
            return Body(None, error=error)
        raise


async def _parsed_or_freed(
    chunks: AsyncIterator[bytes], holding: Holding, *, has_tail: bool
) -> Body:
    """Return what came; with a tail behind its JSON it can't be parsed as it comes."""
    parser = IncrementalParser()
    try:
        return await _parsed(chunks, holding, parser, has_tail=has_tail)
    except BaseException:
        garbage.free(parser.lists)
        raise


async def _parsed(
    chunks: AsyncIterator[bytes],
    holding: Holding,
    incremental: IncrementalParser,
    *,
    has_tail: bool,
) -> Body:
    buffer = bytearray()
    parser: IncrementalParser | None = None
    size = 0
    async for chunk in chunks:
        buffer += chunk
        if parser is None:
            size += worth(chunk, is_json=not has_tail and _may_be_json(buffer))
            holding.take(size)
        if len(buffer) <= MOST_WHOLE_BYTES:
            continue
        if parser is None:
            buffer = _said(buffer)
        if parser is None and not has_tail and bytes(buffer.lstrip()[:1]) in _JSON_BEGINS:
            parser = incremental
        if parser is not None:
            await asyncio.to_thread(parser.feed, bytes(buffer))
            buffer.clear()
            holding.take(parser.worth)
        elif len(buffer) > MOST_OPAQUE_BYTES:
            raise BodyTooLarge(f"what isn't JSON may have {MOST_OPAQUE_BYTES} bytes")
    if parser is None:
        return Body(bytes(_said(buffer)))
    await asyncio.to_thread(parser.feed, bytes(buffer))
    holding.take(parser.worth)
    content = await asyncio.to_thread(parser.end)
    garbage.note(content.values() if isinstance(content, dict) else [content])
    return Body(None, content)


def _may_be_json(buffer: bytearray) -> bool:
    return not buffer or buffer[0] < _PAST_ASCII or buffer.startswith(_BYTE_ORDER_MARK)


def _said(buffer: bytearray) -> bytearray:
    """Return what begins a body without its byte-order mark.

    Raises:
        UnsupportedMedia: It can't be read as what its headers say.
    """
    for begin, encoding in _UNSAID:
        if begin.match(buffer):
            raise UnsupportedMedia(f"the body is {encoding}")
    return buffer.removeprefix(_BYTE_ORDER_MARK)
