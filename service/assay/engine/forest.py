"""A planned batch as packed arrays: ids, positions and segments.

Runs are laid end to end with positions that restart in each. The row is filled up to a multiple of
`ROWS` with tokens nobody reads: matrix kernels treat ragged last rows differently, and a score must
not depend on how many tokens share its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assay.engine.attention import Segment

if TYPE_CHECKING:
    from assay.engine.messages import Forest

ROWS = 16


@dataclass(frozen=True, slots=True)
class Packed:
    """One row of tokens: ids and positions are (rows,), rows a multiple of `ROWS`.

    `items` are the segments that the items read, in the order of the items.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: list[Segment]
    items: list[Segment]


def pack(forest: Forest) -> Packed:
    """Lay the runs of a batch end to end.

    Raises:
        ValueError: A run continues another: packed attention computes each item alone.
    """
    if (forest.parents >= 0).any():
        raise ValueError("packed attention can't continue another run's tokens")
    total = forest.tokens
    rows = -(-total // ROWS) * ROWS
    ids = np.zeros(rows, dtype=np.int64)
    ids[:total] = forest.ids
    starts = np.cumsum(forest.lengths) - forest.lengths
    positions = np.zeros(rows, dtype=np.int64)
    positions[:total] = np.arange(total) - np.repeat(starts, forest.lengths)
    segments = [
        Segment(start, length)
        for start, length in zip(starts.tolist(), forest.lengths.tolist(), strict=True)
    ]
    return Packed(ids, positions, segments, [segments[run] for run in forest.reads.tolist()])
