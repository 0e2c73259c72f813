"""Who asks: the name of the API key behind the request that is being answered."""

from __future__ import annotations

from contextvars import ContextVar

NAME: ContextVar[str] = ContextVar("caller", default="")  # "" where keys have no names
