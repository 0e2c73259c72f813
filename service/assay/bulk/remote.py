"""A running server as what a file is scored by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.bulk.record import Target

if TYPE_CHECKING:
    from assay import wire
    from assay.client.client import AsyncClient


class Remote:
    """A running server, through its client."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.score = client.score
        self.compare = client.compare
        self.best_of_n = client.best_of_n

    async def target(self, model: str | None) -> Target:
        """Return who answers under a name, or by default."""
        if model is not None:
            entry: wire.ModelEntry = await self._client.model(model)
        else:
            entry = next(entry for entry in (await self._client.models()).data if entry.default)
        return Target(
            model=entry.id,
            revision=entry.revision,
            dtype=entry.dtype,
            only_compares=entry.only_compares,
        )
