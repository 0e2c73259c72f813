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
    from collections.abc import Sequence

    from assay.engine.messages import Run

ROWS = 16


@dataclass(frozen=True, slots=True)
class Packed:
    """One row of tokens: ids and positions are (rows,), rows a multiple of `ROWS`.

    `items` are the segments that carry an item, in the order of its runs.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: list[Segment]
    items: list[Segment]


def pack(runs: Sequence[Run]) -> Packed:
    """Lay the runs of a batch end to end.

    Raises:
        ValueError: A run continues another: packed attention computes each item alone.
    """
    if any(run.parent >= 0 for run in runs):
        raise ValueError("packed attention can't continue another run's tokens")
    lengths = [len(run.ids) for run in runs]
    total = sum(lengths)
    rows = -(-total // ROWS) * ROWS
    ids = np.zeros(rows, dtype=np.int64)
    positions = np.zeros(rows, dtype=np.int64)
    segments = []
    start = 0
    for run, length in zip(runs, lengths, strict=True):
        ids[start : start + length] = run.ids
        positions[start : start + length] = np.arange(length)
        segments.append(Segment(start, length))
        start += length
    items = [segment for run, segment in zip(runs, segments, strict=True) if run.is_scored]
    return Packed(ids, positions, segments, items)
