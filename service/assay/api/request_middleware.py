"""Around every route: request id, key, limits, safe headers, one log line, what nobody counted.

A plain ASGI middleware, so that streams, disconnects and errors pass through untouched.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
import traceback
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from assay.api import coding, contracts, problems
from assay.api.disconnect import STOPPED, peer_of
from assay.api.keys import OPEN_ROUTES
from assay.api.strangers import Strangers
from assay.errors import (
    AssayError,
    BodyTooLarge,
    BodyTooSlow,
    Draining,
    InternalError,
    Unauthorized,
    UnknownRoute,
    shown,
)
from assay.scoring import caller, garbage
from assay.telemetry import request_outcome
from assay.telemetry.metrics import NO_ROUTE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from assay.api.holdings import Holding, Holdings
    from assay.api.keys import Keys
    from assay.api.origins import Origins
    from assay.api.problems import Shape
    from assay.telemetry.metrics import Metrics
    from assay.telemetry.request_outcome import Ending

logger = logging.getLogger("assay.access")
QUIET_ROUTES = OPEN_ROUTES | {"/metrics"}  # polled by machines: logged at debug level
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
_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def canonical(scope: Scope) -> None:
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
        metrics: Where a refusal is counted that no route has counted.
        routes: What metrics call the paths that are posted to.
        shapes: How errors look at paths where that isn't the native way.
        id_headers: Where else the request's id is told, by path.
        strangers: Who lately asked without a good key.
        log_sample: The share of requests that went well that have a line in the log.
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        canonical(scope)
        headers = _headers(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        begin = time.perf_counter()
        end = request_outcome.begun()
        left = garbage.collected()
        holding = state["holding"] = self._holdings.begin()
        status = 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                _let_go(state, left)  # nobody needs any more what was asked
                holding.keep(_length(dict(message.get("headers", []))))
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    *_SAFE_HEADERS,
                    (b"x-request-id", request_id.encode()),
                ]
                if also := self._id_headers.get(scope["path"]):
                    message["headers"].append((also.encode(), request_id.encode()))
            await _in_pieces(message, send)

        try:
            await self._check(scope, headers)
            await self._app(scope, self._received(scope, receive), send_framed)
        except asyncio.CancelledError:  # the drain is over
            if status:
                return
            stopped = Draining(STOPPED, retry_after_s=1)
            response = self._problem(stopped, scope["path"], request_id)
            await response(scope, receive, send_framed)
        except Exception as error:
            if status:
                raise
            response = self._problem(error, scope["path"], request_id)
            await response(scope, receive, send_framed)
        finally:
            _let_go(state, left)
            holding.leave()
            self._count(end, scope["path"])
            self._log(scope, status, 1e3 * (time.perf_counter() - begin), end)

    def _count(self, end: Ending, path: str) -> None:
        """Count an error that was answered before a route did so: by the frame, or the router."""
        if end.outcome and not end.is_counted:
            self._metrics.request("", self._routes.get(path, NO_ROUTE), end.outcome)

    def _log(self, scope: Scope, status: int, ms: float, end: Ending) -> None:
        """Write the request's line, or not where only a share of such have one."""
        if not _went_well(status, end) or random.random() < self._log_sample:  # noqa: S311
            _log(scope, status, ms, end)

    def _problem(self, error: Exception, path: str, request_id: str) -> Response:
        """Return the answer to an error that no route answered; what isn't ours is a defect."""
        if not isinstance(error, AssayError):
            logger.error("request %s failed:\n%s", request_id, _where(error))
            error = InternalError(f"a defect of Assay; the log has it under request {request_id}")
        response = problems.answer(error, request_id, self._shapes.get(path, problems.native))
        if isinstance(error, BodyTooSlow):
            response.headers["Connection"] = "close"  # the rest of the body is for nobody
        return response

    async def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        self._origins.check(scope, headers, is_open=self._keys.is_open)
        try:
            name = self._keys.check(scope["path"], headers)
        except Unauthorized:
            if held_back_s := self._strangers.refused(peer_of(scope)):
                await asyncio.sleep(held_back_s)
            raise
        if _CONTROL.search(scope["path"]):  # an expression's $ also fits before a newline
            raise UnknownRoute("no path has control characters; /docs lists those that there are")
        scope["state"]["caller"] = name
        scope["state"]["shows_all"] = self._keys.shows_all(name)
        caller.NAME.set(name or "")
        coding.check_charset(headers.get(b"content-type", b""))
        if _length(headers) > self._max_body_bytes:
            raise self._too_large()
        peer = scope.get("client")
        holding: Holding = scope["state"]["holding"]
        holding.caller = name or (f"@{peer[0]}" if peer else "")
        holding.check(_length(headers))  # what finds no room isn't read

    def _received(self, scope: Scope, receive: Receive) -> Receive:
        """Return what receives the body as it was before it was encoded."""
        limited = self._limited(receive)
        names = coding.codings(scope["headers"])
        if not names:
            return limited
        return coding.Decoded(limited, names, self._max_body_bytes).receive

    def _limited(self, receive: Receive) -> Receive:
        """Bound the body while it is read: its bytes, and the time that these may take."""
        taken, is_whole = 0, False
        begin = time.monotonic()

        async def receive_limited() -> Message:
            nonlocal taken, is_whole
            if is_whole:
                return await receive()
            left_s = begin + self._body_timeout_s + taken / _SLOWEST_BYTES_PER_S - time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow(
                    f"the body isn't whole after {self._body_timeout_s:g} s and a second for each "
                    f"{_SLOWEST_BYTES_PER_S} bytes of it"
                ) from None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                if taken > self._max_body_bytes:
                    raise self._too_large()
            return message

        return receive_limited

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body exceeds {self._max_body_bytes} bytes; send fewer items at a time"
        )


