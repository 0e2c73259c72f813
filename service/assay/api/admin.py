"""What is served, changed while it is: load, unload, reload. Another key than for scoring.

A change is answered once it holds, and goes on when its caller leaves. All changes are whole: what
comes is loaded and tried beside what is there, and takes over as one, or not at all.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request

from assay import wire
from assay.api.body import body_of
from assay.api.openapi import takes
from assay.api.request_context import context_of
from assay.errors import AssayError
from assay.scoring import inspection

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from assay.scoring.service import Service

BODIES = (wire.ModelReference, wire.ModelToLoad, wire.Reload)

router = APIRouter(prefix="/admin")
logger = logging.getLogger("assay.audit")


@router.post("/load", openapi_extra=takes(wire.ModelToLoad))
async def load(request: Request) -> wire.ModelList:
    """Serve one more model: a name of the repository, a path or a hub id."""
    body = await body_of(request, wire.ModelToLoad)
    change = _service(request).load(body.model, body.name)
    return await _changed(request, change, body.model)


@router.post("/unload", openapi_extra=takes(wire.ModelReference))
async def unload(request: Request) -> wire.ModelList:
    """Serve a model no more."""
    body = await body_of(request, wire.ModelReference)
    return await _changed(request, _service(request).unload(body.model), body.model)


@router.post("/reload", openapi_extra=takes(wire.Reload, is_required=False))
async def reload(request: Request) -> wire.ModelList:
    """Read everything that is served again: weights, cards, tokenizers."""
    await body_of(request, wire.Reload, empty=b"{}")
    return await _changed(request, _service(request).reload())


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _changed(
    request: Request, change: Coroutine[object, object, None], model: str = ""
) -> wire.ModelList:
    outcome = "unfinished"
    try:
        await asyncio.shield(asyncio.ensure_future(change))
        outcome = "ok"
    except AssayError as error:
        outcome = error.code
        raise
    finally:
        context = context_of(request)
        _service(request).metrics.changed("admin", outcome)
        logger.info(
            *("%s %r: %s by=%s id=%s", request.url.path, model, outcome),
            *(context.caller, context.request_id),
        )
    scorer = _service(request).scorer
    return wire.ModelList(
        data=[
            inspection.describe(scorer, target) for target in scorer.served.targets.by_name.values()
        ]
    )
