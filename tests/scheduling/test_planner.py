from collections import Counter
from itertools import combinations, count, cycle, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.scheduling.planner import ModelQueue, plan
from assay.scheduling.work_item import RequestFlow, WorkItem
from assay.worker_protocol import BLOCK_TOKENS
from tests.scheduling.texts import IDS, ids, in_common, response

LAG = 1000.0
BUDGET = 200
BUDGETS = st.integers(1, 400)
PROMPT, OTHER = ids(64), ids(32, 32)  # as chosen, no tokens after the first 32 in common

# Requests: whether of batch priority, and the items of each.
REQUESTS = st.lists(st.tuples(st.booleans(), st.lists(IDS, min_size=1, max_size=6)), max_size=8)


def unrelated(number, length=50):
    """Return ids that share nothing with anyone's."""
    return np.full(length, 1000 + number, np.int32)


def line(is_gone=lambda _: False):
    """Return an empty line."""
    return ModelQueue(is_gone, count())


def put(waiting, *texts, flow=None, now=0.0, is_batch=False):
    """Let a request's items wait; return them."""
    flow = flow or RequestFlow(priority_offset=LAG if is_batch else 0.0)
    works = [WorkItem(text, flow) for text in texts]
    for work in works:
        waiting.add(work, now)
    return works


def put_all(waiting, requests):
    """Let all requests wait; return their items."""
    return [
        work for is_batch, texts in requests for work in put(waiting, *texts, is_batch=is_batch)
    ]


def batches(waiting, budget=BUDGET, *, shares=True):
    """Take batches until nothing waits."""
    taken = []
    while waiting.items:
        taken.append(plan(waiting, budget, shares=shares))
    return taken


def spelled(prefix_batch):
    """Return the tokens of each item of a prefix batch, along its path of runs."""
    paths = []
    for run, parent in zip(prefix_batch.runs(), prefix_batch.parents.tolist(), strict=True):
        assert parent < len(paths)
        paths.append((paths[parent] if parent >= 0 else []) + run.tolist())
    return [paths[run] for run in prefix_batch.reads]


@given(REQUESTS, BUDGETS, st.booleans())
def test_every_item_is_taken_exactly_once(requests, budget, shares):
    """Over successive batches, nothing is lost and nothing is done twice."""
    waiting = line()
    works = put_all(waiting, requests)
    taken = Counter(
        work for batch in batches(waiting, budget, shares=shares) for work in batch.works
    )
    assert taken == dict.fromkeys(works, 1)
    assert (waiting.items, waiting.tokens) == (0, 0)


@given(REQUESTS, BUDGETS, st.booleans())
def test_each_items_runs_spell_its_tokens(requests, budget, shares):
    """The path of runs to where an item is read is its ids, parents before children."""
    waiting = line()
    put_all(waiting, requests)
    for batch in batches(waiting, budget, shares=shares):
        assert spelled(batch.prefix_batch) == [work.ids.tolist() for work in batch.works]
        assert batch.prefix_batch.lengths.min() >= 1


@given(REQUESTS, BUDGETS, st.booleans())
def test_a_batch_keeps_the_budget_of_computed_tokens(requests, budget, shares):
    """Only a single item that is longer exceeds it."""
    waiting = line()
    put_all(waiting, requests)
    for batch in batches(waiting, budget, shares=shares):
        assert batch.prefix_batch.tokens <= budget or len(batch.works) == 1


@given(REQUESTS, BUDGETS)
def test_no_two_sibling_runs_begin_alike(requests, budget):
    """What `BLOCK_TOKENS` tokens and more have in common is computed once."""
    waiting = line()
    put_all(waiting, requests)
    for batch in batches(waiting, budget):
        siblings = {}
        for run, parent in zip(
            batch.prefix_batch.runs(), batch.prefix_batch.parents.tolist(), strict=True
        ):
            siblings.setdefault(parent, []).append(run)
        for runs in siblings.values():
            assert all(in_common(*pair) < BLOCK_TOKENS for pair in combinations(runs, 2))


