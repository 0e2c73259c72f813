"""The Python client's own cost: items a second through one process, against a stub in another.

The stub answers each item with a number at once, so that what is measured is the client, the stub's
own parsing, and the loopback between them.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from assay import AsyncClient, Client, errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_ENVELOPE = {
    "id": "score-1",
    "created": 0,
    "model": "stub",
    "revision": "0123456789ab",
    "usage": {"tokens": 1, "computed_tokens": 1, "shared_tokens": 0},
    "timing_ms": {"tokenize": 0.0, "queue": 0.0, "compute": 0.0, "total": 0.0},
}
_SINGLES = 64  # requests of one item that are under way together


@dataclass(frozen=True)
class Rate:
    """How many items went through, in one way of asking."""

    way: str
    items: int
    seconds: float

    @property
    def items_per_s(self) -> float:
        """Items a second."""
        return self.items / self.seconds


def rates(items: int) -> list[Rate]:
    """Measure lists, streams and single items, sync and async."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stub = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    stub.start()
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url)
        return [*_sync(url, items), *asyncio.run(_async(url, items))]
    finally:
        stub.kill()
        stub.join()


def _sync(url: str, items: int) -> Iterator[Rate]:
    with Client(url) as client:
        client.score(_items(100))
        begin = time.perf_counter()
        client.score(_items(items))
        yield Rate("Client.score of a list", items, time.perf_counter() - begin)
        begin = time.perf_counter()
        count = sum(1 for _ in client.stream(iter(_items(items))))
        yield Rate("Client.stream", count, time.perf_counter() - begin)


async def _async(url: str, items: int) -> list[Rate]:
    async with AsyncClient(url) as client:
        begin = time.perf_counter()
        count = sum([1 async for _ in client.stream(_source(items))])
        streamed = Rate("AsyncClient.stream", count, time.perf_counter() - begin)
        begin = time.perf_counter()
        slots = asyncio.Semaphore(_SINGLES)

        async def one(item: dict[str, Any]) -> None:
            async with slots:
                await client.score(item)

        singles = _items(max(1, items // 50))
        await asyncio.gather(*map(one, singles))
        seconds = time.perf_counter() - begin
    return [streamed, Rate("AsyncClient.score of single items", len(singles), seconds)]


def _items(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Question {number}?", "response": "An answer. " * 20} for number in range(count)
    ]


async def _source(count: int) -> AsyncIterator[dict[str, Any]]:
    for item in _items(count):
        yield item


def _wait(url: str) -> None:
    with Client(url) as client:
        for _ in range(300):
            try:
                client.score(_items(1))
            except errors.NotReady:
                time.sleep(0.1)
            else:
                return
    raise RuntimeError("the stub doesn't answer")


def _serve(port: int) -> None:
    uvicorn.run(_stub, host="127.0.0.1", port=port, log_level="error", lifespan="off")


async def _stub(scope: Any, receive: Any, send: Any) -> None:
    del scope
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    count = len(json.loads(body)["inputs"])
    data = [
        {"index": place, "score": 0.5, "n_tokens": 50, "truncated": False} for place in range(count)
    ]
    content = json.dumps({**_ENVELOPE, "data": data}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
