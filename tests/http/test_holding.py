"""Who comes while models load, or a worker is started again, waits for an answer and gets it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.http import processes
from tests.http.processes import COMMAND, START_S, WAIT_S, environment, handed, serving, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psutil


SETTINGS: dict[str, Any] = {"compile": "off", "prefix_cache_mb": 0, "batch_tokens": 64}
LONG_S = 10 * WAIT_S
FEW: list[dict[str, Any]] = [{"input_ids": [10 + number] * 49 + [7]} for number in range(5)]
ASKED: dict[str, dict[str, Any] | None] = {
    "/score": {"inputs": [PAIR]},
    "/best-of-n": {"prompt": "a", "responses": ["b", "c"]},
    "/classify": {"model": "tiny", "input": ["text"]},
    "/rerank": {"query": "a", "texts": ["b", "c"]},
    "/get_reward": {"query": ["text"]},
    "/tokenize": {"inputs": [PAIR]},
    "/info": None,
    "/v1/models": None,
}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Callers that wait for their answers."""
    with ThreadPoolExecutor(16) as executor:
        yield executor


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def started(
    folder: Path, model: Path, port: int, **settings: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server in a process group of its own, and don't wait for it."""
    folder.mkdir(exist_ok=True)
    settings = {"device": "cpu", "threads": 1, **SETTINGS, **settings}
    with (folder / "server.log").open("ab") as sink:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", str(port), str(model)],
            cwd=folder,
            env=environment(**settings) | {"XDG_CACHE_HOME": str(folder / "cache")},
            stdout=sink,
            stderr=sink,
            process_group=0,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


def ask(port: int, path: str, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{port}{path}"
    method = "GET" if body is None else "POST"
    return httpx.request(method, url, json=body, headers=headers, timeout=START_S)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_who_comes_while_a_server_starts_is_answered_on_every_contract(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """From the first connection on, before anything is known of what is served."""
    port = free_port()
    with started(tmp_path / "run", tiny, port, hold_while_loading_s=START_S) as process:
        until("it listens", lambda: listens(port), START_S)
        answers = {path: pool.submit(ask, port, path, body) for path, body in ASKED.items()}
        live = ask(port, "/health/ready")
        late = ask(port, "/score", {"inputs": [PAIR], "deadline_ms": 1})
        found = {path: one.result().status_code for path, one in answers.items()}
        process.terminate()
        assert process.wait(WAIT_S) == 0

    assert found == dict.fromkeys(ASKED, 200)
    assert live.status_code == 503
    assert code(late) == (504, "deadline_exceeded")


def test_who_is_held_is_told_when_the_server_stops(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """At once, so that another server may answer: a model that loads is waited for no more."""
    port = free_port()
    with started(tmp_path / "run", tiny, port, hold_while_loading_s=LONG_S) as process:
        until("it listens", lambda: listens(port), START_S)
        early = pool.submit(ask, port, "/score", {"inputs": [PAIR]})
        worker = until("it loads", lambda: workers(process.pid), START_S)[0]
        worker.suspend()
        one = until("it is held", lambda: admitted(port))
        later = pool.submit(ask, port, "/score", {"inputs": [PAIR]})
        until("both are held", lambda: admitted(port) == 2 * one)
        process.terminate()

        assert process.wait(WAIT_S) == 0
    for answer in (early.result(), later.result()):
        assert code(answer) == (503, "draining")
        assert answer.headers["Retry-After"] == "1"


def admitted(port: int) -> float:
    """Return the tokens of what waits or is held."""
    text = ask(port, "/metrics").text
    return float(re.findall(r"^assay_admitted_tokens (\S+)", text, re.MULTILINE)[0])


def workers(pid: int) -> list[psutil.Process]:
    return processes.workers(pid)


def test_a_restart_of_the_worker_is_waited_for(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Who leaves meanwhile leaves the room, too."""
    settings = {"hold_while_loading_s": LONG_S, **SETTINGS}
    with serving(tmp_path / "run", tiny, **settings) as server:
        good = server.score(inputs=[PAIR]).json()["data"]
        server.worker.kill()
        until("it is away", lambda: server.http.get("/health/ready").is_error)
        held = pool.submit(server.score, inputs=[PAIR])
        with pytest.raises(httpx.ReadTimeout):
            server.http.post("/score", json={"inputs": FEW}, timeout=0.2)

        assert held.result().json()["data"] == good
        until("nothing is held", lambda: server.metric("assay_admitted_tokens") == 0)


def test_a_server_that_holds_nobody_says_when_it_will_be_ready(tiny: Path, tmp_path: Path) -> None:
    """By how long the last start took; the first is a guess by the size of the weights."""
    told = []
    for _ in range(2):
        port = free_port()
        with started(tmp_path / "run", tiny, port, hold_while_loading_s=0) as process:
            until("it listens", lambda port=port: listens(port), START_S)
            begin = time.monotonic()
            refused = ask(port, "/score", {"inputs": [PAIR]})
            assert code(refused) == (503, "not_ready")
            ready = lambda port=port: ask(port, "/health/ready").is_success  # noqa: E731
            until("it is ready", ready, START_S)
            told.append((int(refused.headers["Retry-After"]), time.monotonic() - begin))
            until("it is remembered", (tmp_path / "run/cache/assay/starts.json").exists)
            process.terminate()
            process.wait(WAIT_S)

    assert told[0][0] >= 3
    assert told[1][0] <= 4 * told[1][1] + 2
    assert 4 * told[1][0] + 2 >= told[1][1]


def test_a_signal_to_the_whole_group_lets_what_was_accepted_be_answered(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """As systemd and a terminal signal it: the worker stays until the front says so."""
    port = free_port()
    with started(tmp_path / "run", tiny, port, drain_timeout_s=LONG_S) as process:
        until(
            "it is ready", lambda: listens(port) and ask(port, "/health/ready").is_success, START_S
        )
        (worker,) = workers(process.pid)
        worker.suspend()
        waits = pool.submit(ask, port, "/score", {"inputs": FEW})
        until("it waits", lambda: admitted(port))
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(worker.pid, one)
        os.killpg(process.pid, signal.SIGTERM)
        until("it drains", lambda: not listens(port))
        worker.resume()

        assert waits.result().status_code == 200
        assert process.wait(WAIT_S) == 0
        assert not worker.is_running()
    assert "restarting" not in (tmp_path / "run/server.log").read_text()


def test_a_signal_to_the_whole_group_does_not_end_a_worker_that_starts(
    tiny: Path, tmp_path: Path
) -> None:
    """Nor what comes before it can say so, while it imports; a front that is killed ends it."""
    port = free_port()
    with started(tmp_path / "run", tiny, port) as process:
        (worker,) = until("it starts", lambda: workers(process.pid), START_S)
        os.kill(worker.pid, signal.SIGTERM)
        until("it is ready", lambda: ask(port, "/health/ready").is_success, START_S)
        assert workers(process.pid) == [worker]

        process.kill()
        until("it is gone", lambda: not worker.is_running())


def test_a_worker_that_dies_while_nobody_needs_it_is_not_started_again(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """While draining: one that accepted requests wait for is."""
    settings = {"drain_timeout_s": LONG_S, **SETTINGS}
    with serving(tmp_path / "run", tiny, **settings) as server:
        with server.held() as worker:
            waits = pool.submit(server.score, inputs=FEW)
            until("it waits", lambda: server.metric("assay_queue_items"))
            server.process.terminate()
            until("it drains", lambda: not listens(server.http.base_url.port or 0))
            worker.kill()
        assert waits.result().status_code == 200
        assert server.process.wait(WAIT_S) == 0
        assert server.log.read_text().count("restarting it") == 1


def test_sockets_that_are_handed_over_are_listened_on(tiny: Path, tmp_path: Path) -> None:
    """As systemd does: they stay open over a restart, and nobody is refused meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        (tmp_path / "run").mkdir()
        variables = environment(device="cpu", threads=1, **SETTINGS)
        waiting = ThreadPoolExecutor().submit(ask, port, "/score", {"inputs": [PAIR]})
        process = subprocess.Popen(
            handed(given.fileno(), tiny),
            cwd=tmp_path / "run",
            env=variables,
            pass_fds=(given.fileno(),),
        )
        assert waiting.result().status_code == 200
        process.terminate()
        assert process.wait(WAIT_S) == 0