@given(REQUESTS, BUDGETS)
def test_a_model_that_does_not_share_gets_a_run_an_item(requests, budget):
    """Every item is whole and a root, in turn order."""
    waiting = line()
    put_all(waiting, requests)
    for batch in batches(waiting, budget, shares=False):
        assert batch.prefix_batch.parents.tolist() == [-1] * len(batch.works)
        assert batch.prefix_batch.tokens == sum(work.tokens for work in batch.works)
        assert batch.shared_tokens == 0


@given(REQUESTS, BUDGETS)
def test_the_items_parts_add_up_to_what_was_computed(requests, budget):
    """Each run is split among those who read through it, and nothing is left over."""
    waiting = line()
    put_all(waiting, requests)
    for batch in batches(waiting, budget):
        parts = batch.computed_tokens()
        assert sum(parts) == pytest.approx(batch.prefix_batch.tokens)
        for part, work in zip(parts, batch.works, strict=True):
            assert 0 < part <= work.tokens + 1e-9


@given(REQUESTS, BUDGETS, st.booleans())
def test_the_head_of_the_line_always_goes(requests, budget, shares):
    """However long it is, and whatever joins it, the earliest turn is served by each batch."""
    waiting = line()
    put_all(waiting, requests)
    while head := waiting.head():
        assert plan(waiting, budget, shares=shares).works[0] is head


@given(
    IDS,
    st.lists(st.lists(IDS, min_size=1, max_size=4), max_size=6),
    st.lists(st.lists(IDS, max_size=4), min_size=1, max_size=20),
    BUDGETS,
)
def test_nobody_waits_longer_than_the_heads_before_them(text, before, rounds, budget):
    """However many newcomers come and whoever is pulled ahead, the line before an item is a bound.

    Each request that waited before is the head once before its turn has passed; newcomers start at
    the turn, which the first head has moved on.
    """
    waiting = line()
    for texts in before:
        put(waiting, *texts)
    (patient,) = put(waiting, text)
    now = 0.0
    for newcomers in islice(cycle(rounds), len(before)):
        for newcomer in newcomers:
            put(waiting, newcomer, now=now)
        head = waiting.head()
        now = max(now, head.flow.virtual_time + head.tokens / 2)
        if patient in plan(waiting, budget, shares=True).works:
            return
    assert patient in plan(waiting, budget, shares=True).works


@given(REQUESTS, BUDGETS)
def test_an_emptied_line_holds_nothing(requests, budget):
    """Nodes and turns leave with the work that they were for."""
    waiting = line()
    put_all(waiting, requests)
    batches(waiting, budget)
    assert waiting._turns == {}
    for prefixes in waiting._prefixes.values():
        assert (len(prefixes), prefixes.tokens, prefixes.roots) == (0, 0, {})


def test_a_group_from_many_requests_goes_together():
    """Items of one prompt that came one by one, mixed with others, share one batch."""
    waiting = line()
    for token in range(10, 14):
        put(waiting, response(PROMPT, token))
        put(waiting, response(OTHER, token))
    first, second = batches(waiting, budget=64 + 4 * 20)
    assert {in_common(work.ids, PROMPT) for work in first.works} == {64}
    assert (first.prefix_batch.tokens, second.prefix_batch.tokens) == (144, 144)
    assert first.prefix_batch.lengths.tolist() == [64, 20, 20, 20, 20]
    assert first.prefix_batch.parents.tolist() == [-1, 0, 0, 0, 0]
    assert first.computed_tokens() == [64 / 4 + 20] * 4
    assert first.shared_tokens == 3 * 64


def test_items_of_another_scope_are_no_candidates():
    """They wait for their turn, and what both begin with is computed for each."""
    waiting = line()
    put(waiting, response(PROMPT, 7), flow=RequestFlow(scope="one"))
    put(waiting, ids(20))
    put(waiting, response(PROMPT, 8), flow=RequestFlow(scope="other"))
    put(waiting, response(PROMPT, 9), flow=RequestFlow(scope="one"))
    batch = plan(waiting, 1000, shares=True)
    assert [work.ids[-1] for work in batch.works] == [7, 9, 1, 8]
    assert batch.computed_tokens() == [52, 52, 20, 84]
    assert batch.prefix_batch.tokens == 64 + 2 * 20 + 20 + 84


