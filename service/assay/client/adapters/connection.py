"""The connections behind rewards: one client a process for threads, one an event loop for tasks.

Rewards are pickled, forked and called from loops that come and go, so they hold no client: they
look for theirs here. A forked process has connections of its own.
"""

from __future__ import annotations

import asyncio
import atexit
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.client.client import AsyncClient
from assay.client.sync import Client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@dataclass(frozen=True, slots=True)
class AdapterConnection:
    """Where to, and how; equal ones share a client."""

    urls: tuple[str, ...]
    api_key: str | None
    timeout_s: float | None
    patience_s: float
    retries: int | None

    def client(self) -> Client:
        """Return the client for callers without an event loop."""
        client = _clients.get(self)
        return client or _clients.setdefault(
            self,
            Client(
                *self.urls,
                api_key=self.api_key,
                timeout_s=self.timeout_s,
                patience_s=self.patience_s,
                retries=self.retries,
            ),
        )

    async def aclient(self) -> AsyncClient:
        """Return the client of the running loop."""
        loop = asyncio.get_running_loop()
        _forget_closed()
        held = _of_loops.setdefault(loop, {})
        if self not in held:
            life = self._lived(loop)
            held[self] = _Held(await anext(life), life)
        return held[self].client

    async def _lived(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[AsyncClient, None]:
        """Yield a client that is closed when its loop ends: `asyncio.run` closes generators."""
        client = AsyncClient(
            *self.urls,
            api_key=self.api_key,
            timeout_s=self.timeout_s,
            patience_s=self.patience_s,
            retries=self.retries,
        )
        try:
            yield client
        finally:
            _of_loops.pop(loop, None)
            await client.aclose()


@dataclass(frozen=True, slots=True)
class _Held:
    client: AsyncClient
    life: AsyncGenerator[AsyncClient, None]


_clients: dict[AdapterConnection, Client] = {}
_of_loops: dict[asyncio.AbstractEventLoop, dict[AdapterConnection, _Held]] = {}


@atexit.register
def close() -> None:
    """Close the connections that callers without an event loop have opened."""
    while _clients:
        _, client = _clients.popitem()
        client.close()


def _forget_closed() -> None:
    for loop in list(_of_loops):
        if loop.is_closed():
            del _of_loops[loop]