def _went_well(status: int, end: Ending) -> bool:
    """Whether a request's line says nothing that an operator would look for."""
    return 200 <= status < 300 and end.outcome in ("", "ok")


def _headers(lines: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by their names, in lower case as ASGI has them; of repeated ones the last.

    But who is asked, and for which page, is all that is said: one good name doesn't hide another.
    """
    headers = dict(lines)
    if len(headers) < len(lines):
        for name in (b"host", b"origin"):
            if values := [value for own, value in lines if own == name]:
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


def _let_go(state: dict[str, Any], left: list[list[Any]]) -> None:
    """Free what a request leaves behind, aside."""
    state.pop("body", None)
    if left:
        garbage.free(left.copy())
        left.clear()


def _log(scope: Scope, status: int, ms: float, end: Ending) -> None:
    """Write the request's line."""
    path = shown(scope["path"].encode("unicode_escape").decode(), _MOST_CHARACTERS)
    request_id = scope["state"]["request_id"]
    facts = {
        "request_id": request_id,
        "method": shown(scope["method"], _MOST_CHARACTERS),
        "route": path,
        "status": status,
        "ms": round(ms, 3),
        "model": end.model,
        "outcome": end.outcome,
        "by": scope["state"].get("caller") or "",
        "peer": peer_of(scope),
    }
    logger.log(
        logging.DEBUG if scope["path"] in QUIET_ROUTES else logging.INFO,
        "%s %s %d %.1f ms%s id=%s",
        *(facts["method"], path, status, ms),
        "".join(f" {name}={facts[name]}" for name in ("by", "peer") if facts[name]),
        request_id,
        extra={name: fact for name, fact in facts.items() if fact != ""},
    )


def _where(error: Exception) -> str:
    """Return an error's traceback without its message, which may quote what was asked."""
    lines = traceback.format_tb(error.__traceback__)
    return "".join([*lines, type(error).__qualname__])


def _request_id(given: bytes | None) -> str:
    """Take the caller's id where it is printable, else make one."""
    text = (given or b"").decode("latin-1")
    if _SAFE_ID.fullmatch(text):
        return text
    return f"{random.getrandbits(128):032x}"  # a name, no secret: no call to the kernel
