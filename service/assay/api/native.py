"""The native routes; each also answers under `/v1`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from assay import wire
from assay.api import problems
from assay.api.body import body_of
from assay.api.disconnect import CLIENT_CLOSED_REQUEST, cancel_on_disconnect, scorer_of
from assay.api.openapi import takes
from assay.api.pieces import Pieces
from assay.errors import AssayError
from assay.scoring import answers, garbage, inspection
from assay.scoring.offload import offload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from pydantic import BaseModel

    from assay.api.holdings import Holding
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import Target

OptionsT = TypeVar("OptionsT", bound=wire.Options)
AnswerT = TypeVar("AnswerT", wire.ScoreAnswer, wire.CompareAnswer, wire.BestOfNAnswer)

router = APIRouter()
_NO_DATA = b'"data":[]'
_WRITTEN_AT_ONCE = 1_024  # entries of an answer

BODIES: tuple[type[BaseModel], ...] = (
    wire.ScoreRequest,
    wire.CompareRequest,
    wire.BestOfNRequest,
    wire.TokenizeRequest,
)


@router.post("/score", response_model=wire.ScoreAnswer, openapi_extra=takes(wire.ScoreRequest))
async def score(request: Request) -> Response:
    """Score items: the raw reward of each, in order, with an ensemble's spread."""
    return await _answer(request, wire.ScoreRequest, answers.score)


@router.post(
    "/compare", response_model=wire.CompareAnswer, openapi_extra=takes(wire.CompareRequest)
)
async def compare(request: Request) -> Response:
    """Compare two or more responses to a prompt under Bradley-Terry."""
    return await _answer(request, wire.CompareRequest, answers.compare)


@router.post(
    "/best-of-n", response_model=wire.BestOfNAnswer, openapi_extra=takes(wire.BestOfNRequest)
)
async def best_of_n(request: Request) -> Response:
    """Pick the best of n responses to a prompt."""
    return await _answer(request, wire.BestOfNRequest, answers.best_of_n)


@router.post(
    "/tokenize", response_model=wire.TokenizeAnswer, openapi_extra=takes(wire.TokenizeRequest)
)
async def tokenize(request: Request) -> Response:
    """Show what the model sees: ids, reading position, rendered text."""
    wanted = await body_of(request, wire.TokenizeRequest)
    scorer = scorer_of(request)
    target = scorer.target(wanted.model)
    try:
        with _naming(target):
            entries = await cancel_on_disconnect(
                request, _tokens(scorer, wanted, request.state.holding)
            )
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    bare = wire.TokenizeAnswer(model=target.name, data=[]).model_dump_json().encode()
    head, tail = bare.split(_NO_DATA)
    pieces = [head + b'"data":[', *entries, b"]" + tail]
    return Pieces(pieces, {problems.REVISION: target.revision})


async def _tokens(scorer: Scorer, wanted: wire.TokenizeRequest, holding: Holding) -> list[bytes]:
    """Return the entries of an answer as JSON, some at a time: each has a string a token.

    Raises:
        BodyTooLarge, Overloaded: They take more memory than requests may hold.
    """
    written: list[bytes] = []
    async with contextlib.aclosing(inspection.tokenized(scorer, wanted)) as parts:
        async for entries in parts:
            comma = b"," if written else b""
            written.append(comma + await asyncio.to_thread(_written, entries))
            holding.take(holding.bytes + len(written[-1]))
    return written


@router.get("/models", response_model=wire.ModelList)
async def models(request: Request) -> Response:
    """List what is served."""
    scorer = scorer_of(request)
    owner = _owner(request)
    targets = scorer.served.targets.by_name.values()
    data = [inspection.describe(scorer, one, owner) for one in targets]
    return _json(wire.ModelList(data=data))


@router.get("/models/{name:path}", response_model=wire.ModelDetail)
async def model(request: Request, name: str) -> Response:
    """Show one target with its whole card."""
    scorer = scorer_of(request)
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
    answer: Callable[[Scorer, OptionsT, str], Awaitable[AnswerT]],
) -> Response:
    """Parse, answer unless the caller leaves first, and count how it ended."""
    scorer = scorer_of(request)
    route = request.url.path.rsplit("/", 1)[-1]
    begin = time.perf_counter()
    name, outcome = "", "ok"
    try:
        wanted = await body_of(request, kind)
        target = scorer.target(wanted.model)
        name = target.name
        with _naming(target):
            result = await cancel_on_disconnect(
                request, answer(scorer, wanted, f"{route}-{request.state.request_id}")
            )
        garbage.note([result.data])
        bad = await offload(len(result.data), lambda: any(entry.error for entry in result.data))
        outcome = "partial" if bad else "ok"
        bare = result.model_copy(update={"data": []})
        response = await offload(len(result.data), lambda: _json(bare, result.data))
        http_s = time.perf_counter() - begin - result.timing_ms.total / 1e3
        scorer.metrics.http(name, route, max(0.0, http_s))
    except ClientDisconnect:
        outcome = "client_gone"
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except AssayError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "internal_error"
        raise
    else:
        return response
    finally:
        scorer.metrics.request(name, route, outcome)


@contextlib.contextmanager
def _naming(target: Target) -> Iterator[None]:
    """Let an error name the revision that it is of."""
    try:
        yield
    except AssayError as error:
        error.revision = target.revision
        raise


def _json(answer: BaseModel, data: Sequence[BaseModel] = ()) -> Response:
    """Return an answer with `data` in place of its own, written in parts: each a short call."""
    parts = range(0, len(data), _WRITTEN_AT_ONCE)
    entries = b",".join(_written(data[at : at + _WRITTEN_AT_ONCE]) for at in parts)
    return Response(_with_data(answer, entries), media_type="application/json")


def _written(entries: Sequence[BaseModel]) -> bytes:
    """Return entries as they stand in a list of JSON."""
    return to_json(entries)[1:-1]


def _with_data(answer: BaseModel, entries: bytes) -> bytes:
    """Return an answer as JSON with written entries in place of no data."""
    content = answer.model_dump_json().encode()
    return content.replace(_NO_DATA, b'"data":[%b]' % entries, 1) if entries else content
