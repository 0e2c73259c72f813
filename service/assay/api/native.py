"""The native routes; each also answers under `/v1`. FastAPI documents those that are posted to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from assay import wire
from assay.api.body import body_of
from assay.api.disconnect import cancel_on_disconnect
from assay.api.openapi import takes
from assay.api.pieces import Pieces
from assay.api.request_context import context_of
from assay.errors import UnknownTarget
from assay.scoring import answers, inspection
from assay.scoring.call import Call
from assay.scoring.driver import drive
from assay.scoring.multi_call import MultiCall
from assay.scoring.target_union import TargetUnion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from assay.api.request_context import RequestContext
    from assay.scoring.answers import EntryByEntry
    from assay.scoring.driver import Handler
    from assay.scoring.targets import Target

OptionsT = TypeVar("OptionsT", bound=wire.Options)

router = APIRouter(tags=["native"])
posted = APIRouter(tags=["native"])  # served past FastAPI, see `fast_routes`
_NO_DATA = b'"data":[]'
_WRITTEN_AT_ONCE = 1_024  # entries of an answer

BODIES: tuple[type[BaseModel], ...] = (
    wire.ScoreRequest,
    wire.CompareRequest,
    wire.BestOfNRequest,
    wire.TokenizeRequest,
)


@posted.post("/score", response_model=wire.ScoreAnswer, openapi_extra=takes(wire.ScoreRequest))
async def score(request: Request) -> Response:
    """Score items: the raw reward of each, in order, with an ensemble's spread."""
    return await _answer(request, wire.ScoreRequest, _score)


@posted.post(
    "/compare", response_model=wire.CompareAnswer, openapi_extra=takes(wire.CompareRequest)
)
async def compare(request: Request) -> Response:
    """Compare two or more responses to a prompt under Bradley-Terry."""
    return await _answer(
        request,
        wire.CompareRequest,
        lambda context, body, answer_id: answers.compare(_call(context, body), body, answer_id),
    )


@posted.post(
    "/best-of-n", response_model=wire.BestOfNAnswer, openapi_extra=takes(wire.BestOfNRequest)
)
async def best_of_n(request: Request) -> Response:
    """Pick the best of n responses to a prompt."""
    return await _answer(
        request,
        wire.BestOfNRequest,
        lambda context, body, answer_id: answers.best_of_n(_call(context, body), body, answer_id),
    )


@posted.post(
    "/tokenize", response_model=wire.TokenizeAnswer, openapi_extra=takes(wire.TokenizeRequest)
)
async def tokenize(request: Request) -> Response:
    """Show what the model sees: ids, reading position, rendered text."""
    body = await body_of(request, wire.TokenizeRequest)
    context = context_of(request)
    target = context.target(body.model)
    entries = await cancel_on_disconnect(request, _tokens(context, target, body))
    bare = wire.TokenizeAnswer(model=target.name, data=[]).model_dump_json().encode()
    head, tail = bare.split(_NO_DATA)
    pieces = [head + b'"data":[', *entries, b"]" + tail]
    return Pieces(pieces, context.headers)


async def _tokens(
    context: RequestContext, target: Target, body: wire.TokenizeRequest
) -> list[bytes]:
    """Return the entries of an answer as JSON, some at a time: each has a string a token.

    Raises:
        BodyTooLarge, Overloaded: They take more memory than requests may hold.
    """
    written: list[bytes] = []
    holding = context.holding
    rendered = inspection.tokenized(context.scorer, target, body, context.caller or "")
    async with contextlib.aclosing(rendered) as parts:
        async for entries in parts:
            comma = b"," if written else b""
            written.append(comma + await asyncio.to_thread(_in_list, entries))
            holding.take(holding.bytes + len(written[-1]))
    return written


@router.get("/models", response_model=wire.ModelList)
async def models(request: Request) -> Response:
    """List what is served."""
    scorer = context_of(request).scorer
    owner = _owner(request)
    targets = scorer.served.targets.by_name.values()
    data = [inspection.describe(scorer, target, owner) for target in targets]
    return _json(wire.ModelList(data=data))


