"""How long a sequence may be for its positions to mean the same in any batch.

Two kinds of rotary positions ask how long the longest sequence of a batch is: beyond the length the
model was first trained with, `longrope` (Phi-3) and `dynamic` (NTK) turn every sequence's positions
otherwise. Up to that length a score doesn't depend on its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEPEND_ON_THE_BATCH = {"longrope", "su", "dynamic"}


def steady_tokens(config: Mapping[str, Any]) -> int | None:
    """Return that length by a model's config; None where positions never depend on the batch."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]  # or one a layer type
    lengths = [
        one.get("original_max_position_embeddings")
        or config.get("original_max_position_embeddings")
        or config.get("max_position_embeddings")
        for one in kinds
        if one.get("rope_type", one.get("type")) in _DEPEND_ON_THE_BATCH
    ]
    return min(map(int, filter(None, lengths)), default=None)
