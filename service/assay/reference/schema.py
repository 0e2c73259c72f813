"""A JSON schema in words: the type, bounds and default of a field, as a reader would say them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Schema = dict[str, Any]

_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
}
# What bounds a type, from below and from above, with the unit that is counted.
_BOUNDS = (
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", ""),
    ("minProperties", "maxProperties", ""),
    ("minimum", "maximum", ""),
)
_OPEN_BOUNDS = {"exclusiveMinimum": "above {:,}", "exclusiveMaximum": "below {:,}"}


def row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table; a cell is one line, its bars escaped."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join([row(head), "|" + "---|" * len(head), *map(row, rows)])


def code(text: object) -> str:
    """Return a text in code style."""
    return f"`{text}`"


def words(schema: Schema, named: Callable[[str], str] = code, *, has_null: bool = True) -> str:
    """Return a type with its bounds.

    `named` says how another object's name is written; without `has_null` null is left out.
    """
    if "$ref" in schema:
        return named(schema["$ref"].rpartition("/")[2])
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        kept = [one for one in choices if has_null or one.get("type") != "null"]
        return " or ".join(dict.fromkeys(words(one, named) for one in kept))
    bounds = ", ".join(_bounds(schema))
    return _type(schema, named) + (f" ({bounds})" if bounds else "")


def default(schema: Schema, *, is_required: bool) -> str:
    """Return a field's default; a required one has none."""
    if is_required:
        return "required"
    value = schema.get("default")
    return "none" if value is None or value in ([], {}) else code(json.dumps(value))


def _bounds(schema: Schema) -> Iterator[str]:
    for low, high, unit in _BOUNDS:
        least, most = schema.get(low), schema.get(high)
        if least is not None and most is not None:
            yield f"{least:,}{unit}" if least == most else f"{least:,} to {most:,}{unit}"
        elif least is not None:
            yield f"at least {least:,}{unit.removesuffix('s') if least == 1 else unit}"
        elif most is not None:
            yield f"at most {most:,}{unit}"
    for key, said in _OPEN_BOUNDS.items():
        if key in schema:
            yield said.format(schema[key])


def _type(schema: Schema, named: Callable[[str], str]) -> str:
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(json.dumps(value)) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items") or {"anyOf": schema.get("prefixItems", [{}])}
        return f"list of {_inner(items, named)}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"{_inner(values, named)} by name" if isinstance(values, dict) else "object"
    return _TYPES.get(kind or "", "anything")


def _inner(schema: Schema, named: Callable[[str], str]) -> str:
    """Return the type of what a list or an object holds, without its bounds."""
    limits = {key for bound in _BOUNDS for key in bound} | _OPEN_BOUNDS.keys()
    bare = {key: value for key, value in schema.items() if key not in limits}
    said = words(bare, named)
    return f"({said})" if " or " in said else said
