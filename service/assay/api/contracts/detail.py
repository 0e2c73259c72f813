"""A bad request as FastAPI tells it, for contracts whose servers leave that to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.errors import AssayError

_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def of(error: AssayError) -> dict[str, Any]:
    """Return the body: where in the request something is wrong, and what."""
    places = [int(index) if index else name for index, name in _PART.findall(error.param or "")]
    message = error.message.removeprefix(f"field '{error.param}': ")
    return {"detail": [{"loc": ["body", *places], "msg": message, "type": error.code}]}
