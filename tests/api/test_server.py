"""When garbage is looked for: each full look holds up the loop, by all that is in memory."""

import gc
from types import SimpleNamespace

import pytest
import uvicorn
from prometheus_client import generate_latest

from assay.api.server import Server
from assay.telemetry import memory
from assay.telemetry.metrics import Metrics


async def _nobody(scope, receive, send):
    """Answer nothing."""


@pytest.fixture
def server():
    """A server that hasn't begun."""
    return Server(uvicorn.Config(_nobody, log_config=None), None, None, None)


async def test_a_defect_on_sighup_changes_nothing_and_is_told(caplog):
    """Whatever it is: the server goes on, the log has it, and the metrics count it."""
    metrics = Metrics()

    def reread():
        raise ZeroDivisionError

    server = Server(
        uvicorn.Config(_nobody, log_config=None), SimpleNamespace(metrics=metrics), None, reread
    )
    await server._change()

    assert "ZeroDivisionError" in caplog.text
    assert "the settings are not taken, by a defect" in caplog.text
    counted = 'assay_changes_total{outcome="refused",source="signal"} 1.0'
    assert counted in generate_latest(metrics.registry).decode()


@pytest.fixture
def looks(monkeypatch):
    """How often everything was looked at; it is long due."""
    found = []
    monkeypatch.setattr(gc, "get_count", lambda: (0, 0, 10_000))
    monkeypatch.setattr(gc, "collect", lambda: found.append(1))
    return found


async def test_everything_is_looked_at_once_nobody_has_been_there_for_a_while(server, looks):
    """A request's own are freed by then: to look at millions of them takes a second."""
    server.server_state.tasks.add("a request")
    for _ in range(100):
        await server.on_tick(1)
    assert not looks

    server.server_state.tasks.clear()
    for _ in range(49):
        await server.on_tick(1)
    assert not looks

    await server.on_tick(1)
    assert looks == [1]


async def test_an_idle_server_that_was_not_asked_looks_for_nothing(server, looks, monkeypatch):
    """Five million new objects make it worth it."""
    monkeypatch.setattr(gc, "get_count", lambda: (1_000, 4, 499))

    for _ in range(100):
        await server.on_tick(1)

    assert not looks


async def test_a_server_that_has_grown_looks_once(server, looks, monkeypatch):
    """A few objects may hold much: the answers of callers who were cut off."""
    monkeypatch.setattr(gc, "get_count", lambda: (1_000, 4, 0))
    kept = bytearray(memory.own_bytes())
    kept[::4096] = b"x" * len(kept[::4096])

    for _ in range(100):
        await server.on_tick(1)

    assert looks == [1]
