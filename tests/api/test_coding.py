"""Content codings undone a piece at a time, within the limits that plain bodies have."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from assay.api import coding
from assay.errors import BodyTooLarge, MalformedBody, UnsupportedMedia

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BODY = b'{"prompt": "Name a prime.", "response": "' + bytes(range(32, 127)) * 9_000 + b'"}'
LIMIT = 2**20
MEBIBYTE = 2**20


def bare(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


CODED: dict[str, tuple[list[str], Callable[[bytes], bytes]]] = {
    "gzip": (["gzip"], gzip.compress),
    "members": (["gzip"], lambda data: gzip.compress(data[:99]) + gzip.compress(data[99:])),
    "an empty member": (["gzip"], lambda data: gzip.compress(b"") + gzip.compress(data)),
    "zlib": (["deflate"], zlib.compress),
    "bare": (["deflate"], bare),
    "twice": (["gzip", "gzip"], lambda data: gzip.compress(gzip.compress(data))),
    "in a row": (["deflate", "gzip"], lambda data: gzip.compress(bare(data))),
}


async def decoded(names: Sequence[str], data: bytes, size: int = 65_536, limit: int = LIMIT) -> Any:
    """Return what comes of data that arrives in chunks of a size."""
    chunks = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    messages: list[Any] = [
        {"type": "http.request", "body": chunk, "more_body": place + 1 < len(chunks)}
        for place, chunk in enumerate(chunks)
    ]
    messages.append({"type": "http.disconnect"})
    left = iter(messages)

    async def receive() -> Any:
        return next(left)

    decoding = coding.Decoded(receive, names, limit)
    body, more = b"", True
    while more:
        message = await decoding.receive()
        body += message["body"]
        more = message["more_body"]
    assert await decoding.receive() == {"type": "http.disconnect"}
    return body


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("size", [1, 7, 65_536, 10**9])
async def test_a_body_comes_as_it_was(name: str, size: int) -> None:
    """However it arrives; two codings are undone from the last to the first."""
    names, encode = CODED[name]
    body = BODY[:500] if size < 10 else BODY

    assert await decoded(names, encode(body), size) == body


@pytest.mark.parametrize("name", CODED)
async def test_a_body_that_is_cut_or_broken_is_malformed(name: str) -> None:
    """The message says which coding, and that it isn't whole."""
    names, encode = CODED[name]
    whole = encode(BODY)

    for size in (1, len(whole) // 2, len(whole) - 1):
        with pytest.raises(MalformedBody, match="ends before"):
            await decoded(names, whole[:size])
    for wrong in (b"{}{}{}{}", b"\x00" * 40, whole + b"{}"):
        with pytest.raises(MalformedBody, match=r"not valid|ends before"):
            await decoded(names, wrong)


async def test_nothing_is_an_empty_body() -> None:
    """Some clients name a coding of requests without a body."""
    assert await decoded(["gzip"], b"") == b""


@pytest.mark.parametrize("names", [["gzip"], ["deflate"], ["gzip", "gzip"], ["gzip"] * 4])
async def test_a_bomb_is_refused_before_it_grows(names: list[str]) -> None:
    """Blanks in a coding or four: a few pieces of them are ever in memory."""
    encode = {"gzip": gzip.compress, "deflate": zlib.compress}
    bomb = zlib.compressobj(wbits=31 if names[0] == "gzip" else 15)
    data = b"".join(bomb.compress(b" " * MEBIBYTE) for _ in range(24)) + bomb.flush()
    for name in names[1:]:
        data = encode[name](data)
    tracemalloc.start()

    with pytest.raises(BodyTooLarge, match="once it is decoded"):
        await decoded(names, data)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MEBIBYTE


async def test_what_grows_within_is_bounded_too() -> None:
    """A coding whose content another throws away."""
    padded = gzip.compress(gzip.compress(b"{}") + bytes(8 * MEBIBYTE))

    with pytest.raises((BodyTooLarge, MalformedBody)):
        await decoded(["gzip", "gzip"], padded)
    many = gzip.compress(gzip.compress(b"") * 60_000)
    with pytest.raises(BodyTooLarge):
        await decoded(["gzip", "gzip"], many)


async def test_others_have_their_turn_while_much_is_decoded() -> None:
    """A chunk of some kilobytes has many pieces."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    await decoded(["gzip"], gzip.compress(bytes(16 * MEBIBYTE)), limit=2**30)
    other.cancel()

    assert turns >= 64


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([], []),
        ([b"identity"], []),
        ([b"GZip"], ["gzip"]),
        ([b"x-gzip, Deflate"], ["gzip", "deflate"]),
        ([b"gzip", b"identity, gzip"], ["gzip", "gzip"]),
    ],
)
def test_codings_are_read_from_all_headers_of_that_name(
    values: list[bytes], names: list[str]
) -> None:
    """In any case, with their old names, in the order in which they were applied."""
    headers = [(b"accept", b"br"), *((b"content-encoding", value) for value in values)]

    assert coding.codings(headers) == names


@pytest.mark.parametrize("value", [b"br", b"zstd", b"compress", b"gzip, zstd", b"\xff"])
def test_another_coding_is_refused_with_those_that_are_known(value: bytes) -> None:
    """What can't be decoded isn't parsed."""
    with pytest.raises(UnsupportedMedia, match="send gzip or deflate") as refused:
        coding.codings([(b"content-encoding", value)])
    assert refused.value.param == "content-encoding"


def test_a_body_is_encoded_a_few_times_at_most() -> None:
    """Each step costs as much as a body may."""
    with pytest.raises(UnsupportedMedia, match="4 times"):
        coding.codings([(b"content-encoding", b"gzip, gzip, gzip, x-gzip,gzip")])


@pytest.mark.parametrize(
    ("content_type", "is_known"),
    [
        (b"", True),
        (b"application/json", True),
        (b"application/x-www-form-urlencoded", True),
        (b"application/json; charset=UTF-8", True),
        (b'application/json;charset="utf-8"', True),
        (b"text/plain; charset=us-ascii; boundary=charset", True),
        (b"application/json; charset=utf-16", False),
        (b"application/json; Charset = latin-1", False),
        (b"text/plain;charset=iso-8859-1", False),
        (b"application/json; charset=\xe4", False),
    ],
)
def test_the_charset_is_utf_8_or_none(content_type: bytes, is_known: bool) -> None:
    """JSON has no other (RFC 8259, 8.1)."""
    if is_known:
        coding.check_charset(content_type)
    else:
        with pytest.raises(UnsupportedMedia, match="send UTF-8"):
            coding.check_charset(content_type)
