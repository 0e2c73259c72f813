"""Bytes to a server, exactly as given, and the answers that come back."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.fuzz.conftest import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

WAIT_S = 30.0
KEPT = b"Connection: keep-alive"
CHUNKED = b"Transfer-Encoding: chunked"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's content."""
        return json.loads(self.body)


class _Bytes:
    """What `http.client` reads answers from."""

    def __init__(self, stream: BytesIO) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> BytesIO:
        return self._stream


class _Kept(BytesIO):
    def close(self) -> None:
        """Stay open for the next answer."""


def request(
    path: str, body: bytes = b"", *headers: bytes, method: str = "POST", key: str | None = KEY
) -> bytes:
    """Return a request with a key, the last on its connection unless the headers say otherwise.

    Its length is stated unless they say how it ends.
    """
    lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), b"Host: x", *headers]
    if not any(one.lower().startswith(b"connection") for one in headers):
        lines.append(b"Connection: close")
    if key is not None:
        lines.append(f"Authorization: Bearer {key}".encode())
    if not any(one.lower().startswith((b"content-length", b"transfer-")) for one in headers):
        lines.append(f"Content-Length: {len(body)}".encode())
    return b"\r\n".join([*lines, b"", b""]) + body


def score(*headers: bytes, **body: Any) -> bytes:
    """Return a request to score."""
    return request("/score", json.dumps(body).encode(), *headers)


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    """Return an open connection."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=WAIT_S) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:  # closed while something of ours was unread
        pass
    return b"".join(parts)


def answers(content: bytes) -> list[Answer]:
    """Return the answers in what a server sent."""
    stream, found = _Kept(content), []
    while stream.tell() < len(content):
        response = http.client.HTTPResponse(_Bytes(stream))  # type: ignore[arg-type]
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        found.append(Answer(response.status, headers, response.read()))
    return found


def exchange(server: Server, sent: bytes) -> list[Answer]:
    """Send bytes and then nothing more; return what comes until the server closes."""
    with connected(server) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # the server has seen enough
            connection.sendall(sent)
        return answers(rest(connection))


def one(server: Server, sent: bytes) -> Answer:
    """Return the only answer to a request."""
    (answer,) = exchange(server, sent)
    return answer
