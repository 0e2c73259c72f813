"""Who asks: the name of the API key behind the request that is being answered."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from typing import Literal

NAME: ContextVar[str] = ContextVar("caller", default="")  # "" where keys have no names


def scope(salt: str | None, sharing: Literal["caller", "all"]) -> str:
    """Return whose prefixes a request may share: those of its caller's own, or of all.

    With a salt only those of requests with the same salt among them. A key's name has no blanks.
    """
    name = NAME.get() if sharing == "caller" else ""
    if salt is None:
        return name
    digest = hashlib.sha256(salt.encode(errors="surrogatepass")).hexdigest()
    return f"{name} {digest}"
