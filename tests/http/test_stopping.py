"""A server that is told to stop does, whatever it is at, and tells who it leaves unanswered."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.http import processes
from tests.http.processes import COMMAND, START_S, WAIT_S, environment, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.http.processes import Server

# Five items, one a batch
FEW: list[dict[str, Any]] = [{"input_ids": [10 + number] * 49 + [7]} for number in range(5)]
SETTINGS: dict[str, Any] = {"compile": "off", "batch_tokens": 64}
NEVER_S = 10 * WAIT_S  # a limit that no test waits for


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Callers that wait for their answers."""
    with ThreadPoolExecutor() as executor:
        yield executor


@contextlib.contextmanager
def started(
    folder: Path, *models: str | Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server and don't wait for it; what it says is in the folder's server.log."""
    folder.mkdir()
    settings = {"device": "cpu", "threads": 1, "compile": "off"}
    with (folder / "server.log").open("wb") as sink:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", *map(str, models)],
            cwd=folder,
            env=environment(**settings) | variables,
            stdout=sink,
            stderr=sink,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def handles(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether a process has a handler for a signal."""
    (line,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(line, 16) >> (number - 1) & 1)


@contextlib.contextmanager
def silent() -> Iterator[tuple[str, threading.Event]]:
    """Serve nothing: take connections and never answer; the event says that one came."""
    came = threading.Event()
    held = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])
                    came.set()

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", came
        listener.shutdown(socket.SHUT_RDWR)
    for one in held:
        one.close()


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return processes.workers(process.pid)


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def at_worker(server: Server) -> bool:
    return bool(server.metric("assay_queue_items")) and not server.process.poll()


def test_who_is_left_when_the_drain_is_over_is_told_so(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """In the shape of the path, without a traceback; the worker that hangs is killed."""
    foreign = {"model": "tiny", "input": ["text"]}
    with serving(tmp_path / "run", tiny, drain_timeout_s=0.5, **SETTINGS) as server:
        with server.held() as worker:
            native = pool.submit(server.score, inputs=FEW)
            until("it waits", lambda: at_worker(server))
            other = pool.submit(server.http.post, "/classify", json=foreign)
            until("both wait", lambda: server.metric("assay_queue_items") == len(FEW))
            server.process.terminate()

            assert server.process.wait(WAIT_S) == 0
            assert not worker.is_running()
        log = server.log.read_text()

    assert told(native.result()) == (503, "draining")
    assert "Retry-After" in native.result().headers
    assert other.result().status_code == 503
    assert "stopping" in other.result().text
    assert "Traceback" not in log


def test_a_second_signal_ends_a_server_whose_worker_hangs(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Long before the drain is over; who waits is told, and nothing is left behind."""
    with serving(tmp_path / "run", tiny, drain_timeout_s=NEVER_S, **SETTINGS) as server:
        with server.held() as worker:
            waits = pool.submit(server.score, inputs=FEW)
            until("it waits", lambda: at_worker(server))
            server.process.terminate()
            until("it drains", lambda: not accepts(server))
            assert server.process.poll() is None
            server.process.terminate()

            assert server.process.wait(WAIT_S) == 0
            assert not worker.is_running()
        assert told(waits.result()) == (503, "draining")
        assert "Traceback" not in server.log.read_text()


def accepts(server: Server) -> bool:
    try:
        socket.create_connection((server.http.base_url.host, server.http.base_url.port)).close()
    except OSError:
        return False
    return True


def test_a_server_may_be_stopped_while_it_loads(tiny: Path, tmp_path: Path) -> None:
    """Nothing was accepted: the exit code is 0 and the worker is gone, even one that hangs."""
    with started(tmp_path / "run", tiny) as process:
        (worker,) = until("it has a worker", lambda: children(process), START_S)
        worker.suspend()
        until("it handles signals", lambda: handles(process, signal.SIGTERM), START_S)
        process.terminate()

        assert process.wait(WAIT_S) == 0
        assert not worker.is_running()
    assert "told to stop" in (tmp_path / "run" / "server.log").read_text()


def test_a_change_that_a_stop_cuts_short_is_not_recorded_as_done(
    tiny: Path, bare: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Its caller is told that the server stops, and its worker is gone."""
    settings = {**SETTINGS, "admin_key": "chief", "key": "chief"}
    with serving(tmp_path / "run", tiny, drain_timeout_s=0, **settings) as server:
        old = server.worker
        loads = pool.submit(server.http.post, "/admin/load", json={"model": str(bare)})
        until("it is loading", lambda: len(children(server.process)) == 2)
        (new,) = (one for one in children(server.process) if one != old)
        new.suspend()
        server.process.terminate()

        assert server.process.wait(WAIT_S) == 0
        assert not new.is_running()
        assert told(loads.result()) == (503, "draining")
        log = server.log.read_text()
        assert f"/admin/load '{bare}': unfinished" in log
        assert "ok by=" not in log


def test_a_server_may_be_stopped_while_a_hub_is_silent(tmp_path: Path) -> None:
    """Nobody waits for the thread that fetches."""
    with silent() as (hub, came):
        variables = {
            "HF_ENDPOINT": hub,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_ETAG_TIMEOUT": f"{NEVER_S:.0f}",
            "HF_HUB_DOWNLOAD_TIMEOUT": f"{NEVER_S:.0f}",
            "HF_HUB_OFFLINE": "0",
        }
        with started(tmp_path / "run", "some/model", **variables) as process:
            assert came.wait(START_S)
            process.terminate()

            assert process.wait(WAIT_S) == 0


def test_a_server_may_be_stopped_while_its_workers_die_one_after_another(
    tiny: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """What can't be answered within the drain is told so."""
    with serving(tmp_path / "run", tiny, drain_timeout_s=1, **SETTINGS) as server:
        stop = threading.Event()

        def kill() -> None:
            while not stop.wait(0.05):
                with contextlib.suppress(psutil.NoSuchProcess):
                    for one in children(server.process):
                        one.kill()

        with server.held():
            waits = pool.submit(server.score, inputs=FEW)
            until("it waits", lambda: at_worker(server))
            killing = pool.submit(kill)
            until("the first is gone", lambda: server.http.get("/health/ready").is_error)
        server.process.terminate()

        assert server.process.wait(WAIT_S) == 0
        stop.set()
        killing.result()
        assert told(waits.result()) == (503, "draining")
