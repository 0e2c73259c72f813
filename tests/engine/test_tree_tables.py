"""Which keys the tree kernel meets, by its tables alone."""

from dataclasses import replace

import numpy as np
import pytest

from assay.engine.attention.tree_tables import Blocks
from assay.engine.packing import pack
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch

KEYS, TOKENS = 16, 8
FOREST = [-1, 0, 0, 1, -1, 1, 3]
LENGTHS = [40, 7, 23, 3, 50, 1, 30]


def packed_batch(lengths, parents, held=0, cached=()):
    """Return a packed batch of such runs, of which the first may be held in such blocks."""
    return pack(
        replace(
            PrefixBatch.unshared([np.zeros(sum(lengths[held:]), np.int32)]),
            lengths=np.array(lengths, np.int32),
            parents=np.array(parents, np.int32),
            reads=np.array([len(lengths) - 1], np.int32),
            held=held,
            cached_blocks=np.array(cached, np.int32),
        )
    )


def met(tables, query, *, causal, window):
    """Return the slots and positions of the keys that a query attends to, in their order."""
    number, position = tables.numbers[query], tables.positions[query]
    (tile,) = [one for one in tables.tiles if one[0] <= query < one[0] + one[1]]
    found = []
    for offset, start, lowest, behind_highest in tables.steps[tile[2] : tile[3]]:
        if lowest <= number < behind_highest:
            slots = tables.slots.ravel()[offset : offset + KEYS]
            found += [(slot, start + at) for at, slot in enumerate(slots) if slot != -1]
    slots, places = np.array(found).reshape(-1, 2).T
    reach = window or 1 << 20
    is_seen = (places > position - reach) & (places <= position + (0 if causal else reach - 1))
    return slots[is_seen], places[is_seen]


def expected(packed, row, *, causal, window):
    """Return the rows that a row sees along the path of its run, from the first on."""
    (run,) = np.flatnonzero((packed.starts <= row) & (row < packed.starts + packed.lengths))
    path, position = packed.path(run), packed.positions[row]
    reach = window or 1 << 20
    last = position + 1 if causal else position + reach
    rows = path[max(0, position - reach + 1) : last]
    is_held = rows >= len(packed.ids)
    rows[is_held] = -2 - packed.cached_slots[rows[is_held] - len(packed.ids)]
    return rows


@pytest.mark.parametrize("window", [None, 1, 20, 300])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("is_shared", [True, False])
def test_each_query_meets_the_keys_of_its_own_path_once_and_in_order(causal, window, is_shared):
    """Of all rows; whatever shares their tiles."""
    parents = FOREST if causal and is_shared else [-1] * len(LENGTHS)
    packed = packed_batch(LENGTHS, parents)
    rows = len(packed.ids)
    tables = Blocks(packed, KEYS).tables(causal=causal, window=window, tokens=TOKENS, queries=rows)

    for row in range(sum(LENGTHS)):
        slots, places = met(tables, row, causal=causal, window=window)
        assert slots.tolist() == expected(packed, row, causal=causal, window=window).tolist()
        assert (np.diff(places) == 1).all()
    assert (tables.numbers[sum(LENGTHS) :] == -1).all()
    assert all(table.dtype == np.int32 for table in tables)


def test_kept_blocks_are_met_in_their_slots():
    """In no order of theirs, before the batch's own keys."""
    cached = [7, 2, 9, 0, 4]
    packed = packed_batch([5 * BLOCK_TOKENS, 7, 23], [-1, 0, 0], held=1, cached=cached)
    tables = Blocks(packed, KEYS).tables(
        causal=True, window=None, tokens=TOKENS, queries=len(packed.ids)
    )

    for row in range(30):
        slots, _ = met(tables, row, causal=True, window=None)
        assert slots.tolist() == expected(packed, row, causal=True, window=None).tolist()
        assert (slots[:8] == -2 - np.arange(56, 64)).all()


def test_a_few_rows_meet_what_they_meet_among_all():
    """In any order and twice; a tile is of one run, and what fills them up is outside of all."""
    packed = packed_batch(LENGTHS, FOREST)
    rows = np.array([153, 60, 61, 39, 0, 60, 5, 124, 123], np.int32)
    tables = Blocks(packed, KEYS).tables(
        causal=True, window=20, tokens=TOKENS, queries=16, rows=rows
    )

    for query, row in enumerate(rows):
        slots, _ = met(tables, query, causal=True, window=20)
        assert slots.tolist() == expected(packed, row, causal=True, window=20).tolist()
    for first, count, *_ in tables.tiles:
        assert len(set(tables.numbers[first : first + count].tolist())) == 1
    assert (tables.numbers[len(rows) :] == -1).all()
    assert sorted(range(16)) == sorted(
        row for first, count, *_ in tables.tiles for row in range(first, first + count)
    )


def test_a_tile_of_siblings_meets_their_prefix_once():
    """Each full block of it is one step, and each sibling's own keys are one."""
    siblings = 4
    packed = packed_batch([3 * KEYS + 5, *[2] * siblings], [-1, *[0] * siblings])
    first = 3 * KEYS + 5
    padding = -first % TOKENS  # the tile that begins behind the prefix's own rows
    tables = Blocks(packed, KEYS).tables(
        causal=True, window=None, tokens=TOKENS, queries=len(packed.ids)
    )
    tile = tables.tiles[tables.tiles[:, 0] == first + padding][0]
    steps = tables.steps[tile[2] : tile[3]]

    runs = {int(one) for one in tables.numbers[first + padding :] if one >= 0}
    assert len(runs) > 1
    assert steps[:, 1].tolist() == [0, KEYS, 2 * KEYS, *[3 * KEYS] * len(runs)]
    assert (steps[:3, 2:] == [0, siblings + 1]).all()
    assert {tuple(one) for one in steps[3:, 2:].tolist()} == {(run, run + 1) for run in runs}


def test_the_longest_tiles_come_first_and_a_long_run_needs_no_list_of_its_own():
    """A program of a GPU that begins last is short; steps are as many as blocks, not as tiles."""
    packed = packed_batch([10 * KEYS], [-1])
    tables = Blocks(packed, KEYS).tables(causal=True, window=None, tokens=TOKENS, queries=10 * KEYS)

    lengths = tables.tiles[:, 3] - tables.tiles[:, 2]
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    assert lengths[0] == 10
    assert len(tables.steps) == 10


def test_runs_are_numbered_depth_first():
    """Those that continue a run follow it, however they are laid."""
    blocks = Blocks(packed_batch(LENGTHS, FOREST), KEYS)

    assert blocks._number.tolist() == [0, 1, 5, 2, 6, 4, 3]
