"""What callers send to bring a server down, and how late its loop is meanwhile.

    python -m loadtest.attacks [--url http://localhost:8000] [--items 1000000]

Each attack is sent to a server of a tiny model (or to the one at --url) while another connection
asks whether it lives, 50 times a second. Passes where the loop's lag stays under 100 ms, by the
server's own histogram, and the server answers all the while. What is refused because others wait
is sent to a second server, whose one request never comes to an end.
"""

from __future__ import annotations

import argparse
import gzip
import json
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from assay.api.incremental_json import MOST_PART_KEYS
from assay.wire import MOST_ITEMS
from loadtest import census, checkpoint, server
from loadtest.scrape import LOOP_LAG, Scrape, scrape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_LAG_S = 0.1
PROBE_S = 0.02
SLOW_CALLERS = 200
SLOW_S = 5.0
ANSWER_S = 300.0
SMILE = "\N{GRINNING FACE}"  # four bytes; a text with one has four bytes a character in Python
_MB = 1024 * 1024
HEADS = ("attack", "MB", "times", "answered", "s", "loop lag up to", "/health/live", "front MB")
out = Console(width=200, highlight=False)


@dataclass(frozen=True, slots=True)
class Attack:
    """Bytes on a connection, several times; those that are never whole are left open a while."""

    name: str
    sent: bytes
    times: int = 1
    is_whole: bool = True


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def scoring(items: Sequence[object], **options: object) -> bytes:
    """Return a request to score items."""
    body = json.dumps({"inputs": items, **options}, ensure_ascii=False)
    return post("/score", body.encode())


def attacks(items: int) -> list[Attack]:
    """Return every attack; `items` is how many the largest request has."""
    tokens = {"input_ids": [5] * items}
    digits = b'{"inputs": {"input_ids": [' + b"9" * 1_000_000 + b"]}}"
    keys = json.dumps({f"key{number}": 0 for number in range(items)}).encode()
    twice = b'{"prompt": "a", "response": "b"' + b', "response": "c"' * items + b"}"
    zeros = gzip.compress(bytes(256 * _MB), 1)
    many = "".join(f"X-{number}: {number}\r\n" for number in range(5_000)).encode()
    chunk = b"1;" + b"x" * 60_000 + b"\r\n{\r\n"
    chunked = b"POST /score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [
        Attack("1,000,000 open brackets", post("/score", b"[" * 1_000_000), 20),
        Attack("the same, a contract's path", post("/classify", b"[" * 1_000_000), 20),
        Attack("5,000 nested objects", post("/rerank", b'{"a":' * 5_000 + b"1" + b"}" * 5_000), 20),
        Attack("a number of 1,000,000 digits", post("/score", digits), 20),
        Attack("1e999", post("/compare", b'{"temperature": 1e999}'), 20),
        Attack(f"{items:,} keys", post("/score", keys)),
        Attack(f"{items:,} keys, a contract's path", post("/classify", keys)),
        Attack(f"one key {items:,} times", post("/score", twice)),
        Attack(f"{items:,} items without content", scoring([{}] * items)),
        Attack(f"{items:,} empty texts", scoring([{"text": ""}] * items)),
        Attack(f"{items:,} small items, too late", scoring([{"text": "a"}] * items, deadline_ms=1)),
        Attack(
            f"{items:,} texts, a contract's path",
            post("/classify", json.dumps({"input": ["a"] * items, "model": "?"}).encode()),
        ),
        Attack(f"{items:,} tokens, an item", scoring([tokens])),
        *_bounded(),
        *_large(),
        *_answered(),
        Attack("a compressed body of 256 MB", post("/score", zeros, "Content-Encoding: gzip"), 5),
        Attack(
            "5,000 headers", b"GET /models HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n", 20
        ),
        Attack("a header of 50 MB", b"GET /models HTTP/1.1\r\nX: " + b"x" * 50 * _MB),
        Attack("extensions of chunks, 50 MB", chunked + chunk * 800),
        Attack(
            "10,000 requests at once",
            b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000,
        ),
        Attack("heads without end", b"POST /score HTTP/1.1\r\nX: ", SLOW_CALLERS, is_whole=False),
        Attack("21 MB of objects without end", _endless(), 3, is_whole=False),
        Attack("bodies without end", post("/score", b"{}")[:-1], SLOW_CALLERS, is_whole=False),
    ]


def _endless() -> bytes:
    """Return most of a body whose few bytes are worth twenty times as much once they are parsed."""
    rows = b'{"inputs": [' + (b'[{"a":1}' + b',{"a":1}' * 99 + b"],") * 26_000
    head = b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n"
    return head + rows


