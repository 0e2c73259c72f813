"""One connection, bounded before any route is asked: their number, the size and time of a head.

The promise it keeps: whoever sends nothing, or reads nothing, costs no one else anything
(`loadtest.attacks`, `loadtest chaos`). What it uses of uvicorn that has no public name is listed in
`tests/test_private_interfaces.py`.

uvicorn has no bound on a head, and a caller that sends a byte now and then keeps it from closing a
connection. Nor has it one on how long a caller may leave an answer unread. An upgrade that is
offered is passed over. A body's bounds are `frame`'s; what comes after an answer was sent is read
for as long as an idle connection is kept.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from assay.api.upgrade import RequestParser
from assay.errors import Overloaded

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

MAX_HEAD_BYTES = 65_536  # of the first line and all headers; trailers count, too
_AROUND_HEADER_BYTES = len(": \r\n")
_SLOWEST_BYTES_PER_S = 16_384  # that a caller reads
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


_TOO_MANY_BODY = json.dumps(
    {
        "error": {
            "code": Overloaded.code,
            "message": "the server has as many connections as it may; come back later",
            "retryable": Overloaded.retryable,
        }
    }
).encode()
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_TOO_MANY_BODY), _TOO_MANY_BODY)
)


class HeadTooLarge(Exception):
    """A head has more bytes than `MAX_HEAD_BYTES`."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with these bounds; `bounded` sets the times and who is told."""

    head_timeout_s = 60.0
    write_timeout_s = 60.0
    on_refusal: Callable[[], None] | None = None
    most_connections: float = math.inf
    on_crowd: Callable[[], None] | None = None
    on_cut_off: Callable[[], None] | None = None
    _reading_alarm: asyncio.TimerHandle | None = None  # while an answer waits to be read
    _read_by: float | None = None  # when the answer at hand has to have been
    _unread_bytes = 0
    _alarm: asyncio.TimerHandle | None = None
    _head_bytes = 0  # of the lines that are whole
    _received_bytes = 0  # since the chunk that the head began in
    _is_in_head = True
    _has_begun = False  # a message, in what was received last

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser: RequestParser = RequestParser(self)  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head, or hang up where that is one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            if self.on_crowd is not None:
                self.on_crowd()
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._head_came()
        self._was_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; only a message that begins keeps the connection for longer."""
        idle, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        self._has_begun = False
        super().data_received(data)
        if idle is not None and (self._has_begun or self.timeout_keep_alive_task is not None):
            idle.cancel()
        elif idle is not None:
            self.timeout_keep_alive_task = idle
        if self._is_in_head and not self._has_begun and not self.transport.is_closing():
            self._received_bytes += len(data)
            if self._received_bytes > MAX_HEAD_BYTES:
                self._refuse()

    def send_400_response(self, msg: str) -> None:
        """Answer what can't be parsed, or has too large a head."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        if self.parser.is_replaying:
            return
        super().on_message_begin()
        self._head_bytes = self._received_bytes = 0
        self._has_begun = True
        self._expect_head()
        if not self.flow.write_paused:
            self._was_read()

    def on_url(self, url: bytes) -> None:
        """Take a part of the first line."""
        if self.parser.is_replaying:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header or trailer."""
        if self.parser.is_replaying:
            return
        self._count(len(name) + len(value) + _AROUND_HEADER_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let the request go its way."""
        if self.parser.is_replaying:
            return
        self._is_in_head = False
        self._head_came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request, unless that is only where another protocol would begin."""
        if not self.parser.passes_over:
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait until the caller reads."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Give the caller as much longer as what was read may take."""
        super().resume_writing()
        self._was_read()
        if self._read_by is not None:
            read = self._unread_bytes - self.transport.get_write_buffer_size()
            self._read_by += read / _SLOWEST_BYTES_PER_S

    def on_response_complete(self) -> None:
        """Wait until the caller has read the rest, also where the connection ends with it."""
        super().on_response_complete()
        self._was_read()
        self._read_by = None
        if self.transport.get_write_buffer_size():
            self._expect_reading()

    def _expect_reading(self) -> None:
        if self._read_by is None:
            self._read_by = self.loop.time() + self.write_timeout_s
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._reading_alarm = self.loop.call_at(self._read_by, self._cut_off)

    def _was_read(self) -> None:
        if self._reading_alarm is not None:
            self._reading_alarm.cancel()
            self._reading_alarm = None

    def _cut_off(self) -> None:
        if self.transport.get_write_buffer_size():
            if self.on_cut_off is not None:
                self.on_cut_off()
            self.transport.abort()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: there is nothing to install."""

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge

    def _expect_head(self) -> None:
        self._head_came()
        self._is_in_head = True
        self._alarm = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _head_came(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self) -> None:
        self.logger.warning("A head of more than %d bytes was refused.", MAX_HEAD_BYTES)
        if self.on_refusal is not None:
            self.on_refusal()
        self.transport.write(_TOO_LARGE)
        self.transport.close()


def bounded(
    head_timeout_s: float,
    write_timeout_s: float,
    *,
    on_refusal: Callable[[], None],
    on_cut_off: Callable[[], None],
    most_connections: float = math.inf,
    on_crowd: Callable[[], None] = lambda: None,
) -> type[Connection]:
    """Return the class of connections whose heads, and whose callers' reading, may take so long.

    There may be so many. It tells of heads that are too large, of callers who were cut off, and of
    connections that were one too many.
    """
    members = {
        "head_timeout_s": head_timeout_s,
        "write_timeout_s": write_timeout_s,
        "on_refusal": staticmethod(on_refusal),
        "on_cut_off": staticmethod(on_cut_off),
        "most_connections": most_connections,
        "on_crowd": staticmethod(on_crowd),
    }
    return type("Connection", (Connection,), members)
