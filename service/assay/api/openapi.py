"""The OpenAPI document: FastAPI's own, with the bodies that routes parse themselves."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from assay.api import native
from assay.api.dialects import CONTRACTS

if TYPE_CHECKING:
    from fastapi import FastAPI

    from assay.api.dialects.contract import Contract

_REFERENCES = "#/components/schemas/{model}"
_JSON = "application/json"


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document, made once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        bodies = {*native.BODIES, *(contract.request for contract in CONTRACTS)}
        names, models = models_json_schema(
            [(model, "validation") for model in sorted(bodies, key=lambda one: one.__qualname__)],
            ref_template=_REFERENCES,
        )
        schema["components"]["schemas"] |= models["$defs"]
        for contract in CONTRACTS:
            for path in contract.paths:
                _add(schema["paths"], path, contract, dict(names[contract.request, "validation"]))
        app.openapi_schema = schema
    return app.openapi_schema


def _add(paths: dict[str, Any], path: str, contract: Contract, body: dict[str, Any]) -> None:
    """Add a contract's body to what its path takes."""
    words = inspect.getdoc(inspect.getmodule(contract.answer)) or ""
    operation = paths.setdefault(path, {}).setdefault("post", _operation(contract))
    content = operation["requestBody"]["content"][_JSON]
    taken = content["schema"].get("anyOf", [content["schema"]] if content["schema"] else [])
    if body not in taken:
        content["schema"] = {"anyOf": [*taken, body]}
        operation["description"] = f"{operation.get('description', '')}\n\n{words}".strip()
    if contract.route not in operation["summary"].split(", "):
        operation["summary"] += f", {contract.route}"


def _operation(contract: Contract) -> dict[str, Any]:
    return {
        "tags": ["contracts of others"],
        "summary": contract.route,
        "requestBody": {"required": True, "content": {_JSON: {"schema": {}}}},
        "responses": {
            "200": {"description": "The contract's answer.", "content": {_JSON: {}}},
            "default": {"description": "The contract's error.", "content": {_JSON: {}}},
        },
    }
