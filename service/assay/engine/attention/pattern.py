"""Who sees whom, and what becomes of a product: what a layer asks of its attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from assay.engine.block_cache import Layer
    from assay.engine.packing import PackedBatch


@dataclass(frozen=True, slots=True)
class Pattern:
    """One layer's attention within a sequence."""

    scale: float
    causal: bool
    window: int | None = None  # tokens a row sees on each side it may see, itself included
    softcap: float | None = None  # products go through cap * tanh(x / cap)


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What layers have in common that attend by one kernel."""

    pattern: Pattern
    heads: int
    kv_heads: int
    width: int
    value_width: int


class AttentionBackend(Protocol):
    """A way to compute attention over a packed prefix batch."""

    def __call__(
        self,
        query: torch.Tensor,  # (heads, rows, width)
        key: torch.Tensor,  # (kv_heads, rows, width)
        value: torch.Tensor,  # (kv_heads, rows, value width)
        packed: PackedBatch,
        pattern: Pattern,
        layer: Layer | None = None,
        rows: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Return (rows, heads, value width); what it has outside every run, nobody reads.

        `layer` has the keys and values of the batch's held runs, where there are any. With `rows`,
        (read rows,) int32, the first queries are those of these rows alone, and so is what is
        returned; keys and values are still those of all.
        """
