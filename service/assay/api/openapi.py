"""The OpenAPI document: FastAPI's own, with all errors and the bodies that routes parse themselves.

What contracts answer has no schema but that of their errors, read off the errors themselves.
"""

from __future__ import annotations

import copy
import inspect
import re
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from assay import errors, wire
from assay.api.contracts import CONTRACTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fastapi import APIRouter, FastAPI
    from pydantic import BaseModel

    from assay.api.contracts.contract import Contract
    from assay.errors import AssayError

_REFERENCES = "#/components/schemas/{model}"
_JSON = "application/json"
_SOMETHING = {"type": "object", "not": {"required": ["revision"]}}  # as no native answer is
_ANYWHERE = (errors.Unauthorized, errors.Forbidden, errors.InternalError)
_WITHOUT_BODY = (*_ANYWHERE, errors.UnknownTarget, errors.NotReady)
_WITH_BODY = (
    *_WITHOUT_BODY,
    errors.MalformedBody,
    errors.BodyTooSlow,
    errors.BodyTooLarge,
    errors.UnsupportedMedia,
    errors.InvalidField,
    errors.TemplateRefused,
    errors.EmptyItem,
    errors.ItemTooLong,
    errors.Overloaded,
    errors.Draining,
    errors.DeadlineExceeded,
    errors.NonFiniteScore,
    errors.ForwardFailed,
)
_OF_CONTRACTS = (*_WITH_BODY, errors.Unanswerable)
_OF_CHANGES = (*_WITH_BODY, errors.ChangeRefused)


def takes(model: type[BaseModel], *, is_required: bool = True) -> dict[str, object]:
    """Return the words for a route that takes a body of this model; `document` adds its schema."""
    reference = {"$ref": _REFERENCES.format(model=model.__name__)}
    return {"requestBody": {"required": is_required, "content": {_JSON: {"schema": reference}}}}


def document(app: FastAPI, posted: APIRouter, native: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return the document; it takes a while.

    Args:
        app: What FastAPI serves.
        posted: Routes of our own that it only documents.
        native: The bodies of routes of our own.
    """
    routes = [*posted.routes, *app.routes]
    schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=routes)
    bodies = {*native, *(contract.request for contract in CONTRACTS)}
    names, models = models_json_schema(
        [
            *((model, "validation") for model in sorted(bodies, key=lambda x: x.__qualname__)),
            (wire.ErrorAnswer, "serialization"),
        ],
        ref_template=_REFERENCES,
    )
    schema["components"]["schemas"] |= models["$defs"]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            _add_native_errors(path, operation)
    _add_shared(schema["paths"])
    for contract in CONTRACTS:
        for path in contract.paths:
            _add(schema["paths"], path, contract, dict(names[contract.request, "validation"]))
    return schema


def _add_shared(paths: dict[str, Any]) -> None:
    """Add the native paths under /v1 that a contract has, too; the others go without saying."""
    foreign = {path for contract in CONTRACTS for path in contract.paths}
    for path in [path for path in paths if f"/v1{path}" in foreign]:
        twin = copy.deepcopy(paths[path])
        for operation in twin.values():
            operation["operationId"] += "_v1"
        paths[f"/v1{path}"] = twin


def _add(paths: dict[str, Any], path: str, contract: Contract, body: dict[str, Any]) -> None:
    """Add a contract's body to what its path takes."""
    words = inspect.getdoc(inspect.getmodule(contract.answer)) or ""
    operation = paths.setdefault(path, {}).setdefault("post", _operation(contract, path))
    _add_answers(operation["responses"], contract)
    content = operation["requestBody"]["content"][_JSON]
    schemas = content["schema"].get("anyOf", [content["schema"]] if content["schema"] else [])
    if body not in schemas:
        content["schema"] = {"anyOf": [*schemas, body]}
        operation["description"] = f"{operation.get('description', '')}\n\n{words}".strip()
    if contract.route not in operation["summary"].split(", "):
        operation["summary"] += f", {contract.route}"


def _operation(contract: Contract, path: str) -> dict[str, Any]:
    parts = re.findall(r"\{(\w+)\}", path)
    string = {"type": "string"}
    return {
        "parameters": [
            {"name": part, "in": "path", "required": True, "schema": string} for part in parts
        ],
        "tags": ["contracts of others"],
        "summary": contract.route,
        "requestBody": {"required": True, "content": {_JSON: {"schema": {}}}},
        "responses": {"200": {"description": "The contract's answer.", "content": {_JSON: {}}}},
    }


def _add_native_errors(path: str, operation: dict[str, Any]) -> None:
    """Add the errors of a route of our own; those that it states itself stay as they are."""
    kinds: Sequence[type[AssayError]] = _WITH_BODY if "requestBody" in operation else _WITHOUT_BODY
    if path.startswith("/admin/"):
        kinds = _OF_CHANGES
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]  # FastAPI's, which no route answers
    reference = {"$ref": _REFERENCES.format(model=wire.ErrorAnswer.__name__)}
    for kind in kinds:
        if str(kind.status) not in operation["responses"]:
            _add_error(responses, kind.status, reference)


def _add_answers(responses: dict[str, Any], contract: Contract) -> None:
    """Add what a contract answers to what its path does."""
    content = responses["200"]["content"][_JSON]
    native = content.get("schema")
    if native and "anyOf" not in native:
        content["schema"] = {"anyOf": [native, _SOMETHING]}
    for status, body in _refusals(contract):
        _add_error(responses, status, _like(body))


def _refusals(contract: Contract) -> Iterator[tuple[int, Any]]:
    """Return status and body of each error as a contract spells it."""
    for kind in _OF_CONTRACTS:
        yield contract.problem(kind("..."), "...")


def _add_error(responses: dict[str, Any], status: int, schema: dict[str, Any]) -> None:
    response = responses.setdefault(
        str(status),
        {"description": _reasons(status), "content": {_JSON: {"schema": {"anyOf": []}}}},
    )
    schemas = response["content"][_JSON]["schema"]["anyOf"]
    if schema not in schemas:
        schemas.append(schema)


def _reasons(status: int) -> str:
    kinds: list[type[AssayError]] = [kind for kind in _OF_CONTRACTS if kind.status == status]
    words = [inspect.cleandoc(kind.__doc__ or "").partition("\n")[0] for kind in kinds]
    return " ".join(words) or "An error as the contract spells it."


def _like(example: object) -> dict[str, Any]:
    """Return the schema of what has the fields of an example, by name."""
    if not isinstance(example, dict):
        return {}
    inner = {name: _like(value) for name, value in example.items()}
    return {"type": "object", "required": list(example), "properties": inner}
