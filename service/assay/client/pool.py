"""The servers behind a client: the one with the least to do is asked, one that fails rests.

Silence until a deadline is a failure, too. While others can be asked, a try has its share of what
is left of the deadline: a server that hangs doesn't swallow the call. All are taken for equals:
the same models under the same names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import httpx

from assay import errors, wire
from assay.client import clock, proxies, response_parsing, retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

AnswerT = TypeVar("AnswerT", bound=wire.Answer)
logger = logging.getLogger("assay.client")
_CONNECT_S = 10.0
_CONNECTIONS = 256
_SLOTS = 32  # requests to a server that are under way: what httpcore does for each grows with them
_KEEP_ALIVE_S = 60.0  # below the server's 75
_LONGEST_REST_S = 30.0
_LONGEST_DEADLINE_MS = 86_400_000
GRACE_S = 0.25  # for the way back of an answer given at the deadline
_ROUTES = {"score", "compare", "best-of-n", "tokenize", "models"}
_answered: set[str] = set()  # addresses; pools come and go with event loops
_TOO_LATE = "the deadline passed before the request was sent"


@dataclass(slots=True, eq=False)
class PooledServer:
    """One address: what it has to do, and since when it fails."""

    url: str
    proxy: proxies.Proxy | None = None
    pending: int = 0
    asked: int = 0
    failures: int = 0
    failed_at: float = -math.inf
    rests_until: float = -math.inf

    def is_open(self, now: float) -> bool:
        """Whether to send to it; after a rest, one request tries it for all."""
        return not self.failures or (now >= self.rests_until and not self.pending)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Count a request, and whether it was answered."""
        begin = clock.now()
        self.pending += 1
        self.asked += 1
        try:
            yield
        except (*response_parsing.AWAY, retry.Unfinished) as error:
            self._fail(begin, error)
            raise
        except errors.DeadlineExceeded as error:
            if isinstance(error.__cause__, TimeoutError):  # it was silent; else it answered so
                self._fail(begin, error)
            else:
                self.failures = 0
            raise
        except errors.AssayError:
            self.failures = 0
            raise
        else:
            self.failures = 0
        finally:
            self.pending -= 1

    def _fail(self, begin: float, error: Exception) -> None:
        """Rest; requests that were under way together count as one failure."""
        now = clock.now()
        if not self.failures or begin >= self.failed_at:
            self.failures += 1
            self.failed_at = now
            logger.warning("%s: %s", self.url, error)
        rest_s = min(0.25 * 2**self.failures, _LONGEST_REST_S)
        stated_s = getattr(error, "retry_after_s", None) or 0.0
        self.rests_until = max(self.rests_until, self.failed_at + rest_s, now + stated_s)


class Pool:
    """Servers and the connections to them."""

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        api_key: str | None,
        timeout_s: float | None,
        patience_s: float,
        retries: int | None,
        concurrency: int,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        if not urls:
            raise errors.InvalidField("give the URL of a server", param="urls")
        checked = [_checked(url) for url in urls]
        self.servers = [
            PooledServer(url, None if transport else proxies.of(url)) for url in checked
        ]
        self.patience_s = patience_s
        self.retries = retries
        self._slots = asyncio.Semaphore(max(_SLOTS, concurrency) * len(urls))
        limits = httpx.Limits(
            max_connections=_CONNECTIONS,
            max_keepalive_connections=_CONNECTIONS,
            keepalive_expiry=_KEEP_ALIVE_S,
        )
        headers = {"Authorization": f"Bearer {_key(api_key)}"} if api_key else {}
        self._http = httpx.AsyncClient(
            headers=headers,
            limits=limits,
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S, pool=None),
            transport=transport
            or httpx.AsyncHTTPTransport(limits=limits, socket_options=_keep_alive()),
            mounts=_mounts(self.servers, limits),
            trust_env=False,  # what the environment says of proxies is in the mounts
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @contextlib.asynccontextmanager
    async def slot(self, deadline: float | None) -> AsyncIterator[None]:
        """Wait for one of a bounded number of requests, its tries included.

        Raises:
            DeadlineExceeded: The deadline passed before there was one.
        """
        try:
            async with asyncio.timeout(None if deadline is None else deadline - clock.now()):
                await self._slots.acquire()
        except TimeoutError as error:
            raise errors.DeadlineExceeded(_TOO_LATE) from error
        try:
            yield
        finally:
            self._slots.release()

    @property
    def has_answered(self) -> bool:
        """Whether one of the servers ever answered this process, whichever pool asked."""
        return any(server.url in _answered for server in self.servers)

    def stands_in(self) -> bool:
        """Whether a server can be asked at once."""
        now = clock.now()
        return any(server.is_open(now) for server in self.servers)

    async def get(self, path: str, kind: type[AnswerT], deadline: float | None) -> AnswerT:
        """Ask for what is served; raises as `post`."""
        return await retry.asked(
            lambda: self._once("GET", path, kind, None, deadline), self, deadline
        )

    async def post(
        self, path: str, kind: type[AnswerT], fields: bytes, deadline: float | None
    ) -> AnswerT:
        """Ask with the fields of a JSON object, until a deadline by `clock`.

        Raises:
            NotReady: No server can be reached.
            DeadlineExceeded: The deadline passed here, or on the server.
            AssayError: The server's error, of the server's class.
        """
        return await retry.asked(
            lambda: self._once("POST", path, kind, fields, deadline), self, deadline
        )

    async def _once(
        self,
        method: str,
        path: str,
        kind: type[AnswerT],
        fields: bytes | None,
        deadline: float | None,
    ) -> AnswerT:
        left_s = None if deadline is None else deadline - clock.now()
        if left_s is not None and left_s <= 0:
            raise errors.DeadlineExceeded(_TOO_LATE)
        server, others = self._choose()
        share_s = left_s and left_s / (1 + others)
        via = f"; {server.proxy}" if server.proxy else ""
        with server.asking(), _translated(may_be_hung=bool(others), via=via):
            async with asyncio.timeout(share_s and share_s + (0 if others else GRACE_S)):
                response = await self._http.request(
                    method,
                    server.url + path,
                    content=None if fields is None else _body(fields, left_s),
                    headers={} if fields is None else {"Content-Type": "application/json"},
                )
            _answered.add(server.url)
            answer = response_parsing.read(response, kind, via)
            if _is_unfinished(answer):
                raise retry.Unfinished(answer)
            return answer

    def _choose(self) -> tuple[PooledServer, int]:
        """Return whom to ask, and how many others could be asked afterwards."""
        now = clock.now()
        if is_open := [server for server in self.servers if server.is_open(now)]:
            return min(is_open, key=lambda server: (server.pending, server.asked)), len(is_open) - 1
        return min(self.servers, key=lambda server: server.rests_until), 0


