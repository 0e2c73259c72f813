"""How foreign contracts spell errors: what several have in common.

A shape turns an error and the request's id into a status and a body (`request_context.Shape`).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from assay.errors import Overloaded

if TYPE_CHECKING:
    from assay.errors import AssayError

_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def message_with_field(error: AssayError) -> str:
    """Return an error's message with the field it is about, for a shape without one for that."""
    if error.param is None or error.param in error.message:
        return error.message
    return f"{error.param}: {error.message}"


def named(error: AssayError) -> tuple[int, str]:
    """Return an error's status and vLLM's type; a request that can't be answered is a 400."""
    status = HTTPStatus(400 if error.status == 422 else error.status)
    name = status.phrase.replace(" ", "")
    return status.value, name if name.endswith("Error") else f"{name}Error"


def openai_type(error: AssayError) -> str:
    """Return OpenAI's type of an error."""
    if isinstance(error, Overloaded):
        return "overloaded_error"
    return "invalid_request_error" if error.status < 500 else "server_error"


def fields(error: AssayError, kind: str, code: int | str) -> dict[str, Any]:
    """Return the fields that OpenAI's clients read."""
    return {"message": error.message, "type": kind, "param": error.param, "code": code}


def nested(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    """Spell an error as vLLM does."""
    status, kind = named(error)
    return status, {"error": fields(error, kind, status)}


def flat(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    """Spell an error as SGLang's routes do that are like OpenAI's."""
    status, kind = named(error)
    return status, {"object": "error", **fields(error, kind, status)}


def sentence(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    """Spell an error as FastAPI does that a server raises by itself."""
    return error.status, {"detail": message_with_field(error)}


def located(error: AssayError, request_id: str) -> tuple[int, dict[str, Any]]:
    """Spell a bad request as FastAPI does, by its place; any other error is a sentence."""
    if error.status != 422:
        return sentence(error, request_id)
    places = [int(index) if index else name for index, name in _PART.findall(error.param or "")]
    message = error.message.removeprefix(f"field '{error.param}': ")
    return 422, {"detail": [{"loc": ["body", *places], "msg": message, "type": error.code}]}
