"""docs/http.md: the native routes, and every field of what they take and answer.

Not here: other servers' contracts, which the guides and the OpenAPI document describe.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute

from assay import wire
from assay.api import admin, health, native
from assay.reference.schema import code, default, table, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from assay.reference.schema import Schema

# In the order in which a reader needs them.
REQUESTS: tuple[type[BaseModel], ...] = (
    wire.TemplateInputs,
    wire.Options,
    wire.ScoreRequest,
    wire.NamedTarget,
    wire.Item,
    wire.Message,
    wire.TextPart,
    wire.CompareRequest,
    wire.Comparison,
    wire.BestOfNRequest,
    wire.Group,
    wire.TokenizeRequest,
    wire.ModelReference,
    wire.ModelToLoad,
    wire.Reload,
)
ANSWERS: tuple[type[BaseModel], ...] = (
    wire.Envelope,
    wire.Usage,
    wire.Timing,
    wire.Entry,
    wire.ItemError,
    wire.ScoreAnswer,
    wire.ScoreEntry,
    wire.Reward,
    wire.TargetRevision,
    wire.Uncertainty,
    wire.CompareAnswer,
    wire.CompareEntry,
    wire.BestOfNAnswer,
    wire.BestOfNEntry,
    wire.Candidate,
    wire.Ranked,
    wire.TokenizeAnswer,
    wire.TokenizeEntry,
    wire.ModelList,
    wire.ModelEntry,
    wire.Stats,
    wire.PartEntry,
    wire.GateEntry,
    wire.CalibrationEntry,
    wire.ModelDetail,
    wire.ReadyAnswer,
    wire.ErrorAnswer,
    wire.ErrorBody,
)
# Taken where it is empty, as the openai package writes it; nobody sends it on purpose.
_LEFT_OUT: dict[type[BaseModel], frozenset[str]] = {
    wire.Message: frozenset({"refusal", "annotations", "audio", "function_call"})
}


def markdown() -> str:
    """Return the routes, then what they take, then what they answer."""
    requests = "\n\n".join(_section(one, "validation") for one in REQUESTS)
    answers = "\n\n".join(_section(one, "serialization") for one in ANSWERS)
    return f"## Routes\n\n{_routes()}\n\n## Requests\n\n{requests}\n\n## Answers\n\n{answers}\n"


def own_fields(model: type[BaseModel]) -> Iterator[str]:
    """Yield the fields that a model has of its own, not by what it extends."""
    inherited = {name for base in _bases(model) for name in base.model_fields}
    for name in model.model_fields:
        if (name not in inherited or name in inspect.get_annotations(model)) and name not in (
            _LEFT_OUT.get(model, ())
        ):
            yield name


def _bases(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [base for base in model.__bases__ if base in (*REQUESTS, *ANSWERS)]


def _routes() -> str:
    rows = [
        [
            code(f"{' '.join(sorted(route.methods or ()))} {route.path.replace(':path', '')}"),
            _body(route),
            _answer(route),
            (inspect.getdoc(route.endpoint) or "").partition("\n")[0],
        ]
        for router in (native.posted, native.router, health.router, admin.router)
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
    ]
    return table(("route", "takes", "answers", "does"), rows)


def _body(route: APIRoute) -> str:
    taken: dict[str, Any] = (route.openapi_extra or {}).get("requestBody", {}).get("content", {})
    schema: Schema = taken.get("application/json", {}).get("schema", {})
    return words(schema, _linked) if schema else ""


def _answer(route: APIRoute) -> str:
    model = route.response_model
    return _linked(model.__name__) if inspect.isclass(model) and model in ANSWERS else ""


def _section(model: type[BaseModel], mode: Any) -> str:
    schema = model.model_json_schema(mode=mode)
    schema = schema if "properties" in schema else schema.get("$defs", {})[model.__name__]
    names = list(own_fields(model))
    parts = [f"### {model.__name__}", inspect.getdoc(model) or ""]
    if bases := _bases(model):
        which = " and ".join(_linked(base.__name__) for base in bases)
        parts.append(f"It has the fields of {which}" + (", and:" if names else "."))
    if names:
        is_sent = mode == "validation"
        rows = [_row(name, schema, is_sent=is_sent) for name in names]
        head = ["field", "type", *(["default"] if is_sent else []), "meaning"]
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def _row(name: str, schema: Schema, *, is_sent: bool) -> list[str]:
    field = schema["properties"][name]
    said = field.get("description", "")
    if not is_sent:
        return [code(name), words(field, _linked), said]
    said_type = words(field, _linked, has_null=False)
    is_required = name in schema.get("required", ())
    return [code(name), said_type, default(field, is_required=is_required), said]


def _linked(name: str) -> str:
    known = {one.__name__ for one in (*REQUESTS, *ANSWERS)}
    return f"[{name}](#{name.lower()})" if name in known else code(name)
