"""Work that grows with a request's items: on the loop while it is short, else in a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ON_THE_LOOP_ITEMS = 64  # below a millisecond of the work there is; a thread costs a tenth of that
ResultT = TypeVar("ResultT")


async def aside(items: int, work: Callable[[], ResultT]) -> ResultT:
    """Return the work's result without holding up the loop."""
    return work() if items <= ON_THE_LOOP_ITEMS else await asyncio.to_thread(work)
