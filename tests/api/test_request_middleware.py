"""The frame around an application: what it logs of a request, also of one that fails."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect

from assay.api import problems
from assay.api.holdings import Holdings
from assay.api.keys import Keys, read
from assay.api.origins import Origins
from assay.api.request_middleware import Frame
from assay.api.strangers import Strangers
from assay.settings import Settings
from assay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

WAIT_S = 60.0
PEER = "203.0.113.9"
CANARY = "zqxcanaryqzx"  # stands for a prompt


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise what quotes the body, because of what does so, too."""
    body = (await receive())["body"].decode()
    try:
        int(body)
    except ValueError as error:
        raise KeyError(body) from error


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the lines of requests."""
    return [one for one in caplog.records if one.name == "assay.access"]


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 200, or 400 to a path that says so."""
    status = 400 if scope["path"] == "/bad" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def framed(app: ASGIApp, metrics: Metrics | None = None, **options: Any) -> httpx.AsyncClient:
    """Return a client, at 203.0.113.9, of what is framed."""
    settings = (
        Settings(api_key="key-of-a-test") if "key" in options.pop("wants", "") else Settings()
    )
    metrics = metrics or Metrics()
    frame = Frame(
        app,
        keys=Keys(read(settings)),
        origins=Origins(settings),
        metrics=metrics,
        holdings=Holdings(1_000_000, metrics),
        max_body_bytes=1_000,
        routes={"/score": "score"},
        shapes={},
        **options,
    )
    transport = httpx.ASGITransport(frame, client=(PEER, 4321))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_a_defect_is_logged_by_its_place_without_what_it_quotes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller gets an id that the log has, too."""
    metrics = Metrics()
    with caplog.at_level(logging.DEBUG):
        async with framed(failing, metrics) as http:
            answer = await http.post("/score", content=CANARY)

    counted = {"model": "", "route": "score", "outcome": "internal_error"}
    assert metrics.registry.get_sample_value("assay_requests_total", counted) == 1
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert f"request {answer.json()['request_id']} failed" in caplog.text
    assert "raise KeyError(body) from error" in caplog.text
    assert CANARY not in caplog.text
    assert CANARY not in answer.text


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [(KeyError(CANARY), "internal_error", 500), (ClientDisconnect(), "client_gone", 499)],
)
async def test_what_a_route_of_fastapi_raises_is_answered_as_any(
    caplog: pytest.LogCaptureFixture, error: Exception, outcome: str, status: int
) -> None:
    """Once, in our words, counted; nothing of it reaches whoever runs the application."""
    app = FastAPI()
    problems.install(app)

    @app.post("/score")
    async def score() -> None:
        raise error

    metrics = Metrics()
    with caplog.at_level(logging.DEBUG):
        async with framed(app, metrics) as http:
            answer = await http.post("/score")

    counted = {"model": "", "route": "score", "outcome": outcome}
    assert metrics.registry.get_sample_value("assay_requests_total", counted) == 1
    assert answer.status_code == status
    assert (f'"code":"{outcome}"' in answer.text) == (status == 500)
    assert ("failed:" in caplog.text) == (status == 500)
    assert CANARY not in caplog.text


async def test_a_line_says_whose_key_it_was_and_from_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the key's name, never by itself; where there is none, only from where."""
    with caplog.at_level(logging.INFO):
        async with framed(answering, wants="key") as http:
            await http.post("/score", headers={"X-Api-Key": "key-of-a-test"})
            await http.post("/score")

    known, unknown = lines(caplog)
    assert f" by=api-key-1 peer={PEER} id=" in known.getMessage()
    assert f" ms peer={PEER} id=" in unknown.getMessage()
    assert known.__dict__["by"] == "api-key-1"
    assert "key-of-a-test" not in caplog.text


async def test_a_long_path_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It may have 64 KiB, and each of them escaped."""
    with caplog.at_level(logging.INFO):
        async with framed(answering) as http:
            await http.get(f"/{'n' * 50_000}")

    (line,) = lines(caplog)
    assert len(line.getMessage()) < 500
    assert len(line.__dict__["route"]) == 256


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 200), (0.5, range(50, 150))])
async def test_only_a_share_of_what_went_well_is_logged_where_that_is_set(
    caplog: pytest.LogCaptureFixture, share: float, expected: Any
) -> None:
    """What didn't always is."""
    random.seed(7)
    with caplog.at_level(logging.INFO):
        async with framed(answering, log_sample=share) as http:
            for _ in range(200):
                await http.post("/score")
            await http.post("/bad")

    *well, bad = [line.getMessage() for line in lines(caplog)]
    assert len(well) in (expected if isinstance(expected, range) else [expected])
    assert "POST /bad 400" in bad


class Slow(Strangers):
    """Holds back whoever has no good key for as long as a test lasts."""

    def __init__(self) -> None:
        super().__init__(1)
        self.came = asyncio.Event()

    def refused(self, peer: str) -> float:
        """Tell that somebody came."""
        assert peer == PEER
        self.came.set()
        return WAIT_S


async def test_only_who_has_no_good_key_is_held_back() -> None:
    """From the same address, too: one proxy may stand before all."""
    strangers = Slow()
    async with framed(answering, wants="key", strangers=strangers) as http:
        refused = asyncio.create_task(http.post("/score", headers={"X-Api-Key": "wrong"}))
        await strangers.came.wait()
        answered = await http.post("/score", headers={"X-Api-Key": "key-of-a-test"})
        healthy = await http.get("/health", headers={"X-Api-Key": "wrong"})

        assert (answered.status_code, healthy.status_code) == (200, 200)
        assert not refused.done()
        refused.cancel()


async def test_a_host_or_origin_that_comes_twice_is_both() -> None:
    """Neither is left out: what may be for one host or page isn't for two."""
    async with framed(answering) as client:
        hosts = [(b"host", b"evil.com"), (b"host", b"localhost")]
        own = (b"origin", b"http://localhost")
        origins = [(b"host", b"localhost"), (b"origin", b"http://evil.com"), own]
        answers = [
            await client.get("http://127.0.0.1/score", headers=headers)
            for headers in (hosts, origins, [origins[0], own])
        ]

    assert [one.status_code for one in answers] == [403, 403, 200]
