"""Every error as an answer: the tree of `assay.errors` to status, body and headers.

The body is the native one, or a foreign contract's, which gives the `Shape` of its errors.
"""

from __future__ import annotations

import logging
import math
import traceback
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from assay import validation, wire
from assay.api import coding
from assay.api.request_context import context_of
from assay.errors import (
    AssayError,
    InternalError,
    InvalidField,
    MalformedBody,
    MethodNotAllowed,
    UnknownRoute,
    shown,
)
from assay.telemetry.metrics import CLIENT_GONE

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from assay.api.request_context import RequestContext

logger = logging.getLogger("assay.access")
_CLIENT_CLOSED_REQUEST = 499
MOST_ERRORS = 1_000  # that are looked at for the most telling
_SURELY = 0.8  # so much alike are a name and one that is misspelt
_FORMS = {
    *("as-text", "as-messages", "as-parts", "as-object"),
    *("as-pair", "as-batch", "as-predict", "as-rerank"),
}
_INSIDE: dict[int | str, type[wire.Request]] = {
    "comparisons": wire.Comparison,
    "groups": wire.Group,
    "inputs": wire.Item,
    "messages": wire.Message,
    "prompt": wire.Message,
    "targets": wire.NamedTarget,
}
# Forms of an item that don't stand at the top level.
_ITEMS: dict[int | str, str] = {"messages": "[...]", "text": '"..."', "input_ids": "[...]"}
# What fields of ours are called elsewhere, where their names aren't alike.
_ELSEWHERE = {
    **dict.fromkeys(("items", "pairs", "samples", "instances", "data", "texts"), "inputs"),
    **dict.fromkeys(("candidates", "completions", "outputs", "answers", "documents"), "responses"),
    **dict.fromkeys(("completion", "output", "answer", "document"), "response"),
    **dict.fromkeys(("query", "question", "instruction", "input"), "prompt"),
    **dict.fromkeys(("conversation", "conversations", "chat", "turns"), "messages"),
    **dict.fromkeys(("ids", "tokens", "token_ids", "prompt_token_ids"), "input_ids"),
    **dict.fromkeys(("k", "n", "top_n"), "top_k"),
    **dict.fromkeys(("lambda", "coefficient"), "penalty"),
    **dict.fromkeys(("timeout", "timeout_ms", "deadline"), "deadline_ms"),
    **dict.fromkeys(("weights", "weight"), "attributes"),
    **dict.fromkeys(("strategy", "method"), "rule"),
    "margin": "tie_margin",
    "raw_scores": "activation",
}
_HTTP: dict[int, type[AssayError]] = {404: UnknownRoute, 405: MethodNotAllowed}


