"""What requests may hold of memory: who is refused, and when it is given back."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from fastapi import Request
from fastapi.responses import Response
from pydantic_core import from_json

from assay.api import body as bodies
from assay.api.holdings import Holding, Holdings, worth
from assay.api.incremental_json import IncrementalParser
from assay.api.keys import Keys, read
from assay.api.origins import Origins
from assay.api.request_middleware import Frame
from assay.errors import BodyTooLarge, Overloaded
from assay.settings import Settings
from assay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Message, Receive, Scope, Send

MOST = 12_000_000
CHUNK = 262_144
SHAPES: dict[str, bytes] = {
    "objects": b'{"a":1},',
    "empty objects": b"{},",
    "nested lists": b"[" * 100 + b"]" * 100 + b",",
    "short texts": b'"ab",',
    "floats": b"1.5,",
    "messages": b'{"role":"a","content":"b"},',
    "turns": json.dumps({"role": "user", "content": "word " * 10}).encode() + b",",
    "accented texts": '"na\u00efve \u2019 words",'.encode(),
}
OBJECTS = b'{"inputs":[' + b'[{"a":1},{"a":1}],' * 20_000  # unfinished; worth about 16 MB
PLAIN = b'{"inputs":["' + b"x" * 2_000_000  # unfinished; worth 4 MB


def held(content: bytes) -> int:
    """Return how much memory a body takes once it is parsed in pieces."""
    tracemalloc.start()
    parser = IncrementalParser()
    for begin in range(0, len(content), CHUNK):
        parser.feed(content[begin : begin + CHUNK])
    document = parser.end()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert document
    assert parser.worth >= size / 1.5
    return size


@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_counts_for_what_it_takes_once_it_is_parsed(shape: str) -> None:
    """Whatever it is made of, parsed in pieces or as a whole."""
    element = SHAPES[shape]
    row = b"[" + element * (1_000 // len(element)) + b"0],"
    content = b'{"inputs":[' + row * 400 + b"0]}"

    size = held(content)

    assert worth(content, is_json=True) >= size / 1.5
    assert worth(content, is_json=True) < 30 * size + 3 * len(content)


def test_token_ids_count_for_what_they_are_packed_into() -> None:
    """As text takes twice its bytes, they do so at the most: no caller with ids is refused."""
    row = json.dumps({"input_ids": [12_345] * 1_000}).encode()
    parser = IncrementalParser()
    for _ in range(50):
        parser.feed((b"," if parser.worth else b'{"inputs":[') + row)
    parser.feed(b"]}")

    assert len(parser.end()["inputs"]) == 50
    assert parser.worth < 2.2 * len(row) * 50


@pytest.mark.parametrize("value", [{}, [], "ab", "\u00e9"])
def test_message_pack_counts_for_what_it_may_become(value: object) -> None:
    """One byte may be an object."""
    content = msgspec.msgpack.encode({"query": [value] * 50_000})
    tracemalloc.start()
    document = msgspec.msgpack.decode(content)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert document
    assert worth(content, is_json=False) >= size / 1.5
    assert worth(from_json(b'"word word"').encode(), is_json=False) == 2 * 9


def test_a_caller_may_hold_as_much_as_it_leaves_free() -> None:
    """Alone half; whoever comes later has room, and what is given back is free for all."""
    metrics = Metrics()
    holdings = Holdings(1_000, metrics)
    first, again = (begun(holdings, "a") for _ in range(2))
    first.take(400)
    with pytest.raises(Overloaded, match="yours 400"):
        again.take(101)
    again.take(100)
    second = begun(holdings, "b")
    with pytest.raises(Overloaded):
        second.take(251)
    second.take(250)
    third = begun(holdings, "c")
    third.take(125)
    with pytest.raises(Overloaded) as caught:
        again.take(101)

    assert caught.value.retry_after_s
    assert refusals(metrics) == {"all": 1.0, "caller": 2.0}
    assert gauge(metrics) == holdings.bytes == 875
    for one in (first, again, second, third):
        one.leave()
    assert gauge(metrics) == 0
    third.take(500)


def test_what_nobody_may_hold_is_no_matter_of_time() -> None:
    """413: a client then sends it in parts."""
    with pytest.raises(BodyTooLarge, match="send fewer"):
        Holdings(1_000, Metrics()).begin().take(501)


def begun(holdings: Holdings, caller: str) -> Holding:
    holding = holdings.begin()
    holding.caller = caller
    return holding


def gauge(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("assay_held_bytes")


def refusals(metrics: Metrics) -> dict[str, float]:
    found = {
        reason: metrics.registry.get_sample_value("assay_held_refusals_total", {"reason": reason})
        for reason in ("all", "caller")
    }
    return {reason: count for reason, count in found.items() if count}


class Caller:
    """One request to a frame, its body sent as a test likes."""

    def __init__(self, framed: Frame, *, peer: str = "10.0.0.1", **headers: str) -> None:
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self._body: asyncio.Queue[Message] = asyncio.Queue()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/score",
            "query_string": b"",
            "client": (peer, 5),
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
        }
        self.task = asyncio.create_task(framed(scope, self._body.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        await self.reads.wait()

    def send(self, content: bytes, *, more: bool = True) -> None:
        for begin in range(0, len(content), CHUNK):
            piece = content[begin : begin + CHUNK]
            self._body.put_nowait({"type": "http.request", "body": piece, "more_body": True})
        self._body.put_nowait({"type": "http.request", "body": b"", "more_body": more})

    def leave(self) -> None:
        self._body.put_nowait({"type": "http.disconnect"})

    async def answered(self) -> int:
        await self.task
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body and answer as many bytes as its field says, or fail."""
    request = Request(scope, receive)
    content = await (await bodies.read(request)).parsed(from_json, lambda known: known)
    if "fails" in content:
        raise ZeroDivisionError
    size = content.get("answer", 0)
    await Response(bytes(size))(scope, receive, send)


