"""Overload, deadlines, callers who leave, a worker that dies, a server that is told to stop.

The device process is frozen while a test arranges what waits, so nothing depends on its speed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.http.conftest import BATCH_TOKENS, KEYS, MAX_QUEUED_TOKENS
from tests.http.processes import WAIT_S, serving, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from tests.http.processes import Server

# 30 items of 50 tokens, one a batch, and more than half of what may wait
FAT: list[dict[str, Any]] = [{"input_ids": [10 + number] * 49 + [7]} for number in range(30)]
BURST = 400
AT_WORKER = 1  # batches: a frozen device never comes to the end of one
FAT_TOKENS = sum(len(item["input_ids"]) for item in FAT)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Callers that wait for their answers."""
    with ThreadPoolExecutor() as executor:
        yield executor


def send_fat(server: Server, pool: ThreadPoolExecutor) -> Future[httpx.Response]:
    """Send the fat request, and return once most of it waits."""
    future = pool.submit(server.score, inputs=FAT)
    until("the fat request waits", lambda: waiting(server) == len(FAT) - AT_WORKER)
    return future


def waiting(server: Server) -> float:
    return server.metric("assay_queue_items")


def scores(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return [entry["score"] for entry in answer.json()["data"]]


@pytest.fixture(scope="module")
def expected(narrow: Server) -> list[float]:
    """The fat request's scores on a quiet server."""
    return scores(narrow.score(inputs=FAT))


def test_what_finds_no_room_is_told_when_to_return(
    narrow: Server, pool: ThreadPoolExecutor, expected: list[float]
) -> None:
    """Over `max_queued_tokens` the answer is 503 with `Retry-After`; smaller requests still fit."""
    assert FAT_TOKENS <= MAX_QUEUED_TOKENS < 2 * FAT_TOKENS
    shed = {"route": "score", "outcome": "overloaded"}
    before = narrow.metric("assay_requests_total", **shed)

    with narrow.held():
        first = send_fat(narrow, pool)
        # Before the refusal: once the room that is kept for it is nearly due, none is left.
        small = pool.submit(narrow.score, inputs=FAT[:1])
        until("the small one waits", lambda: waiting(narrow) == len(FAT) - AT_WORKER + 1)
        refused = narrow.score(inputs=FAT)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "overloaded")
    assert error["retryable"] is True
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert str(FAT_TOKENS + len(FAT[0]["input_ids"])) in error["message"]
    assert narrow.metric("assay_requests_total", **shed) == before + 1
    assert scores(first.result()) == expected
    assert scores(small.result()) == expected[:1]
    time.sleep(int(refused.headers["retry-after"]) + 6)  # the room that is kept for it is free then
    assert scores(narrow.score(inputs=FAT)) == expected


@pytest.mark.parametrize("on_error", ["fail", "item"])
def test_an_item_whose_deadline_passes_is_answered_without_running(
    narrow: Server, pool: ThreadPoolExecutor, expected: list[float], on_error: str
) -> None:
    """504, or the item's error: nothing was computed, and how long it waited is in the metrics."""
    computed = narrow.metric("assay_computed_tokens_total")
    noted = [f"assay_{name}_seconds_count" for name in ("request_duration", "queue")]
    before = [narrow.metric(name) for name in noted]

    with narrow.held():
        fat = send_fat(narrow, pool)
        answer = narrow.score(inputs=FAT[:2], deadline_ms=1, on_error=on_error)
        after = [narrow.metric(name) for name in noted]

    assert after == [count + 1 for count in before]
    assert scores(fat.result()) == expected
    assert narrow.metric("assay_computed_tokens_total") == computed + FAT_TOKENS
    if on_error == "item":
        codes = [entry["error"]["code"] for entry in answer.json()["data"]]
        assert (answer.status_code, codes) == (200, ["deadline_exceeded"] * 2)
    else:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (504, "deadline_exceeded")
        assert (error["param"], error["retryable"]) == ("inputs[0]", True)


