"""Batches that read and leave blocks, against a device's memory kept the slow way."""

from itertools import count

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assay.scheduling.planner import ModelQueue, plan
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.work_item import RequestFlow, WorkItem
from assay.worker_protocol import BLOCK_TOKENS
from tests.scheduling.texts import IDS, ids, response

PROMPT = ids(70)  # four blocks and six tokens
ROUNDS = st.lists(st.lists(IDS, min_size=1, max_size=6), min_size=1, max_size=5)


class Memory:
    """What each block holds: all tokens up to its end, since keys and values depend on those."""

    def __init__(self):
        self.blocks = {}

    def run(self, prefix_batch):
        """Do what a device does; return each item's tokens, as its keys and values spell them."""
        held_tokens = prefix_batch.lengths[: prefix_batch.held].sum()
        assert held_tokens == BLOCK_TOKENS * len(prefix_batch.cached_blocks)
        blocks, runs = iter(prefix_batch.cached_blocks.tolist()), iter(prefix_batch.runs())
        paths, rows = [], []
        for run, (length, parent) in enumerate(
            zip(prefix_batch.lengths, prefix_batch.parents, strict=True)
        ):
            assert parent < run
            path = list(paths[parent]) if parent >= 0 else []
            if run < prefix_batch.held:
                for _ in range(length // BLOCK_TOKENS):
                    held = self.blocks[next(blocks)]
                    assert held[: len(path)] == path
                    assert len(held) == len(path) + BLOCK_TOKENS
                    path = held
            else:
                for token in next(runs).tolist():
                    path = [*path, token]
                    rows.append(path)
            paths.append(path)
        kept = prefix_batch.new_rows.reshape(-1, BLOCK_TOKENS).tolist()
        assert not set(prefix_batch.new_blocks.tolist()) & set(prefix_batch.cached_blocks.tolist())
        for block, places in zip(prefix_batch.new_blocks.tolist(), kept, strict=True):
            last = rows[places[-1]]
            assert len(last) % BLOCK_TOKENS == 0
            assert [rows[place] for place in places] == [
                last[: len(last) - after] for after in reversed(range(BLOCK_TOKENS))
            ]
            self.blocks[block] = last
        return [paths[run] for run in prefix_batch.reads]


def waiting(*texts, scope=""):
    """Return a line in which one request's items wait."""
    return joined(ModelQueue(lambda _: False, count()), *texts, scope=scope)


def joined(line, *texts, scope):
    """Return a line in which one more request's items wait."""
    flow = RequestFlow(scope=scope)
    for text in texts:
        line.add(WorkItem(text, flow), 0.0)
    return line


def run_all(line, cache, memory, budget=10_000):
    """Run all batches of a line; return them."""
    batches = []
    while line.items:
        batch = plan(line, budget, shares=True, cache=cache)
        assert memory.run(batch.prefix_batch) == [work.ids.tolist() for work in batch.works]
        batches.append(batch)
    return batches


@given(ROUNDS, st.integers(1, 400), st.integers(1, 40))
def test_blocks_hold_what_they_are_read_for(rounds, budget, blocks):
    """Whatever came before and had to give way, a batch reads its items' own prefixes.

    The budget of computed tokens is kept, every item's last token is computed, and the parts that
    items are charged add up.
    """
    cache, memory = PrefixCache(blocks), Memory()
    for texts in rounds:
        for batch in run_all(waiting(*texts), cache, memory, budget):
            assert batch.prefix_batch.tokens <= budget or len(batch.works) == 1
            assert len(cache) <= blocks
            parts = batch.computed_tokens()
            assert abs(sum(parts) - batch.prefix_batch.tokens) < 1e-6
            assert all(part > 0 for part in parts)


@given(ROUNDS, st.lists(st.lists(IDS, max_size=6), min_size=5, max_size=5))
def test_a_scope_is_charged_what_it_would_be_alone(rounds, others):
    """Whatever another's items beside it and before it begin with: it can't be told from that."""
    shared, alone = (PrefixCache(10_000), Memory()), (PrefixCache(10_000), Memory())
    for texts, besides in zip(rounds, others, strict=False):
        line = joined(waiting(*texts, scope="own"), *besides, scope="other")
        (batch,) = run_all(line, *shared)
        (expected,) = run_all(waiting(*texts, scope="own"), *alone)
        parts = zip(batch.works, batch.computed_tokens(), strict=True)
        charged = [(work.ids.tolist(), part) for work, part in parts if work.flow.scope == "own"]
        by_itself = zip(expected.works, expected.computed_tokens(), strict=True)
        assert sorted(charged) == sorted((work.ids.tolist(), part) for work, part in by_itself)


@given(ROUNDS)
def test_with_room_for_all_nothing_is_computed_twice(rounds):
    """Again and in one batch, an item costs its tokens after the last whole block."""
    cache, memory = PrefixCache(10_000), Memory()
    for texts in rounds:
        run_all(waiting(*texts), cache, memory)
        for text in texts:
            (batch,) = run_all(waiting(text), cache, memory)
            assert batch.prefix_batch.tokens == (len(text) - 1) % BLOCK_TOKENS + 1


def test_a_group_that_is_split_over_batches_computes_its_prompt_once():
    """Each further batch costs its responses and what of the prompt fills no block."""
    cache = PrefixCache(100)
    texts = [response(PROMPT, token) for token in range(10, 16)]
    batches = run_all(waiting(*texts), cache, Memory(), budget=64 + 2 * 26)
    assert [len(batch.works) for batch in batches] == [2, 4]
    assert [batch.prefix_batch.tokens for batch in batches] == [70 + 2 * 20, 6 + 4 * 20]
    assert batches[1].prefix_batch.lengths.tolist() == [64, 6, 20, 20, 20, 20]
    assert batches[1].shared_tokens == 4 * 90 - 86


def test_a_growing_solution_computes_its_steps():
    """Each step costs its own tokens and the last that filled no block."""
    cache, memory = PrefixCache(100), Memory()
    text = np.arange(200, dtype=np.int32)
    computed = []
    for length in (50, 80, 120, 200):
        (batch,) = run_all(waiting(text[:length]), cache, memory)
        computed.append(batch.prefix_batch.tokens)
    held = [before // BLOCK_TOKENS * BLOCK_TOKENS for before in (0, 50, 80, 120)]
    assert computed == [50, 80 - held[1], 120 - held[2], 200 - held[3]]


def test_who_ends_where_another_goes_on_is_read_all_the_same():
    """An item of whole blocks that are all kept computes the last one for itself."""
    cache, memory = PrefixCache(100), Memory()
    blocks = ids(2 * BLOCK_TOKENS)
    run_all(waiting(response(blocks, 7)), cache, memory)
    (batch,) = run_all(waiting(blocks, response(blocks, 8)), cache, memory)
    assert batch.prefix_batch.lengths.tolist() == [BLOCK_TOKENS, BLOCK_TOKENS, BLOCK_TOKENS, 20]
    assert batch.prefix_batch.parents.tolist() == [-1, 0, 0, 1]
    assert batch.prefix_batch.tokens == BLOCK_TOKENS + 20


def test_what_a_batch_reads_does_not_give_way_to_what_it_writes():
    """A cache that is full of the batch's own blocks keeps them."""
    cache, memory = PrefixCache(4), Memory()
    text = ids(4 * BLOCK_TOKENS)
    run_all(waiting(text), cache, memory)
    (batch,) = run_all(waiting(response(text, 7, 100)), cache, memory)
    assert len(batch.prefix_batch.cached_blocks) == 4
    assert len(batch.prefix_batch.new_blocks) == 0


def test_a_second_try_reads_and_leaves_nothing():
    """What failed once may have failed for what it read."""
    cache, memory = PrefixCache(100), Memory()
    run_all(waiting(PROMPT), cache, memory)
    line = ModelQueue(lambda _: False, count())
    line.put_back(WorkItem(PROMPT, RequestFlow(), goes_alone=True))
    (batch,) = run_all(line, cache, memory)
    assert (batch.prefix_batch.held, batch.prefix_batch.tokens) == (0, 70)
    assert len(batch.prefix_batch.new_blocks) == 0
