"""Callers who don't read their answers: cut off, and what was held for them is free again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from assay.api.connection import bounded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

ANSWER = bytes(16 * 1024**2)  # more than sockets of this machine keep
PIECE_BYTES = 262_144
PATIENCE_S = 0.2
WAIT_S = 30.0


class Answering:
    """An application of large answers: in one piece, or in many."""

    def __init__(self) -> None:
        self.has_ended = asyncio.Event()
        self.cut_off = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        length = (b"content-length", b"%d" % len(ANSWER))
        size = len(ANSWER) if scope["path"] == "/whole" else PIECE_BYTES
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        for at in range(0, len(ANSWER), size):
            is_last = at + size >= len(ANSWER)
            piece = ANSWER[at : at + size]
            await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
        self.has_ended.set()

    def cut(self) -> None:
        """Count who was cut off."""
        self.cut_off += 1


@pytest.fixture
def answering() -> Answering:
    """The application."""
    return Answering()


@pytest.fixture
async def server(answering: Answering) -> AsyncIterator[uvicorn.Server]:
    """A server of our connections around it."""
    http = bounded(WAIT_S, PATIENCE_S, on_refusal=lambda: None, on_cut_off=answering.cut)
    config = uvicorn.Config(
        answering, port=0, lifespan="off", http=http, ws="none", log_config=None
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server
    server.force_exit = True
    await server.shutdown()


@pytest.mark.parametrize("path", [b"/whole", b"/pieces"])
@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
async def test_a_caller_who_reads_nothing_is_cut_off(
    server: uvicorn.Server, answering: Answering, path: bytes, connection: bytes
) -> None:
    """Whether all was handed over at once or not, and whether the connection was to go on."""
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: %b\r\n\r\n" % (path, connection))

    async with asyncio.timeout(WAIT_S):
        await answering.has_ended.wait()
        while server.server_state.connections or server.server_state.tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert answering.cut_off == 1
    writer.close()
    del reader


async def test_a_caller_who_reads_is_answered(server: uvicorn.Server, answering: Answering) -> None:
    """In whole, and the connection goes on."""
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(WAIT_S):
        for _ in range(2):
            writer.write(b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(ANSWER)) == ANSWER

    assert answering.cut_off == 0
    writer.close()


class Clock:
    """A loop of which only the time is asked for, and alarms are set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alarms: list[Alarm] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, action: Any) -> Alarm:
        self.alarms.append(Alarm(when, action))
        return self.alarms[-1]

    def call_later(self, delay_s: float, action: Any) -> Alarm:
        return Alarm(self.now + delay_s, action)

    def pass_to(self, now: float) -> None:
        self.now = now
        for one in self.alarms:
            if one.action is not None and one.when <= now:
                one.action()


class Alarm:
    """A handle of the loop's."""

    def __init__(self, when: float, action: Any) -> None:
        self.when = when
        self.action: Any = action

    def cancel(self) -> None:
        self.action = None


class Transport:
    """What of an answer wasn't read so far."""

    unread_bytes = 0
    is_cut = False

    def get_extra_info(self, name: str) -> None:
        del name

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def abort(self) -> None:
        self.is_cut = True

    def is_closing(self) -> bool:
        return self.is_cut


def test_who_reads_slowly_has_a_second_for_each_16_kib() -> None:
    """Over the whole answer: a byte now and then isn't enough, and what was read counts."""
    config = uvicorn.Config(Answering(), http="h11", ws="none", lifespan="off", log_config=None)
    config.load()
    kind = bounded(WAIT_S, 10.0, on_refusal=lambda: None, on_cut_off=lambda: None)
    clock, transport = Clock(), Transport()
    connection = kind(config, uvicorn.server.ServerState(), {}, clock)
    connection.connection_made(transport)  # type: ignore[arg-type]
    steps = [(9.0, True), (19.0, True), (29.0, False)]  # so much later it reads on, if it is there
    for now, is_there in steps:
        transport.unread_bytes = 11 * 16_384
        connection.pause_writing()
        clock.pass_to(now)
        assert transport.is_cut is not is_there
        transport.unread_bytes = 1 * 16_384 if now < 10 else 5 * 16_384
        connection.resume_writing()
