"""A batch laid end to end."""

from dataclasses import replace

import numpy as np
import pytest

from assay.engine.attention import Segment
from assay.engine.forest import ROWS, pack
from assay.engine.messages import Forest


def test_runs_stand_end_to_end_with_positions_of_their_own():
    """Positions restart in each run; the row is filled up to a multiple of `ROWS`."""
    packed = pack(Forest.unshared([np.array([7, 8, 9]), np.array([5])]))

    assert packed.ids.tolist() == [7, 8, 9, 5] + [0] * (ROWS - 4)
    assert packed.positions.tolist() == [0, 1, 2, 0] + [0] * (ROWS - 4)
    assert packed.segments == [Segment(0, 3), Segment(3, 1)]


def test_items_read_the_runs_that_are_named():
    """A run that no item ends in is computed, not read; two items may read one."""
    batch = replace(Forest.unshared([np.array([1, 2]), np.array([3])]), reads=np.array([1, 1]))

    assert pack(batch).items == [Segment(2, 1)] * 2


def test_a_row_that_needs_no_filling_gets_none():
    """A multiple of `ROWS` stays as it is."""
    assert len(pack(Forest.unshared([np.arange(ROWS)])).ids) == ROWS


def test_a_run_that_continues_another_is_refused():
    """Attention that ignored the parent would give a wrong number."""
    batch = Forest.unshared([np.array([1]), np.array([2])])
    with pytest.raises(ValueError, match="can't continue"):
        pack(replace(batch, parents=np.array([-1, 0])))
