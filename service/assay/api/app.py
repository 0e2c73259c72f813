"""The application: routes, frame and errors around one running `Service`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware

from assay import __version__
from assay.api import admin, contracts, health, native, openapi, pages, problems
from assay.api.contracts import kserve, ms_swift, sglang, tei, vllm
from assay.api.fast_routes import FastRoutes, posted
from assay.api.holdings import Holdings
from assay.api.origins import Origins
from assay.api.request_middleware import Frame
from assay.api.strangers import Strangers

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.types import ASGIApp, Receive, Scope, Send

    from assay.api.keys import Keys
    from assay.scoring.service import Service
    from assay.settings import Settings
    from assay.telemetry.tracing import Tracing


def create_app(
    settings: Settings, service: Service, keys: Keys, tracing: Tracing | None = None
) -> ASGIApp:
    """Return the application; the caller starts and stops the service."""
    app = FastAPI(
        title="Assay",
        version=__version__,
        summary="Reward models over HTTP.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(pages.router)
    app.include_router(native.router)
    app.include_router(native.router, prefix="/v1", include_in_schema=False)
    app.include_router(health.router, tags=["operations"])
    app.include_router(admin.router, tags=["operations"])
    app.include_router(tei.router, tags=["operations"])
    app.include_router(vllm.router)
    app.include_router(sglang.router)
    app.include_router(ms_swift.router)
    app.include_router(kserve.router)
    problems.install(app)
    bodies: tuple[type[BaseModel], ...] = (*native.BODIES, *admin.BODIES)
    app.state.document = functools.cache(
        lambda: to_json(openapi.document(app, native.posted, bodies))
    )
    native_endpoints = posted(native.posted, "", "/v1")
    endpoints = contracts.posted(native_endpoints)
    framed = Frame(
        FastRoutes(app, endpoints, service),
        keys=keys,
        origins=Origins(settings),
        metrics=service.metrics,
        holdings=Holdings(settings.max_held_bytes, service.metrics),
        routes=contracts.routes(native_endpoints),
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        shapes=contracts.error_shapes(native_endpoints),
        id_headers=contracts.id_headers(),
        strangers=Strangers(settings.unauthorized_per_minute),
        log_sample=settings.log_sample,
        tracing=tracing,
    )
    return _shared(framed, settings.cors_origins) if settings.cors_origins else framed


class _Shared(CORSMiddleware):
    """Answers pages that may ask; `Frame` refuses the others, as it does where none may."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is not None and self.is_allowed_origin(origin):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _shared(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Let pages of other origins ask; a browser's own question before that carries no key."""
    return _Shared(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "X-Request-Id"],
    )
