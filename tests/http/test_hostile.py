"""Checkpoints that want to stop the house: a template that takes all there is, files that hang."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.http import checkpoints
from tests.http.processes import called, family, run, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.http.processes import Server

DOUBLING = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if messages[0].content == 'bad' %}{% set n = namespace(t='ab') %}"
    "{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t | length }}{% endif %}"
)
GOOD = {"prompt": "fine", "response": "So."}
BAD = {"prompt": "bad", "response": "So."}
KEY = "the-key-of-an-operator"
QUICK = {"compile": "off", "batch_tokens": 256}


def load(server: Server, folder: Path) -> httpx.Response:
    """Load one more model."""
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": str(folder)}
    return server.http.post("/admin/load", json=body, headers=headers, timeout=120)


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a sound model and of one whose template doubles a text forty times."""
    folder = tmp_path_factory.mktemp("hostile")
    hostile = checkpoints.copy(tiny, folder / "hostile")
    (hostile / "chat_template.jinja").write_text(DOUBLING)
    with serving(folder / "run", tiny, hostile, **QUICK) as server:
        yield server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that send requests."""
    with ThreadPoolExecutor() as pool:
        yield pool


def renderers(server: Server) -> list[psutil.Process]:
    """Return the processes that render."""
    return called("assay-renderer", server.process.pid)


def test_an_item_that_takes_everything_is_refused_and_the_house_goes_on(
    server: Server, pool: ThreadPoolExecutor
) -> None:
    """The other items of its request, and the other model all the while."""
    items = {"model": "hostile", "inputs": [GOOD, BAD, GOOD], "on_error": "item"}
    asking = pool.submit(server.http.post, "/score", json=items)
    others = []
    while not asking.done():
        others.append(server.http.post("/score", json={"inputs": [GOOD]}).status_code)

    first, culprit, last = asking.result().json()["data"]
    assert set(others) <= {200}
    assert first["score"] == last["score"] is not None
    assert culprit["error"]["code"] == "template_refused"
    assert until("it is ready", lambda: server.http.get("/health/ready").status_code == 200)


def test_a_round_that_is_overdue_is_said_by_readiness(
    server: Server, pool: ThreadPoolExecutor
) -> None:
    """Until it is over; whoever waits for it is answered then."""
    server.http.post("/score", json={"inputs": [GOOD]})
    frozen = renderers(server)
    for one in frozen:
        one.suspend()
    asking = pool.submit(server.http.post, "/score", json={"inputs": [GOOD]})
    overdue = until(
        "readiness fails",
        lambda: (answer := server.http.get("/health/ready")).status_code == 503 and answer,
    )
    alive = server.http.get("/health/live").status_code
    for one in frozen:
        one.resume()

    assert overdue.json()["reasons"] == ["rendering for 'tiny' is overdue"]
    assert alive == 200
    assert asking.result().status_code == 200
    until("it is ready again", lambda: server.http.get("/health/ready").status_code == 200)


def test_the_end_of_a_process_that_renders_costs_nobody_an_answer(server: Server) -> None:
    """It is started again, and counted."""
    right = server.http.post("/score", json={"inputs": [GOOD]}).json()["data"][0]["score"]
    before = server.metric("assay_renderer_restarts_total", model="tiny")
    for one in renderers(server):
        one.kill()

    again = server.http.post("/score", json={"inputs": [GOOD]}).json()["data"][0]["score"]

    assert again == right
    assert server.metric("assay_renderer_restarts_total", model="tiny") == before + 1


def frozen_while_it_reads(server: Server) -> psutil.Process:
    """Freeze the process that reads what is being loaded, as a file that never ends would."""

    def second() -> list[psutil.Process]:
        loaders = called("assay-loader", server.process.pid)
        return sorted(loaders, key=psutil.Process.create_time)[1:]

    (reading,) = until("it is loading", second)
    reading.suspend()
    return reading


def test_a_load_that_never_ends_is_refused_by_the_clock(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """And holds up what comes after it no longer; what is served still is."""
    other = checkpoints.copy(tiny, tmp_path / "other")
    with serving(tmp_path / "run", tiny, admin_key=KEY, load_timeout_s=15, **QUICK) as server:
        loading = pool.submit(load, server, other)
        frozen_while_it_reads(server)
        refused = loading.result()
        scored = server.http.post("/score", json={"inputs": [GOOD]})

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["retryable"]) == (
        409,
        "change_refused",
        False,
    )
    assert "takes longer than load_timeout_s, 15 seconds, to read" in error["message"]
    assert scored.status_code == 200


def test_a_load_that_never_ends_holds_up_no_stop(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """One SIGTERM is enough: it is given up at once, and nothing is left running."""
    other = checkpoints.copy(tiny, tmp_path / "other")
    with serving(tmp_path / "run", tiny, admin_key=KEY, drain_timeout_s=600, **QUICK) as server:
        loading = pool.submit(load, server, other)
        frozen_while_it_reads(server)
        left = family(server.process.pid)
        assert server.terminate() == 0
        given_up = loading.result()

    assert (given_up.status_code, given_up.json()["error"]["code"]) == (503, "draining")

    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive


def test_a_template_that_loops_over_any_item_is_refused_at_the_load(
    tiny: Path, tmp_path: Path
) -> None:
    """Not served with every item refused; `assay inspect` says so, too."""
    endless = checkpoints.copy(tiny, tmp_path / "endless")
    loops = 3 * "{% for i in range(9999) %}" + 3 * "{% endfor %}"
    (endless / "chat_template.jinja").write_text(DOUBLING + loops)

    said = run("inspect", endless, cwd=tmp_path)

    assert said.returncode == 3
    assert "its chat template takes too long for a sample" in said.stderr