def test_a_run_ends_at_the_last_common_token():
    """Tokens past a multiple of `BLOCK_TOKENS` that all have in common are computed once, too."""
    waiting = line()
    put(waiting, *(response(ids(70), token) for token in (7, 8, 9)))
    (batch,) = batches(waiting)
    assert batch.prefix_batch.lengths.tolist() == [70, 20, 20, 20]


def test_growing_prefixes_are_a_chain():
    """Each partial solution is read on the way to the next; every token is computed once."""
    waiting = line()
    put(waiting, *(ids(70)[:length] for length in (33, 70, 50)))
    (batch,) = batches(waiting)
    assert batch.prefix_batch.lengths.tolist() == [33, 17, 20]
    assert batch.prefix_batch.parents.tolist() == [-1, 0, 1]
    assert batch.prefix_batch.reads.tolist() == [0, 2, 1]


def test_equal_items_are_read_from_one_run():
    """A duplicate costs nothing."""
    waiting = line()
    put(waiting, PROMPT)
    put(waiting, PROMPT)
    (batch,) = batches(waiting)
    assert (batch.prefix_batch.tokens, batch.prefix_batch.reads.tolist()) == (64, [0, 0])
    assert batch.computed_tokens() == [32, 32]


def test_reading_an_item_counts_as_a_token():
    """Even of equal items, a batch has no more than its budget."""
    waiting = line()
    put(waiting, *[ids(1)] * 25)
    assert [len(batch.works) for batch in batches(waiting, budget=10)] == [10, 10, 5]


def test_a_group_larger_than_the_budget_fills_batches_of_its_own():
    """Its prompt is computed once a batch, and no batch more than needed is begun."""
    waiting = line()
    for token in range(10, 31):
        put(waiting, response(PROMPT, token))
        put(waiting, unrelated(token))
    groups = [
        sum(in_common(work.ids, PROMPT) == 64 for work in batch.works)
        for batch in batches(waiting, budget=64 + 7 * 20)
    ]
    assert [size for size in groups if size] == [7, 7, 7]


def test_candidates_of_a_shorter_prefix_go_when_the_nearer_have_gone():
    """From the head outwards: its own question first, then the conversation it began with."""
    waiting = line()
    question, follow_up = response(PROMPT, 7, 32), response(PROMPT, 8, 32)
    put(waiting, response(question, 10))
    put(waiting, unrelated(0))
    put(waiting, response(follow_up, 10))
    put(waiting, response(question, 11))
    (batch,) = batches(waiting, budget=400)
    order = [waiting_for.ids[64:].tolist()[:1] for waiting_for in batch.works]
    assert order == [[7], [7], [8], []]


def test_a_common_system_prompt_leaves_the_turns_as_they_are():
    """Where the next in line shares as much, nobody overtakes it."""
    waiting = line()
    fat = put(waiting, *(response(PROMPT, token, 30) for token in range(10, 20)))
    single = put(waiting, response(PROMPT, 40, 30))
    batch = plan(waiting, 64 + 2 * 30, shares=True)
    assert batch.works == (fat[0], single[0])


def test_few_common_tokens_make_no_candidate():
    """Less than an eighth of the head isn't worth overtaking for."""
    waiting = line()
    (head,) = put(waiting, response(ids(16), 7, 150))
    (following,) = put(waiting, unrelated(0))
    (third,) = put(waiting, response(ids(16), 8, 20))
    assert plan(waiting, 400, shares=True).works == (head, following, third)


def test_a_request_is_charged_for_its_candidates():
    """What is pulled ahead of its turn counts: the next batches are the other request's."""
    waiting = line()
    put(waiting, *(response(PROMPT, token) for token in range(10, 14)), OTHER)
    others = put(waiting, *(unrelated(number) for number in range(4)))
    group_first = plan(waiting, 144, shares=True)
    assert len(group_first.works) == 4
    assert [plan(waiting, 50, shares=True).works[0] for _ in range(4)] == others


