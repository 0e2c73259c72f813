"""The application: routes, frame and errors around one running `Scorer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.routing import Route

from assay import __version__
from assay.api import dialects, health, native, openapi, problems
from assay.api.dialects import tei, vllm
from assay.api.frame import Frame
from assay.api.shortcut import Shortcut, posted

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from assay.scoring.scorer import Scorer
    from assay.settings import Settings


def create_app(settings: Settings, scorer: Scorer) -> ASGIApp:
    """Return the application; the caller starts and stops the scorer."""
    app = FastAPI(title="Assay", version=__version__, summary="Reward models over HTTP.")
    app.state.scorer = scorer
    app.include_router(native.router, tags=["native"])
    app.include_router(native.router, prefix="/v1", include_in_schema=False)
    app.include_router(health.router, tags=["operations"])
    app.include_router(tei.router, tags=["operations"])
    app.include_router(vllm.router)
    problems.install(app)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    own = posted(native.router, "", "/v1")
    endpoints = dialects.posted(own)
    app.routes.extend(
        Route(path, endpoint, methods=["POST"])
        for path, endpoint in endpoints.items()
        if path not in own
    )
    return Frame(
        Shortcut(app, endpoints),
        keys=settings.api_key,
        max_body_bytes=settings.max_body_bytes,
        shapes=dialects.shapes(own),
    )
