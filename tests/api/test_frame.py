"""The frame around an application that fails in a way nobody foresaw."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httpx

from assay.api.frame import Frame
from assay.api.holdings import Holdings
from assay.api.keys import Keys, read
from assay.api.origins import Origins
from assay.settings import Settings
from assay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import pytest
    from starlette.types import Receive, Scope, Send

CANARY = "zqxcanaryqzx"  # stands for a prompt


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise what quotes the body, because of what does so, too."""
    body = (await receive())["body"].decode()
    try:
        int(body)
    except ValueError as error:
        raise KeyError(body) from error


async def test_a_defect_is_logged_by_its_place_without_what_it_quotes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller gets an id that the log has, too."""
    metrics = Metrics()
    framed = Frame(
        failing,
        keys=Keys(read(Settings())),
        origins=Origins(Settings()),
        metrics=metrics,
        holdings=Holdings(1_000_000, metrics),
        max_body_bytes=1_000,
        routes={"/score": "score"},
        shapes={},
    )
    transport = httpx.ASGITransport(framed)

    with caplog.at_level(logging.DEBUG):
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.post("/score", content=CANARY)

    counted = {"model": "", "route": "score", "outcome": "internal_error"}
    assert metrics.registry.get_sample_value("assay_requests_total", counted) == 1
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert f"request {answer.json()['request_id']} failed" in caplog.text
    assert "raise KeyError(body) from error" in caplog.text
    assert CANARY not in caplog.text
    assert CANARY not in answer.text
