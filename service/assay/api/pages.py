"""`/openapi.json`, and `/docs`: Swagger UI, with scripts and styles of the installed package.

The files are those of `fastapi-offline`, which has Swagger UI's releases; its code isn't run. The
page says itself that a browser may load nothing of another host's, and its addresses are relative:
it also works under a prefix of a proxy's.
"""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from assay.errors import UnknownRoute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PACKAGE = "fastapi_offline"
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
# Swagger UI sets styles of elements, and draws from `data:`.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Assay</title>
<link rel="icon" href="{root}docs/favicon.png">
<link rel="stylesheet" href="{root}docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui" data-document="{root}openapi.json"></div>
<script src="{root}docs/swagger-ui-bundle.js"></script>
<script src="{root}docs/start.js"></script>
</body>
</html>
"""
# Without a validator: its badge would be an image of another host's.
_START = """const page = document.getElementById("swagger-ui");
SwaggerUIBundle({
  url: page.dataset.document,
  domNode: page,
  deepLinking: true,
  validatorUrl: null,
});
"""

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def schema(request: Request) -> Response:
    """Return the OpenAPI document, made when it is first asked for."""
    content: bytes = await asyncio.to_thread(request.app.state.document)
    return Response(content, media_type="application/json")


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Show the document of all routes.

    Raises:
        UnknownRoute: Swagger UI isn't installed.
    """
    if _FOLDER is None:
        raise UnknownRoute(
            "what /docs shows isn't installed; pip install 'assay-rm[serve]', or read /openapi.json"
        )
    raw: bytes = request.scope.get("raw_path") or b""
    return HTMLResponse(_PAGE.format(policy=_POLICY, root="../" if raw.endswith(b"/") else ""))


@router.get("/docs/start.js")
async def start() -> Response:
    """Return the script that starts the page."""
    return Response(_START, media_type="text/javascript")


def _folder() -> Path | None:
    """Return where the package's files are, without importing it; none where it isn't installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "static"


def _answering(path: Path, media_type: str) -> Callable[[], Awaitable[FileResponse]]:
    async def answer() -> FileResponse:
        return FileResponse(path, media_type=media_type)

    return answer


_FOLDER = _folder()
if _FOLDER is not None:
    for _name, _type in _FILES.items():
        router.add_api_route(f"/docs/{_name}", _answering(_FOLDER / _name, _type), methods=["GET"])
