"""Where a pattern of ids stands, and what tells rows of one text apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.items import ReadPositions
from assay.prompts import head_positions

IDS = st.lists(st.integers(0, 2), max_size=30)


@given(IDS, st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_a_pattern_is_found_wherever_it_stands(ids, pattern):
    """In order, overlapping places included; nowhere in a sequence that is shorter."""
    places = range(len(ids) - len(pattern) + 1)
    expected = [place for place in places if ids[place : place + len(pattern)] == pattern]

    found = head_positions.find(np.array(ids, np.int32), pattern)

    assert found.tolist() == expected


def test_places_that_overlap_are_all_found():
    """`1 1` stands twice in `1 1 1`."""
    assert head_positions.find(np.array([1, 1, 1, 2], np.int32), [1, 1]).tolist() == [0, 1]


@pytest.mark.parametrize(("joined", "rows"), [(1, 6), (2, 3), (3, 2)])
def test_joined_places_give_one_row(joined, rows):
    """So many neighbours are read side by side."""
    assert ReadPositions(np.arange(6, dtype=np.int32), joined=joined).rows == rows


def test_rows_are_told_apart_by_place_and_following_token():
    """Without following tokens by place alone."""
    places = np.array([4, 2], np.int32)

    assert ReadPositions(places).pairs() == [(4, -1), (2, -1)]
    assert ReadPositions(places, next_ids=np.array([7, 0], np.int32)).pairs() == [(4, 7), (2, 0)]
