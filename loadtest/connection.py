"""One HTTP/1.1 connection that costs the client little, for it shares the cores with the server.

asyncio's transport and httptools' parser, the pieces uvicorn is made of; no cookies, redirects,
proxies or pools. See README.md for what it costs beside other clients.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpResponseParser


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a server listens."""

    host: str
    port: int
    is_tls: bool = False

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of a URL such as http://127.0.0.1:8000.

        Raises:
            ValueError: It isn't one of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url} is not an HTTP URL")
        is_tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if is_tls else 80), is_tls)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """Return the bytes of a POST of JSON."""
        return self._request("POST", path, body, {"Content-Type": "application/json", **headers})

    def get(self, path: str, headers: dict[str, str]) -> bytes:
        """Return the bytes of a GET."""
        return self._request("GET", path, b"", headers)

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body


class Connection(asyncio.Protocol):
    """A connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser = HttpResponseParser(self)
        self._body: list[bytes] = []
        self.headers: dict[bytes, bytes] = {}  # of the last answer, their names in lower case
        self.unasked = 0  # answers that no request waited for

    @classmethod
    async def open(cls, origin: Origin) -> Self:
        """Connect.

        Raises:
            OSError: Nobody listens, or the connection is refused.
        """
        context = ssl.create_default_context() if origin.is_tls else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, origin.host, origin.port, ssl=context)
        return connection

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send the bytes of a request; return the answer's status and body.

        Raises:
            ConnectionError: The server closed the connection, or didn't speak HTTP.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio calls this)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Parse what came (asyncio calls this)."""
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits (asyncio calls this)."""
        self._fail(ConnectionResetError(str(exc or "the server closed the connection")))

    def on_message_begin(self) -> None:
        """Forget the answer before (the parser calls this)."""
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (the parser calls this)."""
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body (the parser calls this)."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the answer over (the parser calls this)."""
        body = b"".join(self._body)
        self._body.clear()
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), body))
        else:
            self.unasked += 1

    def _fail(self, error: ConnectionError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
