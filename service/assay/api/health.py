"""Whether the loop answers, whether the service can score, and what it counted."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from assay import wire
from assay.api.request_context import context_of
from assay.telemetry.metrics import CONTENT_TYPE

router = APIRouter()


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Answer as long as the event loop does."""
    return {"live": True}


@router.head("/health/ready", include_in_schema=False)
@router.head("/health", include_in_schema=False)
@router.get(
    "/health/ready", response_model=wire.ReadyAnswer, responses={503: {"model": wire.ReadyAnswer}}
)
@router.get(
    "/health", response_model=wire.ReadyAnswer, responses={503: {"model": wire.ReadyAnswer}}
)
async def ready(request: Request) -> Response:
    """Answer 200 once every model has run a real forward pass and its worker is alive, else 503.

    Where keys are set, only who sends one is told the models, and all of a reason.
    """
    context = context_of(request)
    scorer, shows_all = context.scorer, context.shows_all
    reasons = scorer.served.reasons(in_full=shows_all)
    served = scorer.served.targets.by_name if shows_all else {}
    answer = wire.ReadyAnswer(
        ready=not reasons,
        reasons=reasons,
        models={name: scorer.served.state(target) for name, target in served.items()},
    )
    return Response(
        answer.model_dump_json(),
        status_code=503 if reasons else 200,
        media_type="application/json",
    )


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    scorer = context_of(request).scorer
    scorer.observe()
    return Response(scorer.metrics.render(), headers={"Content-Type": CONTENT_TYPE})