def test_a_caller_who_leaves_takes_the_items_along(
    narrow: Server, pool: ThreadPoolExecutor, expected: list[float]
) -> None:
    """What the caller no longer waits for isn't computed, and the next request has its room."""
    gone = {"route": "score", "outcome": "client_gone", "model": "tiny"}
    before = narrow.metric("assay_requests_total", **gone)
    computed = narrow.metric("assay_computed_tokens_total")
    address = httpx.URL(narrow.url)

    with narrow.held():
        with socket.create_connection((address.host, address.port)) as caller:
            caller.sendall(request(FAT))
            until("it waits", lambda: waiting(narrow) == len(FAT) - AT_WORKER)
        until(
            "the server notices",
            lambda: narrow.metric("assay_requests_total", **gone) == before + 1,
        )
        next_one = pool.submit(narrow.score, inputs=FAT)

    assert scores(next_one.result()) == expected
    assert waiting(narrow) == 0
    spent = narrow.metric("assay_computed_tokens_total") - computed
    assert spent <= FAT_TOKENS + AT_WORKER * BATCH_TOKENS


def test_a_killed_worker_is_replaced_and_its_work_done_again(
    narrow: Server, pool: ThreadPoolExecutor, expected: list[float]
) -> None:
    """The caller gets the same bits, only later; meanwhile the server says that it isn't ready."""
    restarts = narrow.metric("assay_worker_restarts_total")

    with narrow.held() as worker:
        fat = send_fat(narrow, pool)
        worker.kill()
        until("it isn't ready", lambda: narrow.http.get("/health/ready").status_code == 503)
    ready = narrow.http.get("/health/ready")
    refused = narrow.score(**PAIR)

    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert "worker" in ready.json()["reasons"][0]
    assert ready.json()["models"] == dict.fromkeys(("tiny", "bare", "both"), "restarting")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert int(refused.headers["retry-after"]) >= 1
    assert narrow.http.get("/health/live").status_code == 200
    assert scores(fat.result()) == expected
    assert narrow.http.get("/health/ready").status_code == 200
    assert narrow.metric("assay_worker_restarts_total") == restarts + 1
    assert narrow.worker.pid != worker.pid
    assert scores(narrow.score(inputs=FAT)) == expected


def test_a_hanging_worker_is_killed_and_its_work_done_again(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor, expected: list[float]
) -> None:
    """One that makes no progress is as good as dead: the caller gets the same bits, later."""
    with serving(tmp_path / "run", tiny, batch_tokens=BATCH_TOKENS, watchdog_s=1) as server:
        worker = server.worker
        worker.suspend()
        fat = send_fat(server, pool)
        until("it is killed", lambda: not worker.is_running())

        assert scores(fat.result()) == expected
        assert server.metric("assay_worker_restarts_total", reason="hung") == 1


def test_hundreds_of_new_connections_at_once_are_all_answered(narrow: Server) -> None:
    """Trainers open one a request: none is refused or reset, each gets its own item's score."""
    items = [{"input_ids": [10 + number % 90, 7]} for number in range(BURST)]
    expected = scores(narrow.score(inputs=items))

    async def ask(item: dict[str, Any], begin: asyncio.Event) -> float:
        await begin.wait()
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(request(item, "Connection: close\r\n"))
        answer = await reader.read()
        writer.close()
        return float(json.loads(answer.partition(b"\r\n\r\n")[2])["data"][0]["score"])

    async def ask_all() -> list[float]:
        begin = asyncio.Event()
        asking = [asyncio.create_task(ask(item, begin)) for item in items]
        begin.set()
        return await asyncio.gather(*asking)

    address = httpx.URL(narrow.url)

    assert asyncio.run(ask_all()) == expected


def request(inputs: Any, headers: str = "") -> bytes:
    content = json.dumps({"inputs": inputs}).encode()
    head = (
        f"POST /score HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS[0]}\r\n{headers}"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def test_a_server_that_is_told_to_stop_answers_what_it_has(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor, expected: list[float]
) -> None:
    """SIGTERM: no new connection is taken, what was accepted is answered, the exit code is 0."""
    with serving(tmp_path / "run", tiny, batch_tokens=BATCH_TOKENS) as server:
        with server.held():
            fat = send_fat(server, pool)
            server.process.terminate()
            until("it takes no connection", lambda: not accepts(server))
            assert server.process.poll() is None

        assert scores(fat.result()) == expected
        assert server.process.wait(WAIT_S) == 0


def accepts(server: Server) -> bool:
    address = httpx.URL(server.url)
    try:
        socket.create_connection((address.host, address.port)).close()
    except OSError:
        return False
    return True
