"""What a request leaves behind, freed an element at a time by a thread.

The promise it keeps is that of `api.incremental_json`: no body holds up others.

Freeing a million messages is one call that takes a quarter of a second: the interpreter, and with
it the loop, stands still until it is over.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from assay.scoring.offload import ON_THE_LOOP_ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterable

_LEFT: ContextVar[list[list[Any]] | None] = ContextVar("left", default=None)


def collected() -> list[list[Any]]:
    """Return where this request's lists are noted from now on."""
    left: list[list[Any]] = []
    _LEFT.set(left)
    return left


def note(values: Iterable[object]) -> None:
    """Note those of the values that are long lists, which nobody needs once a request is over."""
    left = _LEFT.get()
    if left is None:
        return
    for value in values:
        if isinstance(value, list) and len(value) > ON_THE_LOOP_ITEMS:
            left.append(value)


def free(lists: Iterable[list[Any]]) -> None:
    """Free what is in these lists, soon and not on the loop."""
    asyncio.get_running_loop().run_in_executor(None, empty, lists)


def empty(lists: Iterable[list[Any]]) -> None:
    """Free what is in these lists; others have their turn between any two elements."""
    for elements in lists:
        while elements:
            elements.pop()
