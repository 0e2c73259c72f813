"""Around every route: request id, key, limits, safe headers; here a request is counted and logged.

A plain ASGI middleware, so that streams, disconnects and errors pass through untouched.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from assay.api import coding, contracts, problems
from assay.api.disconnect import STOPPED
from assay.api.keys import OPEN_ROUTES
from assay.api.request_context import RequestContext, context_in
from assay.api.strangers import Strangers
from assay.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Draining,
    InternalError,
    Unauthorized,
    UnknownRoute,
    shown,
)
from assay.scoring import garbage
from assay.telemetry.metrics import NO_ROUTE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from assay.api.holdings import Holdings
    from assay.api.keys import Keys
    from assay.api.origins import Origins
    from assay.api.request_context import Shape
    from assay.telemetry.metrics import Metrics
    from assay.telemetry.tracing import Trace, Tracing

logger = logging.getLogger("assay.access")
# Polled by machines: logged at debug level, and never traced.
QUIET_ROUTES = OPEN_ROUTES | {"/metrics"}
# For browsers: take an answer for what it says it is, show it in no frame, keep and tell nothing of
# it. Not Strict-Transport-Security: it would hold for every other port of this host, too.
_SAFE_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MOST_CHARACTERS = 256  # of a value in a line of the log
_SLOWEST_BYTES_PER_S = 16_384
_PIECE_BYTES = 262_144  # of an answer, handed over at a time
_TRACE_HEADERS = (b"traceparent", b"tracestate")
_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def _canonical(scope: Scope) -> None:
    """Give a path the one form that everything around the routes knows it by.

    Without slashes at its end: `/score/` is `/score`, and no redirect loses a body. Where it fits a
    path with parts like {model}, it is that, and the parts are beside it.
    """
    if scope["path"].endswith("/"):
        scope["path"] = scope["path"].rstrip("/") or "/"
    path, parts = contracts.fit(scope["path"])
    if parts:
        scope["path"], scope["path_params"] = path, parts


class Frame:
    """The middleware.

    Args:
        app: What is around.
        keys: Who may ask what.
        origins: Which web pages may ask, and by which names.
        holdings: What requests hold of this process' memory.
        max_body_bytes: The largest body that is read.
        body_timeout_s: How long a body may take, and a second more for each 16 KiB of it.
        metrics: Where a request is counted whose route says how it ended, or that went wrong.
        routes: What metrics call the paths that are posted to.
        shapes: How errors look at paths where that isn't the native way.
        id_headers: Where else the request's id is told, by path.
        strangers: Who lately asked without a good key.
        log_sample: The share of requests that went well that have a line in the log.
        tracing: What makes a span of each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        origins: Origins,
        metrics: Metrics,
        holdings: Holdings,
        max_body_bytes: int,
        routes: Mapping[str, str],
        shapes: Mapping[str, Shape],
        id_headers: Mapping[str, str] = MappingProxyType({}),
        body_timeout_s: float = 60.0,
        strangers: Strangers | None = None,
        log_sample: float = 1.0,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._shapes = shapes
        self._id_headers = id_headers
        self._keys = keys
        self._origins = origins
        self._holdings = holdings
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._strangers = strangers or Strangers(math.inf)
        self._log_sample = log_sample
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _canonical(scope)
        if self._tracing is None or scope["path"] in QUIET_ROUTES:
            await self._handle(scope, receive, send)
            return
        headers = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _TRACE_HEADERS
        }
        path = scope["path"]  # others than of routes may hold anything
        named = path if path in self._routes else None
        with self._tracing.request(scope["method"], named, headers) as trace:
            await self._handle(scope, receive, send, trace)

    async def _handle(
        self, scope: Scope, receive: Receive, send: Send, trace: Trace | None = None
    ) -> None:
        headers = _headers(scope["headers"])
        context = self._context(scope, headers)
        begin = time.perf_counter()
        left = garbage.collected()
        status = 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                _let_go(context, left)  # nobody needs any more what was asked
                context.holding.keep(_length(dict(message.get("headers", []))))
                status = message["status"]
                self._count(context)
                if trace:
                    trace.answered(status, context.request_id)
                request_id = context.request_id.encode()
                message["headers"] = [
                    *message.get("headers", []),
                    *_SAFE_HEADERS,
                    (b"x-request-id", request_id),
                ]
                if also := self._id_headers.get(scope["path"]):
                    message["headers"].append((also.encode(), request_id))
            await _in_pieces(message, send)

        try:
            await self._check(scope, headers)
            await self._app(scope, self._received(scope, receive), send_framed)
        except asyncio.CancelledError:  # the drain is over
            if status:
                return
            response = self._problem(Draining(STOPPED, retry_after_s=1), context)
            await response(scope, receive, send_framed)
        except Exception as error:
            if context.outcome == InternalError.code:  # FastAPI's way: answered, and raised again
                return
            if status:
                raise
            response = self._problem(error, context)
            # They hold what was asked, which is freed aside.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            await response(scope, receive, send_framed)
        finally:
            _let_go(context, left)
            context.holding.leave()
            self._log(scope, context, status, 1e3 * (time.perf_counter() - begin))

    def _context(self, scope: Scope, headers: dict[bytes, bytes]) -> RequestContext:
        path = scope["path"]
        client = scope.get("client")
        context = RequestContext(
            _request_id(headers.get(b"x-request-id")),
            self._holdings.begin(),
            peer=client[0] if client else "",
            route=self._routes.get(path, NO_ROUTE),
            shape=self._shapes.get(path, problems.native),
        )
        scope.setdefault("state", {})["context"] = context
        return context

    def _count(self, context: RequestContext) -> None:
        """Count how a request ended, where that is known: who only looks isn't counted."""
        if context.outcome:
            for model in context.models or ("",):
                self._metrics.request(model, context.route, context.outcome)

    def _log(self, scope: Scope, context: RequestContext, status: int, ms: float) -> None:
        """Write the request's line, or not where only a share of such have one."""
        if not _went_well(status, context) or random.random() < self._log_sample:  # noqa: S311
            _log(scope, context, status, ms)

    def _problem(self, error: Exception, context: RequestContext) -> Response:
        """Return the answer to an error of any route."""
        response = problems.answered(error, context)
        if isinstance(error, BodyTooSlow):
            response.headers["Connection"] = "close"  # the rest of the body is for nobody
        return response

    async def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        context = context_in(scope)
        self._origins.check(scope, headers, is_open=self._keys.is_open)
        try:
            name = self._keys.check(scope["path"], headers)
        except Unauthorized:
            if held_back_s := self._strangers.refused(context.peer):
                await asyncio.sleep(held_back_s)
            raise
        if _CONTROL.search(scope["path"]):  # an expression's $ also fits before a newline
            raise UnknownRoute("no path has control characters; /docs lists those that there are")
        context.caller = name
        context.shows_all = self._keys.shows_all(name)
        coding.check_charset(headers.get(b"content-type", b""))
        if _length(headers) > self._max_body_bytes:
            raise self._too_large()
        context.holding.caller = name or (f"@{context.peer}" if context.peer else "")
        context.holding.check(_length(headers))  # what finds no room isn't read

    def _received(self, scope: Scope, receive: Receive) -> Receive:
        """Return what receives the body as it was before it was encoded."""
        limited = self._limited(receive)
        names = coding.codings(scope["headers"])
        if not names:
            return limited
        return coding.Decoded(limited, names, self._max_body_bytes).receive

    def _limited(self, receive: Receive) -> Receive:
        """Bound the body while it is read: its bytes, and the time that these may take."""
        received, is_whole = 0, False
        begin = time.monotonic()

        async def receive_limited() -> Message:
            nonlocal received, is_whole
            if is_whole:
                return await receive()
            left_s = (
                begin + self._body_timeout_s + received / _SLOWEST_BYTES_PER_S - time.monotonic()
            )
            try:
                async with asyncio.timeout(left_s):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow(
                    f"the body isn't whole after {self._body_timeout_s:g} s and a second for each "
                    f"{_SLOWEST_BYTES_PER_S} bytes of it"
                ) from None
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                if received > self._max_body_bytes:
                    raise self._too_large()
            return message

        return receive_limited

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body exceeds {self._max_body_bytes} bytes; send fewer items at a time"
        )


