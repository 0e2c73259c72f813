"""A planned batch as packed arrays: ids, positions, and where each run stands.

Runs are laid end to end; positions go on where a run's parent ends. The row is filled up to a
multiple of `ROWS` with tokens nobody reads: matrix kernels treat ragged last rows differently, and
a score must not depend on how many tokens share its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from assay.engine.messages import Forest

ROWS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One row of tokens, `rows` a multiple of `ROWS`, and the runs it is made of."""

    ids: np.ndarray  # (rows,) int64
    positions: np.ndarray  # (rows,) int64, absolute within each token's own sequence
    lengths: np.ndarray  # (runs,) int32
    parents: np.ndarray  # (runs,) int32, -1 for a root
    starts: np.ndarray  # (runs,) int32, the row of a run's first token
    offsets: np.ndarray  # (runs,) int32, the position of a run's first token
    reads: np.ndarray  # (items,) int32, the run at whose end an item is read

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

    def path(self, run: int) -> np.ndarray:
        """Return the rows of a run's sequence from its first token to the run's last."""
        parts = []
        while run >= 0:
            start = self.starts[run]
            parts.append(np.arange(start, start + self.lengths[run]))
            run = int(self.parents[run])
        return np.concatenate(parts[::-1])


def pack(forest: Forest) -> Packed:
    """Lay the runs of a batch end to end."""
    lengths = forest.lengths
    offsets = np.zeros_like(lengths)
    for run in np.flatnonzero(forest.parents >= 0):
        parent = forest.parents[run]
        offsets[run] = offsets[parent] + lengths[parent]
    starts = np.cumsum(lengths, dtype=np.int32) - lengths
    total = forest.tokens
    rows = -(-total // ROWS) * ROWS
    ids = np.zeros(rows, dtype=np.int64)
    ids[:total] = forest.ids
    positions = np.zeros(rows, dtype=np.int64)
    positions[:total] = np.arange(total) + np.repeat(offsets - starts, lengths)
    return Packed(ids, positions, lengths, forest.parents, starts, offsets, forest.reads)
