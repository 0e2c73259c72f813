"""A large document in pieces: the same as whole, refused where that is, bounded in every part."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.api.incremental_json import MOST_PART_BYTES, MOST_PART_KEYS, IncrementalParser
from assay.errors import BodyTooLarge, MalformedBody
from assay.wire import MOST_ITEMS

TEXTS = st.text(st.sampled_from('ab"\\[]{},:\n\u20ac\U0001f600'), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99_999) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)
DOCUMENTS = st.dictionaries(TEXTS, VALUES, max_size=6) | st.lists(VALUES, max_size=6)
WRONG = [
    b'{"a": [1, 2,], "b": 1}',
    b'{"a": [,1, 2], "b": 1}',
    b'{"a": [1,, 2], "b": 1}',
    b'{"a": [1 2], "b": 1}',
    b'{"a": [1, {"b": 2]}, "c": 3}',
    b'{"a": [1, 2}, "b": 1}',
    b'{"a": [1, 2]]}',
    b'{"a": [1, \\"b", 2]}',
    b'{"a": [1, "b\\"], "c": 2}',
    b'{"a": [1, 2]} {}',
    b'{"a": [1, 2]',
    b'{"a": [1, 2',
    b'{"a": [1, "\xff"]}',
    b'{"a": [1, "\\ud800"]}',
    b"]]]][[[[",
    b"",
]


def parsed(content: bytes, size: int) -> Any:
    """Return a document that comes in chunks of a size."""
    parser = IncrementalParser()
    for begin in range(0, len(content), size):
        parser.feed(content[begin : begin + size])
    return parser.end()


@given(DOCUMENTS, st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_a_document_in_pieces_is_what_it_is_whole(
    document: Any, size: int, is_ascii: bool, indent: int | None
) -> None:
    """Wherever the chunks end: within strings, escapes, numbers, characters of several bytes."""
    content = json.dumps(document, ensure_ascii=is_ascii, indent=indent).encode()

    assert parsed(content, size) == document


@pytest.mark.parametrize("content", WRONG)
@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
def test_what_is_not_json_is_refused(content: bytes, size: int) -> None:
    """No cut makes a document well-formed that isn't."""
    with pytest.raises(MalformedBody, match="not valid JSON"):
        parsed(content, size)


@pytest.mark.parametrize("size", [1, 5, 1_000])
def test_of_a_key_that_comes_twice_the_last_counts(size: int) -> None:
    """As where the body is parsed whole, cut or not."""
    assert parsed(b'{"a": [1, 2, 3], "a": [4]}', size) == {"a": [4]}
    assert parsed(b'{"a": [4], "a": [1, 2, 3]}', size) == {"a": [1, 2, 3]}


def test_token_ids_come_packed() -> None:
    """Four bytes an id; what isn't an id of 32 bits stays a list, for the fields to refuse."""
    ids = list(range(20))
    document = {
        "inputs": [{"input_ids": ids}, {"input_ids": [*ids, 2**40]}, {"input_ids": [*ids, True]}],
        "input": [ids, ids],
    }

    found = parsed(json.dumps(document).encode(), 16)

    assert found["input"] == [array("i", ids)] * 2
    packed, large, boolean = (one["input_ids"] for one in found["inputs"])
    assert packed == array("i", ids)
    assert (large, boolean) == ([*ids, 2**40], [*ids, True])


@pytest.mark.parametrize(
    "content",
    [
        b'{"inputs": [' + b",".join([b'""'] * (MOST_ITEMS + 1)) + b"]}",
        b"{" + b",".join(b'"%d":0' % one for one in range(MOST_PART_KEYS + 1)) + b"}",
        b'{"a":[{' + b",".join(b'"%d":0' % one for one in range(2 * MOST_PART_KEYS)) + b"}]}",
    ],
    ids=["items", "keys", "keys-of-an-item"],
)
def test_what_would_take_long_is_refused(content: bytes) -> None:
    """By its number, before anything that takes time has seen it."""
    with pytest.raises(BodyTooLarge, match=r"(items|keys)"):
        parsed(content, 65_536)


def test_as_many_items_as_may_be_are_taken() -> None:
    """The bound is what a request may have, not the first thing it mustn't."""
    assert len(parsed(json.dumps([""] * MOST_ITEMS).encode(), 65_536)) == MOST_ITEMS


@pytest.mark.parametrize("begin", [b'{"a": "', b'{"a": [1, "', b'{"a": {"b": ['])
def test_a_part_has_so_many_bytes(begin: bytes) -> None:
    """One item, and all that is beside the items: neither waits in memory for its end."""
    parser = IncrementalParser()
    parser.feed(begin)
    megabyte = b"x" * 1024**2
    for _ in range(MOST_PART_BYTES // len(megabyte) - 1):
        parser.feed(megabyte)

    with pytest.raises(BodyTooLarge, match=f"{MOST_PART_BYTES} bytes"):
        parser.feed(megabyte)


def test_what_is_parsed_so_far_can_be_freed_where_the_document_breaks_off() -> None:
    """Whoever empties these lists frees all that a parser holds."""
    parser = IncrementalParser()
    parser.feed(b'{"a": [{"b": 1}, {"b": 2}], "c": [[3], ')
    parser.feed(b"[4], 5")

    assert parser.lists == [[[3], [4]]]  # what was whole in one chunk is parsed at the end
