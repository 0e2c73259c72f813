"""An answer, awaited unless its caller leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import ClientDisconnect

from assay.errors import Draining

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from fastapi import Request

T = TypeVar("T")
STOPPED = "the server is stopping and doesn't answer this any more; send it to another"


async def cancel_on_disconnect(request: Request, answer: Awaitable[T]) -> T:
    """Await the answer, or give it up when the caller hangs up.

    Raises:
        ClientDisconnect: The caller did.
        Draining: The server stops and waits no longer.
    """
    work = asyncio.current_task()
    assert work is not None
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        work.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await answer
    except asyncio.CancelledError:
        if is_gone and not work.uncancel():
            raise ClientDisconnect from None
        raise Draining(STOPPED, retry_after_s=1) from None
    finally:
        watcher.cancel()
