"""A real server that is killed while it is asked, and another one that takes its place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest

from assay import AsyncClient
from assay.cards.catalogue import embedded
from tests.http.processes import COMMAND, START_S, environment, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = embedded() / "starter" / "member-1"
ITEMS = [{"input_ids": [10 + number % 900, 7, 30 + number // 900, 5]} for number in range(600)]
CHUNK_BYTES = 600  # about 15 items


@pytest.fixture
def port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        found: int = one.getsockname()[1]
        return found


@contextlib.contextmanager
def started(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server; don't wait for it."""
    folder.mkdir()
    with (folder / "server.log").open("wb") as sink:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", str(port), str(MODEL)],
            cwd=folder,
            env=environment(device="cpu", threads=1, compile="off"),
            stdout=sink,
            stderr=sink,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(START_S)


def is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/ready").is_success
    return False


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    tmp_path: Path, port: int
) -> None:
    """All results arrive, each once, in order, and as a server that lives gives them."""
    url = f"http://127.0.0.1:{port}"
    async with AsyncClient(url, chunk_bytes=CHUNK_BYTES) as client:
        with started(tmp_path / "first", port) as first:
            await asyncio.to_thread(until, "it is ready", lambda: is_ready(url), START_S)
            stream = client.stream(ITEMS)
            entries = [await anext(stream)]
            first.kill()
            first.wait()
        with started(tmp_path / "second", port):
            entries += [entry async for entry in stream]
            quiet = await client.score(ITEMS)

    assert [entry.index for entry in entries] == list(range(len(ITEMS)))
    assert not [entry for entry in entries if entry.error]
    assert [entry.score for entry in entries] == [entry.score for entry in quiet]