def _went_well(status: int, context: RequestContext) -> bool:
    """Whether a request's line says nothing that an operator would look for."""
    return 200 <= status < 300 and context.outcome in ("", "ok")


def _headers(lines: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by their names, in lower case as ASGI has them; of repeated ones the last.

    But who is asked, and for which page, is all that is said: one good name doesn't hide another.
    """
    headers = dict(lines)
    if len(headers) < len(lines):
        for name in (b"host", b"origin"):
            if values := [value for header, value in lines if header == name]:
                headers[name] = b", ".join(values)
    return headers


def _length(headers: Mapping[bytes, bytes]) -> int:
    """Return the length that a message states; 0 where it doesn't."""
    length = headers.get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


async def _in_pieces(message: Message, send: Send) -> None:
    """Send a part of an answer, so that hardly more is handed over than the caller takes."""
    body: bytes = message.get("body", b"")
    last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
    for at in range(0, last, _PIECE_BYTES):
        await send({**message, "body": body[at : at + _PIECE_BYTES], "more_body": True})
    await send({**message, "body": body[last:]} if last else message)


def _let_go(context: RequestContext, left: list[list[object]]) -> None:
    """Free what a request leaves behind, aside."""
    context.body = None
    if left:
        garbage.free(left.copy())
        left.clear()


def _log(scope: Scope, context: RequestContext, status: int, ms: float) -> None:
    """Write the request's line."""
    path = shown(scope["path"].encode("unicode_escape").decode(), _MOST_CHARACTERS)
    facts = {
        "request_id": context.request_id,
        "method": shown(scope["method"], _MOST_CHARACTERS),
        "route": path,
        "status": status,
        "ms": round(ms, 3),
        "model": context.model,
        "outcome": context.outcome,
        "by": context.caller or "",
        "peer": context.peer,
    }
    logger.log(
        logging.DEBUG if scope["path"] in QUIET_ROUTES else logging.INFO,
        "%s %s %d %.1f ms%s id=%s",
        *(facts["method"], path, status, ms),
        "".join(f" {name}={facts[name]}" for name in ("by", "peer") if facts[name]),
        context.request_id,
        extra={name: fact for name, fact in facts.items() if fact != ""},
    )


def _request_id(header: bytes | None) -> str:
    """Take the caller's id where it is printable, else make one."""
    text = (header or b"").decode("latin-1")
    if _SAFE_ID.fullmatch(text):
        return text
    return f"{random.getrandbits(128):032x}"  # a name, no secret: no call to the kernel
