"""An upgrade of the protocol that a request offers, passed over: it is answered as it stands.

A server may ignore `Upgrade` (RFC 9110, section 7.8), and every HTTP client of the JDK offers h2c
first. llhttp ends its message behind such a head, whatever its length says: what follows would be
of the other protocol. So another parser takes over there, which has seen no more of the head than
how long its body is.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class RequestParser:
    """httptools' parser of a connection's requests, which has the methods that uvicorn calls."""

    def __init__(self, connection: HttpToolsProtocol) -> None:
        self._connection = connection
        self._use(_request_parser(connection))
        self.is_replaying = False  # a head that the connection has seen

    @property
    def passes_over(self) -> bool:
        """Whether the message at hand offers an upgrade: its end is not where it seems to be."""
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def should_upgrade(self) -> bool:
        """Tell whether the message at hand offers an upgrade."""
        offers: bool = self._parser.should_upgrade()
        return offers

    def feed_data(self, data: bytes) -> None:
        """Parse what came.

        Raises:
            HttpParserError: It isn't HTTP.
            HttpParserUpgrade: A tunnel is asked for.
        """
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self.passes_over:
                    raise
                data = data[upgrade.args[0] :]
                self._take_over()
            else:
                return

    def _take_over(self) -> None:
        """Let a new parser go on behind the head."""
        lines = [
            b"%b: %b\r\n" % header for header in self._connection.headers if header[0] in _FRAMING
        ]
        self._use(_request_parser(self._connection))
        self.is_replaying = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lines))
        self.is_replaying = False

    def _use(self, parser: httptools.HttpRequestParser) -> None:
        self._parser = parser
        self.get_http_version = parser.get_http_version
        self.get_method = parser.get_method
        self.should_keep_alive = parser.should_keep_alive


def _request_parser(connection: HttpToolsProtocol) -> httptools.HttpRequestParser:
    """Return a parser as uvicorn makes it: what follows a last request is let pass."""
    parser = httptools.HttpRequestParser(connection)
    with contextlib.suppress(AttributeError):  # httptools before 0.6.3
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
