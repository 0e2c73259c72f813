"""A device that served comes back as what it was, whatever lies on disk meanwhile."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.http import checkpoints, processes
from tests.http.processes import WAIT_S, serving, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psutil

    from tests.http.processes import Server

KEY = "the-admin-key"
SETTINGS: dict[str, Any] = {
    "admin_key": KEY,
    "key": KEY,
    "shares_forks": False,
    "compile": "off",
    "prefix_cache_mb": 0,
    "hold_while_loading_s": 0,
}
LOAD_S = 4 * WAIT_S
# What who has no key is told of a worker: no model, path, file or revision.
COARSE = {"ready": False, "reasons": ["the worker of cpu is restarting"], "models": {}}


@pytest.fixture
def judge(tmp_path: Path, tiny: Path) -> Path:
    """A checkpoint that a test may change."""
    return checkpoints.copy(tiny, tmp_path / "judge")


@pytest.fixture
def other(tmp_path: Path, bare: Path) -> Path:
    """Its next version."""
    return checkpoints.copy(bare, tmp_path / "other")


def change(server: Server, verb: str, model: str | Path | None = None) -> httpx.Response:
    body = {} if model is None else {"model": str(model)}
    return server.http.post(f"/admin/{verb}", json=body, timeout=LOAD_S)


def told(answer: httpx.Response) -> tuple[str, list[float]]:
    """Return the revision of an answer, and its scores."""
    assert answer.status_code == 200, answer.text
    return answer.json()["revision"], [one["score"] for one in answer.json()["data"]]


def workers(server: Server) -> list[psutil.Process]:
    return processes.workers(server.process.pid)


def reasons(server: Server) -> str:
    return " ".join(server.http.get("/health/ready").json()["reasons"])


def is_ready(server: Server) -> bool:
    return server.http.get("/health/ready").is_success


@contextlib.contextmanager
def damaged(folder: Path) -> Iterator[None]:
    """Let a checkpoint's weights be half of them, in another file."""
    weights = folder / checkpoints.WEIGHTS
    kept = weights.rename(folder / "kept")
    weights.write_bytes(kept.read_bytes()[:-1000])
    yield
    kept.rename(weights)


def swap(folder: Path, other: Path) -> None:
    """Put another version into place, by renaming."""
    folder.rename(folder.with_name("before"))
    other.rename(folder)


def test_a_worker_is_not_restarted_with_another_version(
    judge: Path, other: Path, tmp_path: Path
) -> None:
    """It would answer under the old revision: the server says what to do, and a reload does it."""
    with serving(tmp_path / "run", judge, **SETTINGS) as server:
        old = told(server.score(inputs=[PAIR]))
        swap(judge, other)
        server.worker.kill()
        until("it is told", lambda: "no longer of revision" in reasons(server), LOAD_S)
        refused = server.score(inputs=[PAIR])
        for headers in ({}, {"X-Api-Key": "wrong"}):
            hidden = httpx.get(f"{server.url}/health/ready", headers=headers)
            assert (hidden.status_code, hidden.json()) == (503, COARSE)

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert "reload" in reasons(server)
        assert old[0] in reasons(server)
        assert change(server, "reload").status_code == 200
        new = told(server.score(inputs=[PAIR]))
        assert new[0] != old[0]
        assert new[1] != old[1]
        assert is_ready(server)


def test_who_waits_for_a_version_that_is_gone_is_sent_away(
    judge: Path, other: Path, tmp_path: Path
) -> None:
    """Once another is served, that is: until then the old one may come back."""
    with serving(tmp_path / "run", judge, **SETTINGS) as server, ThreadPoolExecutor() as pool:
        with server.held() as worker:
            waits = pool.submit(server.score, inputs=[PAIR])
            until("it is at the worker", lambda: server.metric("assay_admitted_tokens"))
            swap(judge, other)
            worker.kill()
        until("it is told", lambda: "no longer of revision" in reasons(server), LOAD_S)
        assert not waits.done()
        assert change(server, "reload").status_code == 200

        answer = waits.result(WAIT_S)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert "Retry-After" in answer.headers


def test_a_bad_version_on_disk_does_not_end_a_server_whose_worker_dies(
    judge: Path, tmp_path: Path
) -> None:
    """It says what is wrong and serves again, the same bits, once the files are back."""
    with serving(tmp_path / "run", judge, **SETTINGS) as server:
        good = told(server.score(inputs=[PAIR]))
        with damaged(judge):
            assert change(server, "reload").status_code == 409
            server.worker.kill()
            until("it is told", lambda: "damaged or cut short" in reasons(server), LOAD_S)
            assert server.process.poll() is None
        until("it is ready again", lambda: is_ready(server), LOAD_S)

        assert told(server.score(inputs=[PAIR])) == good


def test_other_devices_go_on_while_one_can_not_be_restarted(judge: Path, tmp_path: Path) -> None:
    """They have what is served in memory."""
    with serving(tmp_path / "run", judge, device="cpu,cpu", **SETTINGS) as server:
        good = told(server.score(inputs=[PAIR]))
        with damaged(judge):
            workers(server)[0].kill()
            until("it is told", lambda: "damaged or cut short" in reasons(server), LOAD_S)
            assert told(server.score(inputs=[PAIR])) == good
        until("both are ready", lambda: is_ready(server), LOAD_S)


def test_a_reload_whose_worker_hangs_or_dies_changes_nothing(judge: Path, tmp_path: Path) -> None:
    """It may be tried again, and nothing waits for it for ever."""
    with serving(tmp_path / "run", judge, load_timeout_s=20, **SETTINGS) as server:
        good = told(server.score(inputs=[PAIR]))
        old = server.worker
        with ThreadPoolExecutor() as pool:
            hung = pool.submit(change, server, "reload")
            until("it loads", lambda: len(workers(server)) == 2)
            next(one for one in workers(server) if one != old).suspend()
            failed(hung.result(), "said nothing for 20 s while it loaded")
            died = pool.submit(change, server, "reload")
            until("it loads", lambda: len(workers(server)) == 2)
            next(one for one in workers(server) if one != old).kill()
            failed(died.result(), "gone")

        assert told(server.score(inputs=[PAIR])) == good


def failed(answer: httpx.Response, text: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "change_failed")
    assert error["retryable"]
    assert text in error["message"]
