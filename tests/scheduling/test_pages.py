"""Which pages are kept, and which give way."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assay.scheduling.pages import PrefixCache, tokens_at
from assay.worker_protocol import PAGE_TOKENS
from tests.scheduling.texts import IDS, ids

TWO_PAGES = ids(2 * PAGE_TOKENS)


def keep(cache, text, scope=""):
    """Keep a text's whole pages, as a batch of its own; return its pages."""
    pages = cache.path(text, scope)
    cache.open(pages)
    for begin in range(len(pages) * PAGE_TOKENS, len(text) - PAGE_TOKENS + 1, PAGE_TOKENS):
        page = cache.add(pages[-1] if pages else cache.root(scope), tokens_at(text, begin))
        if page is None:
            break
        pages.append(page)
    cache.use(pages)
    return pages


def numbers(pages):
    """Return where the device has pages."""
    return [page.number for page in pages]


@given(st.lists(IDS, max_size=30), st.integers(1, 12))
def test_a_page_has_one_place_and_is_found_by_its_tokens_alone(texts, count):
    """No two pages share a place, none is kept whose beginning isn't, and the newest is kept."""
    cache = PrefixCache(count)
    for text in texts:
        kept = keep(cache, text)
        assert len(kept) == min(count, len(text) // PAGE_TOKENS)
        assert cache.path(text) == kept
    everywhere = [cache.path(text) for text in texts]
    places = {page.number: page for path in everywhere for page in path}
    assert len(places) == len({page for path in everywhere for page in path}) <= len(cache)
    assert set(places) <= set(range(count))


def test_only_whole_pages_are_kept():
    """A page stands for `PAGE_TOKENS` tokens and all before them."""
    cache = PrefixCache(10)
    keep(cache, ids(3 * PAGE_TOKENS - 1))
    assert len(cache.path(ids(3 * PAGE_TOKENS))) == 2
    assert len(cache.path(ids(2 * PAGE_TOKENS - 1, PAGE_TOKENS))) == 1
    assert cache.path(ids(PAGE_TOKENS - 1)) == []


@given(st.lists(st.tuples(IDS, st.sampled_from("ab")), max_size=20), st.integers(1, 12))
def test_a_page_is_found_by_its_own_scope_alone(entries, count):
    """Equal tokens of two scopes have two pages; a scope without pages leaves nothing behind."""
    cache = PrefixCache(count)
    for text, scope in entries:
        kept = keep(cache, text, scope)
        assert cache.path(text, scope) == kept
        assert not set(kept) & set(cache.path(text, "ba"[scope == "b"]))
        assert set(cache._roots) == {one for text, one in entries if cache.path(text, one)}
    for text, scope in entries:
        for page in cache.path(text, scope)[:1]:
            cache.forget(page)
    assert (len(cache), cache._roots) == (0, {})


def test_what_was_used_longest_ago_gives_way():
    """A prompt that is used again outlasts responses that came after it."""
    cache = PrefixCache(4)
    prompt = keep(cache, TWO_PAGES)
    for token in range(10, 20):
        response = np.concatenate([TWO_PAGES, np.full(PAGE_TOKENS, token, np.int32)])
        assert keep(cache, response)[:2] == prompt
    assert len(cache) == 4
    keep(cache, np.full(4 * PAGE_TOKENS, 99, np.int32))
    assert cache.path(TWO_PAGES) == []


def test_a_page_gives_way_after_what_continues_it():
    """A long text loses its end first."""
    cache = PrefixCache(4)
    text = ids(4 * PAGE_TOKENS)
    before = numbers(keep(cache, text))
    keep(cache, np.full(2 * PAGE_TOKENS, 99, np.int32))
    assert numbers(cache.path(text)) == before[:2]


def test_after_clearing_nothing_is_kept():
    """All places are free again."""
    cache = PrefixCache(4)
    keep(cache, ids(4 * PAGE_TOKENS))
    cache.clear()
    assert (len(cache), cache.path(ids(4 * PAGE_TOKENS))) == (0, [])
    assert len(keep(cache, np.full(4 * PAGE_TOKENS, 99, np.int32))) == 4