def install(app: FastAPI) -> None:
    """Answer what routes and the router raise in the native shape."""
    for kind in (AssayError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def body(error: AssayError, request_id: str) -> dict[str, Any]:
    """Return the native body of an error."""
    answer = wire.ErrorAnswer(
        error=wire.ErrorBody(
            code=error.code, message=error.message, param=error.param, retryable=error.retryable
        ),
        request_id=request_id,
    )
    return answer.model_dump()


def native(error: AssayError, request_id: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the native body of an error."""
    return error.status, body(error, request_id)


def answer(error: AssayError, context: RequestContext) -> JSONResponse:
    """Return an error as the answer of a request, in the shape of its route."""
    context.outcome = error.code
    status, content = context.shape(error, context.request_id)
    return JSONResponse(content, status_code=status, headers=headers(error) | context.headers)


def answered(error: Exception, context: RequestContext) -> Response:
    """Return the answer to whatever was raised; what isn't ours is a defect, and logged.

    Without its message, which may quote what was asked.
    """
    if isinstance(error, ClientDisconnect):
        context.outcome = CLIENT_GONE
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
    if not isinstance(error, AssayError):
        lines = traceback.format_tb(error.__traceback__)
        where = "".join([*lines, type(error).__qualname__])
        logger.error("request %s failed:\n%s", context.request_id, where)
        message = f"a defect of Assay; the log has it under request {context.request_id}"
        error = InternalError(message)
    return answer(error, context)


def headers(error: AssayError) -> dict[str, str]:
    """Return the headers of an error."""
    if error.retry_after_s is not None:
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if error.param == "content-encoding":
        return {"Accept-Encoding": ", ".join(coding.KNOWN)}
    return {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}


def not_allowed(path: str, method: str) -> str:
    """Return what to say to a method that a path doesn't take."""
    return f"{shown(path)} doesn't take {method}; GET /docs lists the routes"


def from_validation(error: ValidationError, kind: type[wire.Request]) -> AssayError:
    """Return what is wrong with a request of that kind: where, and what would be right."""
    if error.error_count() > MOST_ERRORS:
        return too_many(error)
    details = error.errors(include_url=False, include_input=False)
    first = max(details, key=_telling)
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it can't be parsed")
        return MalformedBody(validation.not_json(reason))
    path = path_of(first["loc"])
    if first["type"] == "extra_forbidden":
        hint = _hint(first["loc"], kind)
        return InvalidField(f"unknown field '{path}'; {hint}", param=path)
    message = validation.sentence(first)
    if path:
        return InvalidField(f"field '{path}': {message}", param=path)
    return InvalidField(message if first["type"] == "value_error" else f"the body: {message}")


def too_many(error: ValidationError) -> InvalidField:
    """Return what is wrong where so much is that to say it would hold up others."""
    return InvalidField(
        f"{error.error_count()} fields are unknown, missing or wrong; GET /docs lists them all"
    )


def _telling(detail: ErrorDetails) -> tuple[bool, int]:
    """Prefer a misspelt field over what is missing in its place, and the innermost location."""
    return detail["type"] == "extra_forbidden", len(detail["loc"])


def _hint(location: tuple[int | str, ...], kind: type[wire.Request]) -> str:
    """Say what to send instead of an unknown field."""
    name = _ELSEWHERE.get(str(location[-1]), location[-1])
    if len(location) == 1 and name in _ITEMS and "inputs" in kind.model_fields:
        return f'send "inputs": [{{"{name}": {_ITEMS[name]}}}]'
    if name == "messages" and "inputs" not in kind.model_fields:
        return "send the turns before the responses as 'prompt'"
    if location == ("query",) and "inputs" in kind.model_fields:
        return "did you mean 'prompt'? A rerank is for /rerank, OpenRLHF's body for /get_reward"
    near = _nearest(location, kind)
    return f"did you mean '{near}'?" if near else "remove it or check its spelling"


def _nearest(location: tuple[int | str, ...], kind: type[wire.Request]) -> str | None:
    """Return the field of that place whose name is most like the one that was given."""
    names = [part for part in location[:-1] if part in _INSIDE]
    fields = (_INSIDE[names[-1]] if names else kind).model_fields
    name = str(location[-1])
    near = get_close_matches(name, fields, n=1, cutoff=_SURELY)
    elsewhere = [_ELSEWHERE[name]] if _ELSEWHERE.get(name) in fields else []
    return next(iter([*near, *elsewhere, *get_close_matches(name, fields, n=1)]), None)


def path_of(location: tuple[int | str, ...]) -> str:
    """Return where in a request something is, as errors name it; a long name in it is cut."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in _FORMS:
            path += f".{shown(part)}" if path else shown(part)
    return path


def _on_error(request: Request, error: Exception) -> Response:
    return answered(error, context_of(request))


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _HTTP.get(error.status_code, MalformedBody)
    message = {
        404: f"there is no {shown(request.url.path)}; GET /docs lists the routes",
        405: not_allowed(request.url.path, request.method),
    }.get(error.status_code, "the request can't be read")
    response = answer(kind(message), context_of(request))
    response.headers.update(error.headers or {})  # a 405's Allow
    return response
