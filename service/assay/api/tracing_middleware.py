"""A span around each request, where tracing is on; what machines poll has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.api.request_middleware import QUIET_ROUTES, canonical

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from assay.telemetry.tracing import Tracing

_TRACE_HEADERS = (b"traceparent", b"tracestate")


class TracingMiddleware:
    """The middleware around all others.

    Args:
        app: What is around.
        tracing: What makes the spans.
        routes: The paths that spans name; others may hold anything.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing, routes: Collection[str]) -> None:
        self._app = app
        self._tracing = tracing
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            canonical(scope)
        if scope["type"] != "http" or scope["path"] in QUIET_ROUTES:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _TRACE_HEADERS
        }
        with self._tracing.request(
            scope["method"], path if path in self._routes else None, headers
        ) as trace:

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    trace.answered(message["status"], scope["state"]["request_id"])
                await send(message)

            await self._app(scope, receive, send_noted)
