"""Which blocks are kept, and which give way."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assay.scheduling.prefix_cache import PrefixCache, tokens_at
from assay.worker_protocol import BLOCK_TOKENS
from tests.scheduling.texts import IDS, ids

TWO_BLOCKS = ids(2 * BLOCK_TOKENS)


def keep(cache, text, scope=""):
    """Keep a text's whole blocks, as a batch of its own; return its blocks."""
    blocks = cache.path(text, scope)
    cache.open(blocks)
    for begin in range(len(blocks) * BLOCK_TOKENS, len(text) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = cache.add(blocks[-1] if blocks else cache.root(scope), tokens_at(text, begin))
        if block is None:
            break
        blocks.append(block)
    cache.use(blocks)
    return blocks


def numbers(blocks):
    """Return where the device has blocks."""
    return [block.number for block in blocks]


@given(st.lists(IDS, max_size=30), st.integers(1, 12))
def test_a_block_has_one_place_and_is_found_by_its_tokens_alone(texts, count):
    """No two blocks share a place, none is kept whose beginning isn't, and the newest is kept."""
    cache = PrefixCache(count)
    for text in texts:
        kept = keep(cache, text)
        assert len(kept) == min(count, len(text) // BLOCK_TOKENS)
        assert cache.path(text) == kept
    everywhere = [cache.path(text) for text in texts]
    places = {block.number: block for path in everywhere for block in path}
    assert len(places) == len({block for path in everywhere for block in path}) <= len(cache)
    assert set(places) <= set(range(count))


def test_only_whole_blocks_are_kept():
    """A block stands for `BLOCK_TOKENS` tokens and all before them."""
    cache = PrefixCache(10)
    keep(cache, ids(3 * BLOCK_TOKENS - 1))
    assert len(cache.path(ids(3 * BLOCK_TOKENS))) == 2
    assert len(cache.path(ids(2 * BLOCK_TOKENS - 1, BLOCK_TOKENS))) == 1
    assert cache.path(ids(BLOCK_TOKENS - 1)) == []


@given(st.lists(st.tuples(IDS, st.sampled_from("ab")), max_size=20), st.integers(1, 12))
def test_a_block_is_found_by_its_own_scope_alone(entries, count):
    """Equal tokens of two scopes have two blocks; a scope without blocks leaves nothing behind."""
    cache = PrefixCache(count)
    for text, scope in entries:
        kept = keep(cache, text, scope)
        assert cache.path(text, scope) == kept
        assert not set(kept) & set(cache.path(text, "ba"[scope == "b"]))
        assert set(cache._roots) == {one for text, one in entries if cache.path(text, one)}
    for text, scope in entries:
        for block in cache.path(text, scope)[:1]:
            cache.forget(block)
    assert (len(cache), cache._roots) == (0, {})


def test_what_was_used_longest_ago_gives_way():
    """A prompt that is used again outlasts responses that came after it."""
    cache = PrefixCache(4)
    prompt = keep(cache, TWO_BLOCKS)
    for token in range(10, 20):
        response = np.concatenate([TWO_BLOCKS, np.full(BLOCK_TOKENS, token, np.int32)])
        assert keep(cache, response)[:2] == prompt
    assert len(cache) == 4
    keep(cache, np.full(4 * BLOCK_TOKENS, 99, np.int32))
    assert cache.path(TWO_BLOCKS) == []


def test_a_block_gives_way_after_what_continues_it():
    """A long text loses its end first."""
    cache = PrefixCache(4)
    text = ids(4 * BLOCK_TOKENS)
    before = numbers(keep(cache, text))
    keep(cache, np.full(2 * BLOCK_TOKENS, 99, np.int32))
    assert numbers(cache.path(text)) == before[:2]


def test_after_clearing_nothing_is_kept():
    """All places are free again."""
    cache = PrefixCache(4)
    keep(cache, ids(4 * BLOCK_TOKENS))
    cache.clear()
    assert (len(cache), cache.path(ids(4 * BLOCK_TOKENS))) == (0, [])
    assert len(keep(cache, np.full(4 * BLOCK_TOKENS, 99, np.int32))) == 4


def test_places_that_are_free_take_no_memory():
    """A cache of as many as there may ever be is there at once; they are given in order."""
    cache = PrefixCache(1 << 50)
    assert numbers(keep(cache, ids(4 * BLOCK_TOKENS))) == [0, 1, 2, 3]
