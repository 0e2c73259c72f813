"""What pydantic finds wrong, in our words: one sentence, and the field that would be right."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_ANSWERS = {"response", "responses", "chosen", "rejected"}  # often sent as whole conversations
_SURELY = 0.8  # so much alike are a name and one that is misspelt


def first(error: ValidationError, kind: type[BaseModel]) -> tuple[tuple[int | str, ...], str]:
    """Return where the most telling error is, and what: a misspelt field before a missing one.

    `kind` is what was validated. Values are never repeated.
    """
    details = error.errors(include_url=False, include_input=False)
    detail = max(details, key=lambda candidate: candidate["type"] == "extra_forbidden")
    if detail["type"] != "extra_forbidden":
        return detail["loc"], sentence(detail)
    *inside, name = detail["loc"]
    near = get_close_matches(str(name), _fields(kind, inside), n=1, cutoff=_SURELY)
    return detail["loc"], f"unknown field; did you mean '{near[0]}'?" if near else "unknown field"


def sentence(detail: ErrorDetails) -> str:
    """Return an error's message: of a check of our own only what that says."""
    if detail["type"] == "string_type" and _ANSWERS & {*detail["loc"][-2:]}:
        return "send the answer's text; the turns before it are the 'prompt'"
    if detail["type"] == "model_type":
        return "Input should be an object"
    return detail["msg"].removeprefix("Value error, ")


def not_json(reason: str) -> str:
    """Return why a body isn't JSON; half of a character is what json.dumps writes of a cut text."""
    if "surrogate" in reason or "hex escape" in reason:
        reason += ": half of a character, cut in two; send whole characters"
    return f"the body is not valid JSON: {reason}"


def _fields(kind: type[BaseModel], inside: list[int | str]) -> list[str]:
    """Return the fields of what is at a place inside."""
    kinds = [kind]
    for part in inside:
        fields = [model.model_fields[part] for model in kinds if part in model.model_fields]
        if fields:  # else the key of a table, or the place in a list
            kinds = [model for field in fields for model in _models(field.annotation)]
    return [name for model in kinds for name in model.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
