"""How a body was spelt on its way: its content codings undone, its charset checked.

gzip (RFC 1952, of several members, too) and deflate (in zlib's format, as RFC 9110 has it, or bare,
as some send it), also several in a row. It is decoded as it comes, a piece at a time, and each
step is bounded as a body that came plain: what a bomb would grow to is never there. Bodies are
UTF-8. zstd and br aren't known: Python's own library has no decoder of theirs before 3.14.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import TYPE_CHECKING, Any

from assay.errors import BodyTooLarge, MalformedBody, UnsupportedMedia, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from starlette.types import Message, Receive

KNOWN = ("gzip", "deflate")
_ALIASES = {"x-gzip": "gzip"}
_MOST_CODINGS = 4  # in a row
_PIECE_BYTES = 262_144  # that one call may make: about a millisecond
_SLICE_BYTES = 16_384  # that are decoded at a stretch: it may be a thousand empty members
_GZIP, _ZLIB, _BARE = 31, 15, -15  # zlib's `wbits`
_CHARSET = re.compile(rb";\s*charset\s*=\s*\"?([^\s\";]+)", re.IGNORECASE)
_UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})  # and what is the same in UTF-8


def codings(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Return a body's codings in the order in which they were applied.

    Raises:
        UnsupportedMedia: One isn't known, or there are too many.
    """
    values = [value for name, value in headers if name == b"content-encoding"]
    named = [coding.strip().lower() for coding in b",".join(values).decode("latin-1").split(",")]
    applied = [_ALIASES.get(coding, coding) for coding in named if coding not in ("", "identity")]
    for name in applied:
        if name not in KNOWN:
            raise UnsupportedMedia(
                f"bodies in '{shown(name)}' aren't taken; send {' or '.join(KNOWN)}, or plain JSON",
                param="content-encoding",
            )
    if len(applied) > _MOST_CODINGS:
        raise UnsupportedMedia(
            f"a body may be encoded {_MOST_CODINGS} times at most", param="content-encoding"
        )
    return applied


def check_charset(content_type: bytes) -> None:
    """Refuse a charset that isn't UTF-8.

    Raises:
        UnsupportedMedia: It isn't.
    """
    match = _CHARSET.search(content_type)
    name = match[1].decode("latin-1").lower() if match else "utf-8"
    if name not in _UTF_8:
        raise UnsupportedMedia(
            f"bodies in the charset '{shown(name)}' aren't taken; send UTF-8", param="content-type"
        )


class Decoded:
    """What receives a body whose codings are undone.

    Args:
        receive: What receives the body as it comes.
        names: Its codings, as `codings` returns them.
        limit: How many bytes it may have, at each step.

    Raises (`receive`):
        MalformedBody: It isn't of its coding, or ends too early.
        BodyTooLarge: It has more bytes than the limit.
    """

    def __init__(self, receive: Receive, names: Sequence[str], limit: int) -> None:
        self._receive = receive
        self._steps = [_Step(name, limit) for name in reversed(names)]
        self._pieces: Iterator[bytes] = iter(())
        self._is_last = False  # what was received
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next piece, or what comes behind the body."""
        while not self._is_whole:
            piece = next(self._pieces, None)
            if piece is not None:
                await asyncio.sleep(0)  # others' turn: a chunk may have a thousand pieces
                return {"type": "http.request", "body": piece, "more_body": True}
            if self._is_last:
                return self._end()
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._pieces = self._decoded(message.get("body", b""), self._steps)
            self._is_last = not message.get("more_body", False)
        return await self._receive()

    def _decoded(self, data: bytes, steps: Sequence[_Step]) -> Iterator[bytes]:
        if not steps:
            yield data
            return
        for at in range(0, len(data), _SLICE_BYTES):
            for piece in steps[0].decoded(data[at : at + _SLICE_BYTES]):
                yield from self._decoded(piece, steps[1:])
            yield b""

    def _end(self) -> Message:
        for step in self._steps:
            step.check_end()
        self._is_whole = True
        return {"type": "http.request", "body": b"", "more_body": False}


class _Step:
    """One coding undone."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._stream: Any = None  # zlib's decompressor; none between a gzip's members
        self._waiting = b""
        self._bytes = 0
        self._has_ended = False

    def decoded(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes stand for."""
        self._waiting += data
        is_full = False  # there may be more of what was fed
        while is_full or self._waiting:
            if self._stream is None and not self._begin():
                return
            piece = self._piece()
            is_full = len(piece) == _PIECE_BYTES and self._stream is not None
            self._bytes += len(piece)
            if self._bytes > self._limit:
                raise BodyTooLarge(
                    f"the body exceeds {self._limit} bytes once it is decoded; send fewer items "
                    "at a time"
                )
            if piece:
                yield piece

    def check_end(self) -> None:
        """Refuse what isn't whole; nothing at all is."""
        if self._stream is not None or self._waiting:
            raise MalformedBody(f"the body ends before its {self._name} does; send it whole")

    def _begin(self) -> bool:
        """Begin a stream, if enough has come to know its format."""
        if self._name == "gzip":
            self._stream = zlib.decompressobj(_GZIP)
        elif self._has_ended:
            raise self._malformed()
        elif len(self._waiting) > 1:
            first, second = self._waiting[:2]
            is_zlib = first & 15 == zlib.DEFLATED and (first << 8 | second) % 31 == 0
            self._stream = zlib.decompressobj(_ZLIB if is_zlib else _BARE)
        return self._stream is not None

    def _piece(self) -> bytes:
        try:
            piece: bytes = self._stream.decompress(self._waiting, _PIECE_BYTES)
        except zlib.error:
            raise self._malformed() from None
        self._waiting = self._stream.unconsumed_tail
        if self._stream.eof:
            self._waiting, self._stream, self._has_ended = self._stream.unused_data, None, True
        return piece

    def _malformed(self) -> MalformedBody:
        return MalformedBody(f"the body is not valid {self._name}, as 'Content-Encoding' says")
