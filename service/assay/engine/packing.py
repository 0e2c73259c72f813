"""A planned batch as packed arrays: ids, positions, and where each run stands.

Runs are laid end to end; positions go on where a run's parent ends. Runs that are held from an
earlier batch have no place in the row: they are counted on behind it. The row is filled up to a
multiple of `ROWS` with tokens nobody reads: matrix kernels treat ragged last rows differently, and
a score must not depend on how many tokens share its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.engine import transfer
from assay.worker_protocol import BLOCK_TOKENS

if TYPE_CHECKING:
    import torch

    from assay.worker_protocol import PrefixBatch

ROWS = 16


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """One row of tokens, `rows` a multiple of `ROWS`, and the runs it is made of."""

    ids: np.ndarray  # (rows,) int64
    positions: np.ndarray  # (rows,) int64, absolute within each token's own sequence
    segments: np.ndarray  # (rows,) int64
    lengths: np.ndarray  # (runs,) int32
    parents: np.ndarray  # (runs,) int32, -1 for a root
    starts: np.ndarray  # (runs,) int32, the row of a run's first token; a held one's follow `rows`
    offsets: np.ndarray  # (runs,) int32, the position of a run's first token
    reads: np.ndarray  # (items,) int32, the run at whose end an item is read
    held: int  # the first runs, which aren't computed
    cached_slots: np.ndarray  # (held tokens,) int32, where the device keeps them
    new_slots: np.ndarray  # (kept tokens,) int32, where it is to keep others
    new_rows: np.ndarray  # (kept tokens,) int32, which
    # What its layers have in common, made by the first that needs it.
    made: dict[Any, Any] = field(default_factory=dict, init=False)

    @property
    def first_rows(self) -> np.ndarray:
        """The row of each item's first token, (items,): of unshared runs only."""
        first: np.ndarray = self.starts[self.reads]
        return first

    @property
    def last_rows(self) -> np.ndarray:
        """The row of each item's last token, (items,)."""
        last: np.ndarray = self.starts[self.reads] + self.lengths[self.reads] - 1
        return last

    @property
    def is_shared(self) -> bool:
        """Whether any run continues another."""
        return bool((self.parents >= 0).any())

    @property
    def fill(self) -> int:
        """How many rows behind the last run fill the batch up."""
        return len(self.ids) - int(self.lengths[self.held :].sum())

    def on(self, device: torch.device, **more: np.ndarray) -> dict[str, torch.Tensor]:
        """Return on a device, as int32, what layers and heads index by: each array by its name.

        What isn't there yet goes in one copy, which is all of it on a pass' first call. Of `more`,
        a name means the same array throughout a pass.
        """
        there: dict[str, torch.Tensor] = self.made.setdefault(device, {})
        arrays = more if there else {**self.arrays(), **more}
        missing = [name for name in arrays if name not in there]
        if missing:
            copied = transfer.to_device([arrays[name] for name in missing], device)
            there.update(zip(missing, copied, strict=True))
        return there

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what any layer indexes by, each array by its name."""
        lengths = np.append(self.lengths[self.held :], self.fill)
        seen = np.append(self.offsets[self.held :], 0) + lengths
        return {
            "ids": self.ids,
            "positions": self.positions,
            "segments": self.segments,
            "borders": _borders(lengths),  # of the computed runs, and of what fills the batch up
            "spans": _borders(seen),  # of the keys that each sees
            "cached_slots": self.cached_slots,
            "new_slots": self.new_slots,
            "new_rows": self.new_rows,
        }

    def path(self, run: int) -> np.ndarray:
        """Return the rows of a run's sequence from its first token to the run's last."""
        parts = []
        while run >= 0:
            start = self.starts[run]
            parts.append(np.arange(start, start + self.lengths[run]))
            run = int(self.parents[run])
        return np.concatenate(parts[::-1])


def pack(batch: PrefixBatch) -> PackedBatch:
    """Lay the runs of a batch end to end."""
    lengths = batch.lengths
    offsets = np.zeros_like(lengths)
    for run in np.flatnonzero(batch.parents >= 0):
        parent = batch.parents[run]
        offsets[run] = offsets[parent] + lengths[parent]
    total = batch.tokens
    rows = -(-total // ROWS) * ROWS
    held, computed = lengths[: batch.held], lengths[batch.held :]
    starts = np.concatenate([rows + _begins(held), _begins(computed)])
    ids = np.zeros(rows, dtype=np.int64)
    ids[:total] = batch.ids
    positions = np.zeros(rows, dtype=np.int64)
    positions[:total] = np.arange(total) + np.repeat((offsets - starts)[batch.held :], computed)
    segments = np.zeros(rows, dtype=np.int64)
    if batch.segments is not None:
        segments[:total] = batch.segments
    return PackedBatch(
        ids=ids,
        positions=positions,
        segments=segments,
        lengths=lengths,
        parents=batch.parents,
        starts=starts,
        offsets=offsets,
        reads=batch.reads,
        held=batch.held,
        cached_slots=_slots(batch.cached_blocks),
        new_slots=_slots(batch.new_blocks),
        new_rows=batch.new_rows,
    )


def filled(rows: np.ndarray) -> np.ndarray:
    """Return rows with the last one repeated to a multiple of `ROWS`."""
    return np.pad(rows, (0, -len(rows) % ROWS), mode="edge")


def _begins(lengths: np.ndarray) -> np.ndarray:
    begins: np.ndarray = np.cumsum(lengths, dtype=np.int32) - lengths
    return begins


def _borders(lengths: np.ndarray) -> np.ndarray:
    """Return where each length begins and the last one ends, (lengths + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _slots(blocks: np.ndarray) -> np.ndarray:
    """Return the place of each token of some blocks."""
    slots: np.ndarray = blocks[:, None] * np.int32(BLOCK_TOKENS) + np.arange(
        BLOCK_TOKENS, dtype=np.int32
    )
    return slots.ravel()