def _bounded() -> list[Attack]:
    """Return what has as much as one request may have."""
    few = [{"text": "a"}] * MOST_ITEMS
    unknown = {f"key{number}": 0 for number in range(MOST_PART_KEYS - 2)}
    late = {"deadline_ms": 1}
    return [
        Attack(f"{MOST_ITEMS:,} small items, too late", scoring(few, **late)),
        Attack("the same, each answered", scoring(few, on_error="item", **late)),
        Attack("the same, late once they wait", scoring(few, on_error="item", deadline_ms=5_000)),
        Attack(
            f"{MOST_ITEMS:,} texts, a contract's path",
            post("/classify", json.dumps({"input": ["a"] * MOST_ITEMS, "model": "?"}).encode()),
        ),
        Attack(f"{len(unknown):,} unknown keys", post("/score", json.dumps(unknown).encode())),
        Attack("the same in an item", scoring([unknown])),
        Attack(
            "10,000 responses to compare",
            post("/compare", json.dumps({"prompt": "a", "responses": ["b"] * 10_000}).encode()),
        ),
    ]


def _large() -> list[Attack]:
    """Return bodies of some 300 MB of ordinary items, too late to cost more than being read."""
    ids = [{"input_ids": [12345] * 4096}] * 10_000
    chat = [{"prompt": "word " * 200, "response": "word " * 800}] * 60_000
    smile = [{"prompt": "word " * 200, "response": "word " * 799 + SMILE}] * 60_000
    late = {"deadline_ms": 1}
    return [
        Attack("300 MB of text", scoring(chat, **late)),
        Attack("300 MB of text, each with an emoji", scoring(smile, **late)),
        Attack("290 MB of token ids", scoring(ids, **late)),
        Attack("a text of 30 MB", scoring([{"text": "word " * 6_000_000}])),
        Attack("texts of 1,000,000 characters", scoring([{"text": "word " * 200_000}] * 10)),
    ]


