"""Batches of several adapters as one: each keeps its sequences, its blocks and its order."""

from dataclasses import replace

import numpy as np
import pytest

from assay.joined_batch import join
from assay.worker_protocol import PrefixBatch

BLOCKS = 100


def held(ids, *, block=3):
    """Return a batch of two items behind a held block, which leaves one of its own."""
    return PrefixBatch(
        ids=np.array(ids, np.int32),
        lengths=np.array([8, 2, len(ids) - 2], np.int32),
        parents=np.array([-1, 0, 1], np.int32),
        reads=np.array([2, 1], np.int32),
        held=1,
        cached_blocks=np.array([block], np.int32),
        new_blocks=np.array([block + 1], np.int32),
        new_rows=np.arange(8, dtype=np.int32),
    )


def spelt(batch):
    """Return each item's held blocks and ids, in the batch's order, with its adapter."""
    runs = [*np.split(batch.cached_blocks, batch.held), *batch.runs()]
    paths = []
    for read in batch.reads.tolist():
        path, run = [], read
        while run >= 0:
            path.append(runs[run].tolist())
            run = int(batch.parents[run])
        paths.append((int(batch.adapters[read]), path[::-1]))
    return paths


def test_each_adapter_keeps_its_items_in_order():
    """Held runs stand before all computed ones, and parents are still their own."""
    first, third = held(range(10)), held(range(20, 32))

    joined = join({2: third, 0: first}, BLOCKS)

    assert joined.held == 2
    assert joined.ids.tolist() == [*range(10), *range(20, 32)]
    assert spelt(joined) == [
        (0, [[3], [0, 1], list(range(2, 10))]),
        (0, [[3], [0, 1]]),
        (2, [[203], [20, 21], list(range(22, 32))]),
        (2, [[203], [20, 21]]),
    ]


def test_each_adapter_has_blocks_of_its_own():
    """The same number of two models is another place on the device."""
    joined = join({0: held(range(10)), 1: held(range(10))}, BLOCKS)

    assert joined.cached_blocks.tolist() == [3, 103]
    assert joined.new_blocks.tolist() == [4, 104]
    assert joined.new_rows.tolist() == [*range(8), *range(10, 18)]


def test_rows_that_are_read_move_with_their_tokens():
    """And the tokens after them go along."""
    batch = replace(
        held(range(10)), read_rows=np.array([9, 0], np.int32), next_ids=np.array([1, 2], np.int32)
    )

    joined = join({0: batch, 1: batch}, BLOCKS)

    assert joined.read_rows.tolist() == [9, 0, 19, 10]
    assert joined.next_ids.tolist() == [1, 2, 1, 2]


def test_one_adapter_alone_is_numbered_too():
    """A batch of the second adapter reads the second one's blocks."""
    joined = join({1: held(range(10))}, BLOCKS)

    assert joined.adapters.tolist() == [1, 1, 1]
    assert joined.cached_blocks.tolist() == [103]


def test_rows_named_by_some_parts_alone_are_a_bug():
    """What the others read would be lost."""
    batch = held(range(10))

    with pytest.raises(ValueError, match="all parts of a batch name rows"):
        join({0: batch, 1: replace(batch, read_rows=np.array([0], np.int32))}, BLOCKS)
