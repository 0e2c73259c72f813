"""Requests that offer another protocol are answered in the one they came in (RFC 9110, 7.8)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from assay.api.connection import bounded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

BODY = b'{"prompt": "Name a prime.", "response": "Seven."}'
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
OFFERS = {"h2c": H2C, "websocket": WEBSOCKET, "tls": b"Connection: upgrade\r\nUpgrade: TLS/1.3\r\n"}
SIZED = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PIECES = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
WAIT_S = 30.0


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the method, the path, how long the body was, and the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    said = b"%b %b %d %b" % (scope["method"].encode(), scope["raw_path"], len(body), body)
    length = (b"content-length", b"%d" % len(said))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": said})


def _nothing() -> None:
    """Count nothing."""


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server of our connections around that."""
    config = uvicorn.Config(
        echo,
        port=0,
        lifespan="off",
        http=bounded(WAIT_S, WAIT_S, on_refusal=_nothing, on_cut_off=_nothing),
        ws="none",
        log_config=None,
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await server.shutdown()


async def asked(port: int, *parts: bytes, answers: int = 1) -> list[bytes]:
    """Send the parts, each in a packet of its own, over one connection; return the bodies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    async with asyncio.timeout(WAIT_S):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)
        for _ in range(answers):
            head = await reader.readuntil(b"\r\n\r\n")
            while head.startswith(b"HTTP/1.1 100"):
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            found.append(await reader.readexactly(size))
    writer.close()
    return found


def head(*lines: bytes, target: bytes = b"/score") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (target, b"".join(lines))


def said(target: bytes = b"/score", body: bytes = BODY) -> bytes:
    return b"POST %b %d %b" % (target, len(body), body)


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("framing", ["sized", "chunked"])
async def test_the_body_behind_an_offer_is_kept(port: int, offer: str, framing: str) -> None:
    """Head and body together, apart, and a byte at a time; the connection goes on."""
    size, content = {"sized": (SIZED, BODY), "chunked": (CHUNKED, PIECES)}[framing]
    first = head(OFFERS[offer], size)

    assert await asked(port, first + content) == [said()]
    assert await asked(port, first, content) == [said()]
    whole = first + content
    assert await asked(port, *(whole[at : at + 40] for at in range(0, len(whole), 40))) == [said()]


@pytest.mark.parametrize("offer", OFFERS)
async def test_the_connection_is_kept_after_an_offer(port: int, offer: str) -> None:
    """For requests that offer it again, that don't, and that were sent ahead."""
    first = head(OFFERS[offer], SIZED) + BODY
    empty = b"GET /models HTTP/1.1\r\nHost: a\r\n%b\r\n" % OFFERS[offer]
    plain = head(SIZED, target=b"/compare") + BODY

    answers = await asked(port, first, empty, plain, first, answers=4)
    ahead = await asked(port, first + empty + plain + first, answers=4)

    expected = [said(), b"GET /models 0 ", said(b"/compare"), said()]
    assert answers == expected
    assert ahead == expected


async def test_who_expects_to_be_asked_for_the_body_is(port: int) -> None:
    """`Expect: 100-continue`, with an offer and without one."""
    for lines in ((b"Expect: 100-continue\r\n",), (b"Expect: 100-continue\r\n", H2C)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(*lines, SIZED))
        async with asyncio.timeout(WAIT_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(said())) == said()
        writer.close()


async def test_an_offer_is_no_matter_for_the_log(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing that an operator should install."""
    caplog.set_level(logging.INFO)

    for offer in OFFERS.values():
        await asked(port, head(offer, SIZED) + BODY)

    assert [one.message for one in caplog.records if one.name != "uvicorn.access"] == []


@pytest.mark.parametrize("lines", [(SIZED, CHUNKED), (SIZED, SIZED)])
async def test_a_body_of_two_lengths_is_refused_with_an_offer_too(
    port: int, lines: tuple[bytes, ...]
) -> None:
    """What one reader takes for a body another would take for a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(H2C, *lines) + BODY)

    async with asyncio.timeout(WAIT_S):
        answer: Any = await reader.read()

    assert answer.startswith(b"HTTP/1.1 400")
    writer.close()
