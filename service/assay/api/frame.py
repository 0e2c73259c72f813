"""Around every route: request id, key, body limit, one log line, the errors that no route answered.

A plain ASGI middleware, so that streams, disconnects and errors pass through untouched.
"""

from __future__ import annotations

import hmac
import logging
import random
import re
import time
from typing import TYPE_CHECKING

from assay.api import problems
from assay.errors import AssayError, BodyTooLarge, InternalError, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import Response
    from pydantic import SecretStr
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from assay.api.problems import Shape

logger = logging.getLogger("assay.access")
OPEN_ROUTES = frozenset({"/health", "/health/live", "/health/ready"})
QUIET_ROUTES = OPEN_ROUTES | {"/metrics"}  # polled by machines: logged at debug level
_SAFE_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Frame:
    """The middleware.

    Args:
        app: What is around.
        keys: The API keys; none means that no key is asked for.
        max_body_bytes: The largest body that is read.
        shapes: How errors look at paths where that isn't the native way.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[SecretStr],
        max_body_bytes: int,
        shapes: Mapping[str, Shape],
    ) -> None:
        self._app = app
        self._shapes = shapes
        self._keys = [key.get_secret_value().encode() for key in keys]
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])  # ASGI has their names in lower case
        request_id = _request_id(headers.get(b"x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        begin = time.perf_counter()
        status = 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            self._check(scope, headers)
            states_length = b"content-length" in headers
            await self._app(
                scope, receive if states_length else self._limited(receive), send_framed
            )
        except Exception as error:
            if status:
                raise
            response = self._problem(error, scope["path"], request_id)
            await response(scope, receive, send_framed)
        finally:
            quiet = scope["path"] in QUIET_ROUTES
            logger.log(
                logging.DEBUG if quiet else logging.INFO,
                "%s %s %d %.1f ms id=%s",
                scope["method"],
                scope["path"].encode("unicode_escape").decode(),
                status,
                1e3 * (time.perf_counter() - begin),
                request_id,
            )

    def _problem(self, error: Exception, path: str, request_id: str) -> Response:
        """Return the answer to an error that no route answered; what isn't ours is a defect."""
        if not isinstance(error, AssayError):
            logger.error("request %s failed", request_id, exc_info=error)
            error = InternalError(f"a defect of Assay; the log has it under request {request_id}")
        return problems.answer(error, request_id, self._shapes.get(path, problems.native))

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self._keys and scope["path"] not in OPEN_ROUTES and not self._is_known(headers):
            raise Unauthorized("send a valid API key as 'Authorization: Bearer KEY'")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _is_known(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        given = key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return any([hmac.compare_digest(given, known) for known in self._keys])  # noqa: C419

    def _limited(self, receive: Receive) -> Receive:
        """Count the body while it is read: this one states no length."""
        taken = 0

        async def receive_limited() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._max_body_bytes:
                    raise self._too_large()
            return message

        return receive_limited

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body exceeds {self._max_body_bytes} bytes; send fewer items at a time"
        )


def _request_id(given: bytes | None) -> str:
    """Take the caller's id where it is printable, else make one."""
    text = (given or b"").decode("latin-1")
    if _SAFE_ID.fullmatch(text):
        return text
    return f"{random.getrandbits(128):032x}"  # a name, no secret: no call to the kernel
