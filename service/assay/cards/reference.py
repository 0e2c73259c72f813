"""The schema of `card.toml` as Markdown: every table and field, from the schema itself.

`python -m assay.cards.reference docs/cards.md` writes it between the marks of a document, whose
other words stay. Not here: what a field does, which the schema's own words say.
"""

from __future__ import annotations

import inspect
import json
import sys
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from assay.cards.card import Card
from assay.cards.mechanism import Table

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    date: "date",
    NoneType: "nothing",
}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_NAME = "NAME"  # stands for a key that a card chooses

Tables = dict[type[Table], list[str]]


def markdown() -> str:
    """Return the reference: a section for each table, the whole card first."""
    return "\n\n".join(_section(table, paths) for table, paths in _tables().items()) + "\n"


def filled(document: str, generated: str) -> str:
    """Return a document with what stands between its marks replaced."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{generated}\n{END}{tail}"


def _tables() -> Tables:
    """Return every table of a card with the paths that it stands at, a table's own behind it."""
    tables: Tables = {}
    waiting: list[tuple[type[Table], str]] = [(Card, "")]
    while waiting:
        table, path = waiting.pop(0)
        tables.setdefault(table, []).append(path)
        nested = [
            inner
            for name, field in table.model_fields.items()
            for inner in _inner(field.annotation, f"{path}.{name}".removeprefix("."))
        ]
        waiting = nested + waiting
    return tables


def _inner(annotation: Any, path: str) -> list[tuple[type[Table], str]]:
    """Return the tables within a field, each with its path; `[[…]]` is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return [(annotation, path)]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return []
    if origin is dict:
        return _inner(arguments[1], f"{path}.{_NAME}")
    if origin is list:
        return _inner(arguments[0], f"[{path}]")
    return [inner for argument in arguments for inner in _inner(argument, path)]


def _section(table: type[Table], paths: list[str]) -> str:
    """Return one table's section: where it stands, what it is, its fields."""
    fields = table.model_fields
    title = "The card itself" if table is Card else ", ".join(f"`[{path}]`" for path in paths)
    if "op" in fields:
        title = f"{table.__name__}: a layer of a head"
    head = ["| field | type | default | |", "|---|---|---|---|"]
    rows = "\n".join([*head, *(_row(name, field) for name, field in fields.items())])
    return "\n\n".join([f"### {title}", inspect.cleandoc(table.__doc__ or ""), rows])


def _row(name: str, field: FieldInfo) -> str:
    cells = [f"`{name}`", _type(field), _default(field), field.description or ""]
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _type(field: FieldInfo) -> str:
    """Return a field's type and bounds in words."""
    bounds = [
        f"{word} {getattr(bound, key)}"
        for bound in field.metadata
        for key, word in _BOUNDS.items()
        if hasattr(bound, key)
    ]
    least = [
        f"at least {bound.min_length}" for bound in field.metadata if hasattr(bound, "min_length")
    ]
    return ", ".join([_words(field.annotation), *bounds, *least])


def _words(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    words = [
        _words(argument)
        for argument in arguments
        if isinstance(argument, type) or get_origin(argument)
    ]
    if origin is Annotated:
        return words[0]
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(word for word in words if word != _WORDS[NoneType]))
    if origin is dict:
        return f"table by name: {words[1]}"
    if origin in (list, tuple):
        return f"list of {words[0]}"
    return _WORDS.get(annotation) or ("layer" if "op" in annotation.model_fields else "table")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, Table):
        return "its own"
    return "none" if value is None or value in ([], {}) else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text(encoding="utf-8"), markdown()), encoding="utf-8")
