"""How many connections there may be: one more is told so, and closed."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn

from assay import listening
from assay.api import descriptors
from assay.api.connection import bounded
from assay.errors import SettingsError
from assay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.types import Receive, Scope, Send

MOST = 3
WAIT_S = 30.0


async def greet(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer something."""
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    await send(head)
    await send({"type": "http.response.body", "body": b"hi"})


@pytest.fixture
def metrics() -> Metrics:
    """What the server counts."""
    return Metrics()


@pytest.fixture
async def url(metrics: Metrics) -> AsyncIterator[str]:
    """A server that takes three connections."""
    kind = bounded(
        WAIT_S,
        WAIT_S,
        on_refusal=lambda: None,
        on_cut_off=lambda: None,
        most_connections=MOST,
        on_crowd=metrics.connection_refused,
    )
    config = uvicorn.Config(greet, port=0, lifespan="off", http=kind, ws="none", log_config=None)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await server.shutdown()


async def asked(client: httpx.AsyncClient) -> httpx.Response:
    async with asyncio.timeout(WAIT_S):
        return await client.get("/")


async def test_one_connection_too_many_is_told_when_to_come_back(
    url: str, metrics: Metrics
) -> None:
    """Those that are open go on; one that closes makes room for another."""
    clients = [httpx.AsyncClient(base_url=url) for _ in range(MOST + 1)]
    *first, last = clients

    taken = [await asked(one) for one in first]
    refused = await asked(last)
    again = [await asked(one) for one in first]
    counted = metrics.registry.get_sample_value("assay_connections_refused_total")
    await first.pop().aclose()
    later = refused
    while later.status_code != 200:  # until it is seen to be closed
        later = await asked(last)
    for one in [*first, last]:
        await one.aclose()

    assert [one.status_code for one in [*taken, *again]] == [200] * 2 * MOST
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "overloaded"
    assert refused.json()["error"]["retryable"] is True
    assert counted == 1
    assert later.text == "hi"


@pytest.fixture
def few() -> Iterator[int]:
    """The hard limit of open files, with a soft limit below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised_within_reason(few: int) -> None:
    """As far as it may be; the default of many systems is 1,024."""
    limit = descriptors.raise_limit()

    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit
    assert limit == (65_536 if few == resource.RLIM_INFINITY else min(few, 65_536))
    assert descriptors.raise_limit() == limit


@pytest.mark.parametrize(
    ("wanted", "limit", "expected"),
    [(None, 65_536, 65_280), (None, 256, 192), (100, 1_024, 100), (768, 1_024, 768)],
)
def test_connections_leave_room_for_other_files(
    wanted: int | None, limit: int, expected: int
) -> None:
    """Without a setting all but these."""
    assert descriptors.connections(wanted, limit) == expected


def test_more_connections_than_files_stop_the_start() -> None:
    """With what there may be, and where to raise it."""
    with pytest.raises(SettingsError, match=r"max_connections is 2000.*leaves 768 .*LimitNOFILE"):
        descriptors.connections(2_000, 1_024)


@pytest.mark.parametrize(
    ("host", "is_exposed"), [("127.0.0.1", False), ("127.0.0.2", False), ("0.0.0.0", True)]
)
def test_what_listens_beyond_loopback_is_exposed(host: str, is_exposed: bool) -> None:
    """Whatever the settings say: a socket may have been handed over."""
    with socket.create_server((host, 0)) as one, socket.socket(socket.AF_UNIX) as local:
        assert listening.is_exposed([local, one]) is is_exposed