@router.get("/models/{name:path}", response_model=wire.ModelDetail)
async def model(request: Request, name: str) -> Response:
    """Show one target with its whole card."""
    scorer = context_of(request).scorer
    target = scorer.target(name)
    entry = inspection.describe(scorer, target, _owner(request))
    card = target.card.model_dump(mode="json", exclude_none=True)
    return _json(wire.ModelDetail(**dict(entry), card=card))


def _owner(request: Request) -> Literal["assay"] | None:
    """Return whose a model is, where OpenAI has that; Infinity's client takes only its own."""
    return "assay" if request.url.path.startswith("/v1/") else None


async def _answer(
    request: Request,
    kind: type[OptionsT],
    answer: Callable[[RequestContext, OptionsT, str], Handler[EntryByEntry[Any]]],
) -> Response:
    """Parse, and answer unless the caller leaves first."""
    context = context_of(request)
    begin = time.perf_counter()
    body = await body_of(request, kind)
    handler = answer(context, body, f"{context.route}-{context.request_id}")
    total_ms, has_errors, content = await cancel_on_disconnect(request, drive(_written(handler)))
    http_s = time.perf_counter() - begin - total_ms / 1e3
    for model in context.models:
        context.scorer.metrics.http(model, context.route, max(0.0, http_s))
    context.outcome = "partial" if has_errors else "ok"
    return Response(content, media_type="application/json")


def _score(
    context: RequestContext, body: wire.ScoreRequest, answer_id: str
) -> Handler[EntryByEntry[wire.ScoreAnswer]]:
    call = _call(context, body) if body.targets is None else _multi_call(context, body)
    return answers.score(call, body, answer_id)


def _call(context: RequestContext, body: wire.Options) -> Call:
    """Return a request to one target."""
    target = context.target(body.model)
    return Call(context.scorer, target, body, context.route, caller=context.caller or "")


def _multi_call(context: RequestContext, body: wire.ScoreRequest) -> MultiCall:
    """Return a request to several targets.

    Raises:
        UnknownTarget: One isn't served.
    """
    named: list[Target] = []
    for place, entry in enumerate(body.targets or ()):
        try:
            named.append(context.scorer.target(entry.target))
        except UnknownTarget as error:
            raise UnknownTarget(error.message, param=f"targets[{place}]") from None
    lead = [] if body.model is None else [context.scorer.target(body.model)]
    union = TargetUnion.of(list({target.name: target for target in (*named, *lead)}.values()))
    context.answered_by((target.name for target in union.targets), union.revision)
    route, caller = context.route, context.caller or ""
    return MultiCall(context.scorer, next(iter(lead), None), named, body, route, caller=caller)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _written(handler: Handler[EntryByEntry[Any]]) -> Handler[tuple[float, bool, bytes]]:
    """Return how long scoring took, whether an entry has an error, and the answer as JSON.

    It is made and written in parts: each a short call, and its entries gone before the next's.
    """
    answer = yield from handler
    has_errors = False
    parts: list[bytes] = []
    while part := list(islice(answer.entries, _WRITTEN_AT_ONCE)):
        has_errors = has_errors or any(map(_has_error, part))
        parts.append(_in_list(part))
    content = answer.bare.model_dump_json().encode()
    content = content.replace(_NO_DATA, b'"data":[%b]' % b",".join(parts), 1)
    return answer.bare.timing_ms.total, has_errors, content


def _has_error(entry: wire.Entry) -> bool:
    rewards = entry.rewards if isinstance(entry, wire.ScoreEntry) else None
    return bool(entry.error or any(reward.error for reward in (rewards or {}).values()))


def _in_list(entries: Sequence[BaseModel]) -> bytes:
    """Return entries as they stand in a list of JSON."""
    return to_json(entries)[1:-1]
