"""What heads read at the places of a batch's items, once for all who share them. Pure.

A head's output depends on its token and those before it, as keys and values do. So a block that
the device keeps has its outputs here: an item that goes on from it gets them without the hidden
states, which are gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from assay.scheduling.prefix_cache import HeadOutput
from assay.worker_protocol import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.items import ReadPositions
    from assay.scheduling.prefix_cache import Block, Key
    from assay.worker_protocol import PrefixBatch


class HeadOutputs:
    """The head outputs of one batch: which rows the device reads, and whose they are."""

    def __init__(self, prefix_batch: PrefixBatch) -> None:
        self._prefix_batch = prefix_batch
        self._lengths = prefix_batch.lengths.tolist()
        self._parents = prefix_batch.parents.tolist()
        self._offsets: list[int] = []  # the position of a run's first token
        self._starts: list[int] = []  # its row; of held runs, nothing
        start = 0
        for run, (length, parent) in enumerate(zip(self._lengths, self._parents, strict=True)):
            begin = 0 if parent < 0 else self._offsets[parent] + self._lengths[parent]
            self._offsets.append(begin)
            self._starts.append(start)
            start += length if run >= prefix_batch.held else 0
        self._rows: list[int] = []
        self._next_ids: list[int] = []
        self._new: list[HeadOutput] = []  # of these rows, or of each `joined` of them
        self._by_row: dict[Key, HeadOutput] = {}
        self._of_items: list[list[HeadOutput]] = []

    def __len__(self) -> int:
        """How many rows of numbers the device gives."""
        return len(self._new)

    def add(self, read_at: ReadPositions, path: Sequence[Block]) -> None:
        """Add the next item; `path` are the blocks that its tokens begin with."""
        run = int(self._prefix_batch.reads[len(self._of_items)])
        outputs = []
        if read_at.joined > 1:
            for position, following in read_at.pairs():
                self._read(self._row(run, position), following)
            outputs = [HeadOutput() for _ in range(read_at.rows)]
            self._new += outputs
        else:
            outputs = [self._find(run, key, path) for key in read_at.pairs()]
        self._of_items.append(outputs)

    def batch(self) -> PrefixBatch:
        """Return the batch with the rows that are read."""
        return replace(
            self._prefix_batch,
            read_rows=np.array(self._rows, np.int32),
            next_ids=np.array(self._next_ids, np.int32),
        )

    def settle(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Take what the device read, (rows, outputs); return each item's, (positions, outputs)."""
        for output, row in zip(self._new, numbers, strict=True):
            output.numbers = row
        # All are there: a device answers its batches in order.
        return [np.array([output.numbers for output in item]) for item in self._of_items]

    def _find(self, run: int, key: Key, path: Sequence[Block]) -> HeadOutput:
        """Return the head output of a place: a kept block's, or one of this batch."""
        position, following = key
        block, place = divmod(position, BLOCK_TOKENS)
        row = self._row(run, position)
        if row < 0:
            return path[block].head_outputs[place, following]
        output = self._by_row.get((row, following))
        if output is None:
            output = self._by_row[row, following] = HeadOutput()
            self._read(row, following)
            self._new.append(output)
        if block < len(path):
            # A block computed once more keeps what it has: it was there before this batch.
            path[block].head_outputs.setdefault((place, following), output)
        return output

    def _read(self, row: int, following: int) -> None:
        self._rows.append(row)
        self._next_ids.append(following)

    def _row(self, run: int, position: int) -> int:
        """Return the row of a position on the path that ends with a run; -1 where it is held."""
        while position < self._offsets[run]:
            run = self._parents[run]
        if run < self._prefix_batch.held:
            return -1
        return self._starts[run] + position - self._offsets[run]


def first_unread(path: Sequence[Block], read_at: ReadPositions) -> int:
    """Return the place of the first block that lacks a head output of an item; all have it: len."""
    return min(
        (
            block
            for (position, following) in read_at.pairs()
            for block, place in [divmod(position, BLOCK_TOKENS)]
            if block < len(path) and (place, following) not in path[block].head_outputs
        ),
        default=len(path),
    )
