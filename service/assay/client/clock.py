"""The event loop's clock: deadlines, rests and patience are measured by it."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Return the running loop's time in seconds; from an arbitrary moment, never backwards."""
    return asyncio.get_running_loop().time()
