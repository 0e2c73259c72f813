"""To the scorer of now, and past the framework for routes that are posted to.

A request holds the scorer that it meets until it is answered; see `scoring.service`.

Routes that are posted to take the bare request and answer in their own words, so nothing of what
FastAPI does around an endpoint is for them; it cost more than all of Assay's own work on a request
of one item. They stand in one table, and FastAPI documents them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.routing import APIRoute

from assay.api import problems
from assay.api.keys import OPEN_ROUTES
from assay.api.request_context import context_in
from assay.errors import MethodNotAllowed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fastapi import APIRouter, FastAPI, Response
    from starlette.types import Receive, Scope, Send

    from assay.scoring.service import Service

    Endpoint = Callable[[Request], Awaitable[Response]]


_AT_ONCE = OPEN_ROUTES | {"/metrics", "/openapi.json", "/redoc"}


class FastRoutes:
    """The application, with some paths answered before it. Errors pass through to `Frame`."""

    def __init__(self, app: FastAPI, endpoints: Mapping[str, Endpoint], service: Service) -> None:
        self._app = app
        self._service = service
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        endpoint = self._endpoints.get(scope["path"])
        context = context_in(scope)
        if endpoint is None or scope["method"] != "POST":
            context.shape = problems.native
        if endpoint is not None and scope["method"] != "POST":
            context.headers["Allow"] = "POST"
            raise MethodNotAllowed(problems.not_allowed(scope["path"], scope["method"]))
        with self._service.using() as context.scorer:
            scorer = context.scorer
            if not scorer.served.targets.by_name and _asks_of_models(scope["path"]):
                await scorer.served.resolved()
            if endpoint is None:
                await self._app(scope, receive, send)
                return
            scope["app"] = self._app
            response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)  # however slowly it is read: no scorer is held for it


def _asks_of_models(path: str) -> bool:
    """Whether an answer says anything of what is served; changes wait for that by themselves."""
    return path not in _AT_ONCE and not path.startswith(("/admin/", "/docs"))


def posted(router: APIRouter, *prefixes: str) -> dict[str, Endpoint]:
    """Return the router's endpoints for POST, by path under each prefix."""
    return {
        prefix + route.path: route.endpoint
        for prefix in prefixes
        for route in router.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ())
    }
