"""A restart under the clients that people have: none of them loses a request."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cohere
import httpx
import openai

from tests.guides.test_openai import TURNS
from tests.http.processes import START_S, WAIT_S, environment, handed, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRIES = 5  # OpenRLHF before 0.9.1: a second apart, whatever goes wrong
SETTINGS: dict[str, Any] = {"device": "cpu", "threads": 1, "compile": "off"}


def openrlhf(url: str) -> None:
    """Ask as OpenRLHF 0.6.4's `request_api_wrapper` does."""
    for _ in range(TRIES):
        try:
            body = {"query": ["a text"], "prompts": ["a"], "labels": [""]}
            answer = httpx.post(f"{url}/get_reward", json=body, timeout=180)
            answer.raise_for_status()
            assert len(answer.json()["rewards"]) == 1
        except httpx.HTTPError:
            time.sleep(1)
        else:
            return
    raise RuntimeError("no reward")


def start(listener: socket.socket, folder: Path, model: Path) -> subprocess.Popen[bytes]:
    """Start a server on a socket that is open, as a socket unit of systemd does."""
    return subprocess.Popen(
        handed(listener.fileno(), model),
        cwd=folder,
        env=environment(**SETTINGS),
        pass_fds=(listener.fileno(),),
    )


def test_a_restart_loses_none(families: dict[str, Path], tmp_path: Path) -> None:
    """Under openai's and cohere's clients with their own retries, and OpenRLHF's five tries."""
    outcomes: Counter[str] = Counter()
    is_over = threading.Event()

    def keep_asking(name: str, ask: Callable[[], object]) -> None:
        while not is_over.is_set():
            try:
                ask()
            except Exception as error:  # noqa: BLE001  whatever a client ends with is a loss
                outcomes[f"{name}: {error!r}"] += 1
            else:
                outcomes[name] += 1

    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
        httpx.Client(timeout=START_S) as plain,
        contextlib.ExitStack() as open_clients,
    ):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        rival = open_clients.enter_context(
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=START_S)
        )
        reranker = cohere.ClientV2("none", base_url=url, httpx_client=plain)
        clients: dict[str, Callable[[], object]] = {
            "openai": lambda: rival.chat.completions.create(model="tiny", messages=TURNS),  # type: ignore[arg-type]
            "cohere": lambda: reranker.rerank(model="tiny", query="a", documents=["b", "c"]),
            "openrlhf": lambda: openrlhf(url),
        }
        process = start(listener, tmp_path, families["tiny"])
        try:
            until("it is ready", lambda: is_ready(url), START_S)
            with (
                ThreadPoolExecutor(len(clients)) as pool,
                contextlib.ExitStack() as at_end,
            ):
                at_end.callback(is_over.set)  # else the pool would wait for them for ever
                for name, ask in clients.items():
                    pool.submit(keep_asking, name, ask)
                until("all have asked", lambda: len(outcomes) == len(clients))
                process.terminate()
                assert process.wait(WAIT_S) == 0
                process = start(listener, tmp_path, families["tiny"])
                before = dict(outcomes)
                until("all are answered", lambda: answered(outcomes, before), START_S)
        finally:
            process.terminate()
            process.wait(WAIT_S)

    assert outcomes.keys() == clients.keys()


def is_ready(url: str) -> bool:
    return httpx.get(f"{url}/health/ready", timeout=START_S).is_success


def answered(outcomes: Counter[str], before: dict[str, int]) -> bool:
    return all(outcomes[name] > count + 1 for name, count in before.items())