def test_batch_priority_is_not_pulled_ahead_of_interactive_work():
    """Batch items whose prompt an interactive one has wait for their turn all the same."""
    waiting = line()
    (batch,) = put(waiting, response(PROMPT, 10), is_batch=True)
    (first,) = put(waiting, response(PROMPT, 11))
    (second,) = put(waiting, unrelated(0))
    assert plan(waiting, BUDGET, shares=True).works == (first, second, batch)


def test_aged_batch_work_brings_no_candidates_while_interactive_work_waits():
    """Its turn has come, that of those who share its prefix has not."""
    waiting = line()
    aged = put(waiting, *(response(PROMPT, token) for token in (10, 11)), is_batch=True)
    (other,) = put(waiting, unrelated(0), now=LAG + 10)
    assert plan(waiting, BUDGET, shares=True).works == (aged[0], other, aged[1])


def test_batch_work_brings_its_candidates_when_it_is_alone():
    """Among batch items those that share a prefix go together."""
    waiting = line()
    (first,) = put(waiting, response(PROMPT, 10), is_batch=True)
    (second,) = put(waiting, unrelated(0), is_batch=True)
    (third,) = put(waiting, response(PROMPT, 11), is_batch=True)
    assert plan(waiting, BUDGET, shares=True).works == (first, third, second)


def test_a_batch_shares_across_priorities():
    """Whoever is in a batch shares its runs."""
    waiting = line()
    put(waiting, response(PROMPT, 10), is_batch=True)
    put(waiting, response(PROMPT, 11))
    assert plan(waiting, BUDGET, shares=True).prefix_batch.tokens == 64 + 20 + 20


def test_candidates_who_left_are_not_taken():
    """A departed candidate costs nothing and is handed back, with all of its request."""
    gone = set()
    waiting = line(lambda work: work in gone)
    (head,) = put(waiting, response(PROMPT, 10))
    put(waiting, unrelated(0))
    left = put(waiting, *(response(PROMPT, token) for token in (11, 12)))
    gone.update(left)
    assert head in plan(waiting, 100, shares=True).works
    assert waiting.pop_gone() == left
    assert (waiting.items, waiting.tokens) == (1, 50)


def test_a_second_try_goes_alone():
    """A batch that others began, and what they pulled ahead, goes without it."""
    waiting = line()
    (before,) = put(waiting, response(PROMPT, 10))
    tried = WorkItem(response(PROMPT, 11), RequestFlow(virtual_time=100), goes_alone=True)
    waiting.put_back(tried)
    (after,) = put(waiting, response(PROMPT, 12), now=50)
    assert [batch.works for batch in batches(waiting)] == [(before, after), (tried,)]


def test_nobody_joins_a_second_try():
    """Those after it wait for the next batch."""
    waiting = line()
    tried = WorkItem(response(PROMPT, 11), RequestFlow(virtual_time=84), goes_alone=True)
    waiting.put_back(tried)
    (after,) = put(waiting, response(PROMPT, 12), now=50)
    assert [batch.works for batch in batches(waiting)] == [(tried,), (after,)]


def test_a_long_item_is_not_overtaken():
    """A short item behind one that doesn't fit waits, too."""
    waiting = line()
    works = put(waiting, unrelated(0, 60), unrelated(1, 50), unrelated(2, 10))
    assert plan(waiting, 100, shares=True).works == (works[0],)


def test_the_budget_may_be_used_to_the_last_token():
    """An item as long as the room left goes."""
    waiting = line()
    works = put(waiting, unrelated(0, 60), unrelated(1, 40), unrelated(2, 1))
    assert plan(waiting, 100, shares=True).works == tuple(works[:2])


def test_nothing_waiting_is_an_empty_plan():
    """An empty line gives a batch of no tokens."""
    drafted = plan(line(), 100, shares=True)
    assert (drafted.works, drafted.prefix_batch.runs(), drafted.prefix_batch.tokens) == ((), [], 0)
    assert drafted.computed_tokens() == []
