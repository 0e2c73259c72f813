"""docs/errors.md: every error by its code, with its status, and whether a retry may help."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from assay import errors
from assay.reference.schema import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTIONS = (
    (errors.RequestError, "The request is at fault"),
    (errors.ServiceError, "The service is at fault"),
    (errors.StartupError, "The process can't start"),
)


def markdown() -> str:
    """Return a table for each branch of the tree."""
    sections = []
    for branch, title in _SECTIONS:
        is_answered = branch is not errors.StartupError
        head = ["code", *(["status", "retry"] if is_answered else []), "class", "meaning"]
        rows = [_row(leaf, is_answered=is_answered) for leaf in leaves(branch)]
        sections.append(f"### {title}\n\n{inspect.getdoc(branch)}\n\n{table(head, rows)}")
    return "\n\n".join(sections) + "\n"


def leaves(error: type[errors.AssayError]) -> Iterator[type[errors.AssayError]]:
    """Yield the errors that are raised: those without a kind of their own."""
    children = error.__subclasses__()
    for child in children:
        yield from leaves(child)
    if not children:
        yield error


def _row(leaf: type[errors.AssayError], *, is_answered: bool) -> list[str]:
    name, said = code(leaf.__name__), inspect.getdoc(leaf) or ""
    if not is_answered:
        return [code(leaf.code), name, said]
    return [code(leaf.code), str(leaf.status), "yes" if leaf.retryable else "no", name, said]
