"""Closed and open loops against a tiny server of the standard library's sockets."""

import asyncio
import json
import threading
from contextlib import closing, contextmanager

import pytest

from loadtest import report
from loadtest.connection import Connection, Origin
from loadtest.drive import drive
from loadtest.pair import Source, rounds
from loadtest.subjects import Setup, subject
from loadtest.texts import Generated
from loadtest.workloads import Closed, Open


class Tiny:
    """Answers POST /score with each response's length; keeps count of what it met.

    `status` answers every request so; `holds` lets that many requests arrive before any is
    answered.
    """

    def __init__(self, status=200, holds=1):
        self.status, self.holds = status, holds
        self.connections = self.open_requests = self.most_open = 0
        self.url = ""
        self.enough = asyncio.Event()
        self.stop = asyncio.Event()
        self.handlers = set()

    async def serve(self, reader, writer):
        self.handlers.add(asyncio.current_task())
        with closing(writer):
            await self._answer_all(reader, writer)

    async def _answer_all(self, reader, writer):
        self.connections += 1
        while (head := await self._head(reader)) is not None:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            items = json.loads(await reader.readexactly(length))["inputs"]
            self.open_requests += 1
            self.most_open = max(self.most_open, self.open_requests)
            if self.open_requests >= self.holds:
                self.enough.set()
            await self.enough.wait()
            body = json.dumps({"scores": [float(len(item["response"])) for item in items]}).encode()
            self.open_requests -= 1
            writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (self.status, len(body)))
            writer.write(body)

    async def _head(self, reader):
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


@contextmanager
def running(tiny):
    """Serve in a thread."""
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def listen():
        server = await asyncio.start_server(tiny.serve, "127.0.0.1", 0)
        tiny.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await tiny.stop.wait()
        server.close()
        tiny.enough.set()  # what still waits can end
        await asyncio.gather(*tiny.handlers)
        await asyncio.sleep(0)  # transports close in the next turn

    def run():
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(listen())

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield tiny
    finally:
        loop.call_soon_threadsafe(tiny.stop.set)
        thread.join()


def bodies(origin, count):
    body = json.dumps({"inputs": [{"prompt": "", "response": "four"}]}).encode()
    return [origin.post("/score", body, {}) for _ in range(count)]


def test_a_closed_loop_keeps_so_many_requests_open():
    """Never more than the concurrency, over as many kept connections."""
    with running(Tiny(holds=4)) as tiny:
        origin = Origin.of(tiny.url)
        run = drive(origin, [bodies(origin, 20)], Closed(4), timeout_s=30)

    assert [json.loads(one.body) for one in run.exchanges] == [{"scores": [4.0]}] * 20
    assert tiny.most_open == 4
    assert tiny.connections == 4


def test_an_open_loop_sends_whatever_is_unanswered():
    """Nothing is answered before the last request was sent, each on a connection of its own."""
    with running(Tiny(holds=12)) as tiny:
        origin = Origin.of(tiny.url)
        arrival = Open(1000.0, new_connections=True)
        run = drive(origin, [bodies(origin, 12)], arrival, timeout_s=30)

    assert [one.error for one in run.exchanges] == [None] * 12
    assert tiny.connections == 12
    assert len(run.late_s) == 12
    assert run.seconds >= 11 / 1000


def test_latency_in_an_open_loop_counts_from_when_the_request_was_due():
    """The first of 12 waits for the last, which was due 11 periods later."""
    with running(Tiny(holds=12)) as tiny:
        origin = Origin.of(tiny.url)
        run = drive(origin, [bodies(origin, 12)], Open(200.0), timeout_s=30)

    assert run.exchanges[0].latency_s >= 11 / 200


def test_errors_are_counted_by_kind():
    """A status, and a port where nobody listens."""
    with running(Tiny(status=503)) as tiny:
        origin = Origin.of(tiny.url)
        run = drive(origin, [bodies(origin, 3)], Closed(1), timeout_s=30)
    nobody = drive(origin, [bodies(origin, 2)], Closed(1), timeout_s=30)

    assert [one.error for one in run.exchanges] == ["HTTP 503"] * 3
    assert [one.error for one in nobody.exchanges] == ["ConnectionRefusedError"] * 2


def test_a_request_without_an_answer_times_out():
    """The connection is given up, and the kind is told."""
    with running(Tiny(holds=9)) as tiny:
        origin = Origin.of(tiny.url)
        run = drive(origin, [bodies(origin, 1)], Closed(1), timeout_s=0.05)

    assert [one.error for one in run.exchanges] == ["timeout"]


async def test_a_closed_connection_is_an_error_not_a_hang():
    """A server may close after an answer; the next request on that connection fails at once."""

    async def answer_once(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
        origin = Origin("127.0.0.1", server.sockets[0].getsockname()[1])
        connection = await Connection.open(origin)
        assert await connection.send(origin.get("/", {})) == (200, b"ok")
        with pytest.raises(ConnectionResetError):
            await connection.send(origin.get("/", {}))


def test_a_pair_of_servers_is_measured_compared_and_reported(tmp_path):
    """Both get the same texts in turn; scores are compared and everything lands in the file."""
    source = Source(Generated(seed=1), None, scale=0.1)
    with running(Tiny()) as first, running(Tiny()) as second:
        setup = Setup(None, "float32", 1, timeout_s=30)
        subjects = [
            subject(f"plain={tiny.url}", setup, suffix=suffix)
            for tiny, suffix in ((first, "-a"), (second, "-b"))
        ]
        told = []
        done = [
            one
            for name in ("groups", "growing", "long-tail")
            for one in rounds(
                subjects, name, source, repetitions=2, rate=500.0, announce=told.append
            )
        ]
    file = tmp_path / "run.json"
    report.write(file, report.record(done, {}))
    written = json.loads(file.read_text())["workloads"]

    assert [one.workload for one in done] == ["groups"] * 2 + ["growing"] * 2 + ["long-tail"] * 2
    assert {one.difference for one in done} == {0.0}
    assert done[0].readings[0].scores != done[1].readings[0].scores
    assert [len(one.readings[0].scores) for one in done] == [32, 32, 72, 72, 40, 40]
    assert written["growing"]["rounds"][1]["readings"][1]["server"] == "plain-b"
    assert written["long-tail"]["rounds"][0]["readings"][0]["offered_per_s"] == 500.0
    assert report.table(done).row_count == 6
    assert told == []
