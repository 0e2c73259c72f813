import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assay.scheduling.planner import Work, plan

LENGTHS = st.lists(st.integers(1, 200), max_size=30)
BUDGETS = st.integers(1, 500)


def works(lengths):
    """Return waiting work of these lengths; each item's ids say whose they are."""
    return [Work(0.0, i, np.full(length, i, np.int32)) for i, length in enumerate(lengths)]


@given(LENGTHS, BUDGETS)
def test_a_plan_is_the_front_of_the_line(lengths, budget):
    """Items are taken in the given order, each at most once, none skipped."""
    order = plan(works(lengths), budget).order
    assert order == tuple(range(len(order)))


@given(LENGTHS, BUDGETS)
def test_a_plan_keeps_the_budget_except_for_a_long_first_item(lengths, budget):
    """Tokens stay within the budget; an item longer than the budget goes alone."""
    drafted = plan(works(lengths), budget)
    assert drafted.forest.tokens <= budget or len(drafted.order) == 1


@given(LENGTHS, BUDGETS)
def test_a_plan_stops_only_where_the_next_item_does_not_fit(lengths, budget):
    """No room is left that the next item could have used."""
    drafted = plan(works(lengths), budget)
    left = lengths[len(drafted.order) :]
    assert not left or drafted.forest.tokens + left[0] > budget


@given(LENGTHS.filter(bool), BUDGETS)
def test_the_first_item_always_goes(lengths, budget):
    """However long, the head of the line can't be stuck."""
    assert plan(works(lengths), budget).order[0] == 0


@given(LENGTHS, BUDGETS)
def test_each_items_tokens_are_its_run(lengths, budget):
    """The i-th scored run carries the ids of the i-th item, whole."""
    drafted = plan(works(lengths), budget)
    runs = drafted.forest.runs()
    read = [runs[run].tolist() for run in drafted.forest.reads]
    assert read == [[i] * lengths[i] for i in drafted.order]


def test_a_long_item_is_not_overtaken():
    """A short item behind one that doesn't fit waits, too."""
    assert plan(works([60, 50, 10]), 100).order == (0,)


def test_an_item_as_long_as_the_room_left_goes():
    """The budget may be used to the last token."""
    assert plan(works([60, 40, 1]), 100).order == (0, 1)


def test_nothing_waiting_is_an_empty_plan():
    """An empty line gives a batch of no tokens."""
    drafted = plan([], 100)
    assert (drafted.order, drafted.forest.runs(), drafted.forest.tokens) == ((), [], 0)


def test_work_is_ordered_by_turn_then_arrival():
    """An earlier turn goes first; among equals, who came first."""
    ids = np.zeros(1, np.int32)
    late, second, first = Work(2.0, 0, ids), Work(1.0, 5, ids), Work(1.0, 4, ids)
    assert sorted([late, second, first]) == [first, second, late]
