"""Keys and values that the device keeps between batches, in blocks of `BLOCK_TOKENS` tokens.

The front says which block is whose (`scheduling.prefix_cache`); here is only their memory. A
token's keys and values depend on the tokens before it alone, so what an earlier batch computed has
the bits that this one would compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay.worker_protocol import BLOCK_TOKENS

if TYPE_CHECKING:
    from assay.engine.packing import PackedBatch


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer's kept keys and values, a slot a token."""

    keys: torch.Tensor  # (slots, kv_heads, width)
    values: torch.Tensor  # (slots, kv_heads, value width)

    def behind(
        self, key: torch.Tensor, value: torch.Tensor, packed: PackedBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch's keys and values with those of its held runs behind them.

        Both are (kv_heads, rows + held tokens, width): what `packed.starts` counts in.
        """
        slots = packed.on(key.device)["cached_slots"]
        return (
            torch.cat([key, self.keys[slots].transpose(0, 1)], dim=1),
            torch.cat([value, self.values[slots].transpose(0, 1)], dim=1),
        )

    def keep(self, key: torch.Tensor, value: torch.Tensor, packed: PackedBatch) -> None:
        """Copy what a batch is to leave behind."""
        there = packed.on(key.device)
        rows, slots = there["new_rows"], there["new_slots"].long()
        self.keys.index_copy_(0, slots, key.transpose(0, 1)[rows])
        self.values.index_copy_(0, slots, value.transpose(0, 1)[rows])


class BlockCache:
    """The blocks of one trunk, for all of its layers, and a spare one that nobody reads.

    Memory is taken when a layer is first met.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._layers: list[Layer] = []
        self._is_written = np.zeros(count + 1, dtype=bool)

    @property
    def block_bytes(self) -> int:
        """Memory of a block, over all layers met so far."""
        total = sum(layer.keys.nbytes + layer.values.nbytes for layer in self._layers)
        return total // (self.count + 1)

    @property
    def spare_slot(self) -> int:
        """A slot that no batch is ever told to read."""
        return self.count * BLOCK_TOKENS

    def layer(self, number: int, key: torch.Tensor, value: torch.Tensor) -> Layer:
        """Return a layer's blocks, made like its keys and values: (kv_heads, rows, width) each."""
        if number == len(self._layers):
            slots = (self.count + 1) * BLOCK_TOKENS
            self._layers.append(
                Layer(
                    key.new_empty(slots, key.shape[0], key.shape[2]),
                    value.new_empty(slots, value.shape[0], value.shape[2]),
                )
            )
        return self._layers[number]

    def open(self, packed: PackedBatch) -> None:
        """Begin a batch: what it is to write counts as unwritten until `close`.

        Raises:
            ValueError: The batch reads a block that was never written: the batch before it failed.
        """
        self._is_written[packed.new_slots // BLOCK_TOKENS] = False
        if not self._is_written[packed.cached_slots // BLOCK_TOKENS].all():
            raise ValueError("a block that the batch reads was never written")

    def close(self, packed: PackedBatch) -> None:
        """End a batch that went well."""
        self._is_written[packed.new_slots // BLOCK_TOKENS] = True
