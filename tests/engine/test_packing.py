"""A batch laid end to end."""

from dataclasses import replace

import numpy as np

from assay.engine.packing import ROWS, pack
from assay.worker_protocol import PrefixBatch


def ids(*numbers):
    """Return token ids."""
    return np.array(numbers, np.int32)


def test_runs_stand_end_to_end_with_positions_of_their_own():
    """Positions restart at each root; the row is filled up to a multiple of `ROWS`."""
    packed = pack(PrefixBatch.unshared([ids(7, 8, 9), ids(5)]))

    assert packed.ids.tolist() == [7, 8, 9, 5] + [0] * (ROWS - 4)
    assert packed.positions.tolist() == [0, 1, 2, 0] + [0] * (ROWS - 4)
    assert packed.starts.tolist() == [0, 3]
    assert not packed.is_shared


def test_positions_go_on_where_the_parent_ends():
    """A run's path and positions run through its ancestors, wherever they stand."""
    runs = PrefixBatch.unshared([ids(1, 2), ids(9), ids(3, 4), ids(5)])
    packed = pack(replace(runs, parents=ids(-1, -1, 0, 2)))

    assert packed.positions[:6].tolist() == [0, 1, 0, 2, 3, 4]
    assert packed.path(3).tolist() == [0, 1, 3, 4, 5]
    assert packed.offsets.tolist() == [0, 0, 2, 4]
    assert packed.is_shared


def test_items_read_the_runs_that_are_named():
    """A run that no item ends in is computed, not read; two items may read one."""
    packed = pack(replace(PrefixBatch.unshared([ids(1, 2), ids(3, 4)]), reads=ids(1, 1)))

    assert packed.first_rows.tolist() == [2, 2]
    assert packed.last_rows.tolist() == [3, 3]


def test_a_row_that_needs_no_filling_gets_none():
    """A multiple of `ROWS` stays as it is."""
    assert len(pack(PrefixBatch.unshared([np.arange(ROWS)])).ids) == ROWS