@pytest.fixture
def metrics() -> Metrics:
    """The metrics of the frame."""
    return Metrics()


@pytest.fixture
async def framed(metrics: Metrics) -> AsyncIterator[Frame]:
    """A frame with room for three of the plain bodies; nothing is held once a test is over."""
    yield Frame(
        reading,
        keys=Keys(read(Settings())),
        origins=Origins(Settings()),
        metrics=metrics,
        holdings=Holdings(MOST, metrics),
        max_body_bytes=MOST,
        routes={},
        shapes={},
    )
    assert gauge(metrics) == 0


async def until(claim: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not claim():  # noqa: ASYNC110  metrics have no event
            await asyncio.sleep(0.001)


async def test_unfinished_bodies_are_refused_beyond_the_bound(
    framed: Frame, metrics: Metrics
) -> None:
    """The one who holds half gets 503, another caller has room, and there is more once one left."""
    first = Caller(framed)
    first.send(PLAIN)
    await until(lambda: (gauge(metrics) or 0) >= 2 * len(PLAIN))
    greedy = Caller(framed)
    greedy.send(PLAIN, more=False)

    assert await greedy.answered() == 503
    assert int(greedy.headers[b"retry-after"]) >= 1
    assert b"overloaded" in greedy.sent[1]["body"]
    assert refusals(metrics) == {"caller": 1.0}
    other = Caller(framed, peer="10.0.0.2")
    other.send(PLAIN[:1_000_000] + b'"]}', more=False)
    assert await other.answered() == 200
    first.leave()
    await until(lambda: gauge(metrics) == 0)
    again = Caller(framed)
    again.send(PLAIN + b'"]}', more=False)
    assert await again.answered() == 200


async def test_a_body_of_small_things_counts_for_what_they_become(framed: Frame) -> None:
    """360 KB that would be more than the whole bound: 413, before it is."""
    caller = Caller(framed)
    caller.send(OBJECTS, more=False)

    assert await caller.answered() == 413
    assert b"memory" in caller.sent[1]["body"]


async def test_a_body_that_states_its_length_is_refused_before_it_is_sent(
    framed: Frame, metrics: Metrics
) -> None:
    """There is no room for it: nobody need wait for what is sent in vain."""
    first = Caller(framed)
    first.send(PLAIN)
    await until(lambda: (gauge(metrics) or 0) >= 2 * len(PLAIN))
    second = Caller(framed, content_length="5000000")

    assert await second.answered() == 503
    first.task.cancel()
    await asyncio.gather(first.task, return_exceptions=True)


async def test_a_compressed_body_counts_for_what_it_is_decoded_to(framed: Frame) -> None:
    """Not for the few bytes that came."""
    caller = Caller(framed, content_encoding="gzip")
    caller.send(gzip.compress(b'["' + b"x" * 8_000_000), more=False)

    assert await caller.answered() == 413


@pytest.mark.parametrize(
    ("content", "status"), [(b'{"fails": 1}', 500), (b"{} {}", 400), (b"\x1f\x8b", 415)]
)
async def test_a_request_that_fails_gives_its_room_back(
    framed: Frame, content: bytes, status: int
) -> None:
    """Whatever went wrong, and wherever."""
    caller = Caller(framed)
    caller.send(content + b" " * 400_000, more=False)

    assert await caller.answered() == status


async def test_an_answer_counts_until_it_is_read(framed: Frame, metrics: Metrics) -> None:
    """And is handed over in pieces: a caller who doesn't read has one of them."""
    caller = Caller(framed)
    caller.reads.clear()
    caller.send(b'{"answer": 5000000}', more=False)
    await until(lambda: gauge(metrics) == 5_000_000)
    refused = Caller(framed)
    refused.send(b'{"answer": 1}' + b" " * 2_000_000, more=False)
    assert await refused.answered() == 503

    caller.reads.set()
    assert await caller.answered() == 200
    pieces = [len(one["body"]) for one in caller.sent[1:]]
    assert sum(pieces) == 5_000_000
    assert max(pieces) <= CHUNK
    assert [one.get("more_body", False) for one in caller.sent[1:]] == [True] * (
        len(pieces) - 1
    ) + [False]