@contextlib.contextmanager
def _translated(*, may_be_hung: bool, via: str) -> Iterator[None]:
    """Raise what httpx and asyncio raise as errors of the tree; `via` names a proxy's part."""
    try:
        yield
    except TimeoutError as error:
        if may_be_hung:
            raise errors.NotReady(f"no answer in its share of the deadline{via}") from error
        raise errors.DeadlineExceeded(f"the deadline passed without an answer{via}") from error
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
        raise errors.InvalidField(f"the request can't be sent: {error}") from error
    except httpx.DecodingError as error:
        raise errors.ServiceError(
            f"the server's answer can't be decoded; check what is in the way: {error}{via}"
        ) from error
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise errors.NotReady(f"the server can't be reached: {reason}{via}") from error


def _mounts(
    servers: list[PooledServer], limits: httpx.Limits
) -> dict[str, httpx.AsyncBaseTransport]:
    """Return what sends to the servers that are behind a proxy, by their addresses."""
    return {
        str(httpx.URL(server.url).copy_with(path="/", query=None)).rstrip("/"): transport
        for server in servers
        if server.proxy and (transport := server.proxy.transport(limits, _keep_alive()))
    }


def _is_unfinished(answer: wire.Answer) -> bool:
    away = {kind.code for kind in response_parsing.AWAY}
    entries: list[wire.Entry] = getattr(answer, "data", [])
    return any(
        isinstance(entry, wire.Entry) and entry.error and entry.error.code in away
        for entry in entries
    )


def _body(fields: bytes, left_s: float | None) -> bytes:
    if left_s is None:
        return b"{%b}" % fields
    left_ms = min(max(1, int(1e3 * left_s)), _LONGEST_DEADLINE_MS)
    return b'{%b,"deadline_ms":%d}' % (fields, left_ms)


def _checked(url: str) -> str:
    """Return an address without its last slash.

    Raises:
        InvalidField: It isn't one.
    """
    try:
        parsed = httpx.URL(url)
        is_url = parsed.scheme in {"http", "https"} and bool(parsed.host)
    except httpx.InvalidURL:
        is_url = False
    if not is_url:
        hint = ", an address of IPv6 in brackets: http://[::1]:8000" if url.count(":") > 2 else ""
        raise errors.InvalidField(
            f"'{url}' is not a URL; write http://HOST:PORT{hint}", param="urls"
        )
    bare = url.rstrip("/")
    if bare.rsplit("/", 1)[-1] in _ROUTES:
        raise errors.InvalidField(
            f"'{url}' is one route's; give the server's address: {bare.rsplit('/', 1)[0]}",
            param="urls",
        )
    return bare


def _key(key: str) -> str:
    """Return a key that a header can have.

    Raises:
        InvalidField: It has a line break, or a character beyond ASCII.
    """
    if not (key.isascii() and key.isprintable()):
        raise errors.InvalidField(
            "the API key has a line break or a character beyond ASCII, which no header can have; "
            "was it read with the end of its line?",
            param="api_key",
        )
    return key


def _keep_alive() -> list[tuple[int, int, int]]:
    """Return the options that let the kernel find a peer that vanished, within two minutes."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