def _answered() -> list[Attack]:
    """Return what is answered with much."""
    spoken = {"prompt": "word " * 30, "response": "word " * 30}
    responses = {"prompt": "a", "responses": ["b"] * 20_000}
    return [
        Attack(
            f"{MOST_ITEMS:,} items of 300 characters to tokenize",
            post("/tokenize", json.dumps({"inputs": [spoken] * MOST_ITEMS}).encode()),
        ),
        Attack("best of 20,000", post("/best-of-n", json.dumps(responses).encode())),
        Attack("1,000 lists of models", _get("/models") * 1_000),
        Attack("300 scrapes", _get("/metrics") * 300),
        Attack("300 schemas", _get("/openapi.json") * 300),
    ]


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def refused() -> list[Attack]:
    """Return as much as one request may have, for a server that has no room for it."""
    chat = [{"prompt": "word " * 200, "response": "word " * 800}] * 60_000
    ids = [{"input_ids": [12345] * 4096}] * 10_000
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    pair = {"prompt": "a", "responses": ["b", "c"]}
    texts = ["a"] * MOST_ITEMS
    bodies: dict[str, tuple[str, dict[str, object]]] = {
        f"{MOST_ITEMS:,} texts": ("/score", {"inputs": [{"text": "a"}] * MOST_ITEMS}),
        f"{MOST_ITEMS:,} pairs": (
            "/score",
            {"inputs": [{"prompt": "a", "response": "b"}] * MOST_ITEMS},
        ),
        f"{MOST_ITEMS:,} conversations": ("/score", {"inputs": [{"messages": talk}] * MOST_ITEMS}),
        "40,000 conversations of 30 turns": (
            "/score",
            {"inputs": [{"messages": [talk[0]] * 29 + talk[1:]}] * 40_000},
        ),
        "300 MB of text": ("/score", {"inputs": chat}),
        "a text of 30 MB": ("/score", {"inputs": [{"text": "word " * 6_000_000}]}),
        "290 MB of token ids": ("/score", {"inputs": ids}),
        "32,768 comparisons": ("/compare", {"comparisons": [pair] * (MOST_ITEMS // 2)}),
        "32,768 groups": ("/best-of-n", {"groups": [pair] * (MOST_ITEMS // 2)}),
        f"{MOST_ITEMS:,} responses": ("/best-of-n", {"prompt": "a", "responses": texts}),
        "the same, vLLM's /classify": ("/classify", {"input": texts}),
        "the same, /rerank": ("/rerank", {"query": "a", "documents": texts}),
        "the same, vLLM's /score": ("/score", {"text_1": "a", "text_2": texts}),
        "the same, SGLang's /v1/score": ("/v1/score", {"query": "a", "items": texts}),
        "the same, /get_reward": ("/get_reward", {"query": texts}),
    }
    return [
        Attack(f"refused: {name}", post(path, json.dumps(body).encode()))
        for name, (path, body) in bodies.items()
    ]


def main() -> None:
    """Attack and report; exit with 1 where the loop was late or the server silent."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.attacks", description=__doc__)
    parser.add_argument("--url", help="default: a server of a tiny model, started here")
    parser.add_argument("--items", type=int, default=1_000_000)
    arguments = parser.parse_args()
    table = Table(*HEADS, box=None)
    with _served(arguments.url) as (url, pid):
        passed = [_run(one, url, pid, table) for one in attacks(arguments.items)]
    if arguments.url is None:
        with _full() as (url, pid):
            passed += [_run(one, url, pid, table) for one in refused()]
    out.print(table)
    sys.exit(not all(passed))


@contextmanager
def _served(url: str | None) -> Iterator[tuple[str, int | None]]:
    if url is not None:
        yield url, None
        return
    settings = {"max_body_bytes": 512 * _MB, "max_held_bytes": 8192 * _MB}
    with (
        checkpoint.given_or_random(None) as folder,
        server.assay(folder, "float32", 1, **settings) as assay,
    ):
        yield assay.url, assay.pid


@contextmanager
def _full() -> Iterator[tuple[str, int | None]]:
    """Serve where one request waits and no other may."""
    settings = {
        "max_body_bytes": 512 * _MB,
        "max_held_bytes": 8192 * _MB,
        "max_queued_requests": 1,
        "watchdog_s": ANSWER_S * 10,
    }
    with (
        checkpoint.given_or_random(None) as folder,
        server.assay(folder, "float32", 1, **settings) as assay,
    ):
        (worker,) = census.workers(assay.pid)
        worker.suspend()
        waits = threading.Thread(
            target=_exchange, args=(scoring([{"text": "a"}]), assay.url), daemon=True
        )
        waits.start()
        time.sleep(1.0)
        try:
            yield assay.url, assay.pid
        finally:
            worker.resume()
            waits.join()


def _run(attack: Attack, url: str, pid: int | None, table: Table) -> bool:
    """Run one attack, add its row, and return whether the server stood it."""
    before = scrape(url, {})
    probe = _Probe(url, pid)
    begin = time.monotonic()
    with probe.running():
        answers = _attack(attack, url)
    passed_s = time.monotonic() - begin
    after = scrape(url, {})
    if before is None or after is None:
        table.add_row(attack.name, "", str(attack.times), answers, f"{passed_s:.1f}", "no metrics")
        return False
    lag_s = _longest(after.since(before))
    table.add_row(
        *(attack.name, f"{len(attack.sent) / _MB:.1f}", str(attack.times), answers),
        *(f"{passed_s:.1f}", f"{1e3 * lag_s:.0f} ms", f"{1e3 * probe.slowest_s:.0f} ms"),
        f"{probe.first_bytes / _MB:.0f} to {probe.peak_bytes / _MB:.0f}",
    )
    return lag_s <= MOST_LAG_S and not probe.failures


def _longest(between: Scrape) -> float:
    """Return the upper bound of the slowest bucket that has something."""
    return between.quantile(LOOP_LAG, 1.0) or 0.0


def _attack(attack: Attack, url: str) -> str:
    """Send, and return the statuses that came."""
    if not attack.is_whole:
        open_ones = [_connected(url) for _ in range(attack.times)]
        for one in open_ones:
            one.sendall(attack.sent)
        time.sleep(SLOW_S)
        for one in open_ones:
            one.close()
        return "left open"
    statuses = {_exchange(attack.sent, url) for _ in range(attack.times)}
    return ", ".join(sorted(statuses))


def _exchange(sent: bytes, url: str) -> str:
    """Return the status of the first answer; nothing where the connection was closed."""
    with _connected(url) as connection:
        sender = threading.Thread(target=_send, args=(connection, sent), daemon=True)
        sender.start()  # the answer may come before all was sent
        try:
            start = connection.recv(64)
        except OSError:
            start = b""
        status = start[9:12].decode("latin-1") or "closed"
        while start:
            try:
                connection.settimeout(0.5)
                start = connection.recv(1 << 20)
            except OSError:
                break
    sender.join()
    return status


def _send(connection: socket.socket, sent: bytes) -> None:
    with suppress(OSError):
        connection.sendall(sent)


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=ANSWER_S)


class _Probe:
    """Asks whether the server lives, again and again, and looks at its memory."""

    def __init__(self, url: str, pid: int | None) -> None:
        self.slowest_s = 0.0
        self.failures = 0
        self.first_bytes = self.peak_bytes = 0
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._process = psutil.Process(pid) if pid else None
        if self._process is not None:
            self.first_bytes = self.peak_bytes = self._process.memory_info().rss
        self._is_over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()
            self._http.close()

    def _ask(self) -> None:
        while not self._is_over.wait(PROBE_S):
            begin = time.perf_counter()
            try:
                self.failures += not self._http.get("/health/live").is_success
            except httpx.TransportError:
                self.failures += 1
            self.slowest_s = max(self.slowest_s, time.perf_counter() - begin)
            if self._process is not None:
                self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)


if __name__ == "__main__":
    main()
