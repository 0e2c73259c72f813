"""A log that nobody reads: the server answers as ever, counts what is lost, says so, and ends."""

from __future__ import annotations

import re
import socket
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.http.processes import START_S, WAIT_S, environment, handed
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIPE_BYTES = 65_536
MANY = 1_600  # long lines: more than a pipe and the queue before it hold
AT_ONCE = 100
LINE = f"GET /{'n' * 400} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {'i' * 128}\r\n\r\n".encode()


@pytest.fixture
def unread(tiny: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server whose standard error is a pipe that nobody reads, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            handed(listener.fileno(), tiny),
            cwd=tmp_path,
            env=environment(device="cpu", threads=1, compile="off"),
            pass_fds=(listener.fileno(),),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield process, url
    finally:
        process.kill()
        process.communicate()


def asked(url: str, times: int) -> int:
    """Ask so often over one connection for what there isn't; return how often that was answered."""
    address = httpx.URL(url)
    answered = 0
    with (
        socket.create_connection((address.host, address.port), WAIT_S) as connection,
        connection.makefile("rb") as answers,
    ):
        for _ in range(times // AT_ONCE):
            connection.sendall(LINE * AT_ONCE)
            before = answered
            while answered < before + AT_ONCE:
                answered += b"HTTP/1.1 404" in answers.readline()  # behind the last body
    return answered


def test_a_server_whose_log_nobody_reads_answers_and_ends(
    unread: tuple[subprocess.Popen[bytes], str],
) -> None:
    """Far beyond what a pipe holds: what is lost is counted, and at its end nobody waits."""
    process, url = unread
    assert httpx.post(f"{url}/score", json=PAIR, timeout=START_S).is_success

    assert asked(url, MANY) == MANY
    assert httpx.post(f"{url}/score", json=PAIR, timeout=WAIT_S).is_success

    text = httpx.get(f"{url}/metrics", timeout=WAIT_S).text
    dropped = float(re.search(r"^assay_log_lines_dropped_total (\S+)$", text, re.MULTILINE)[1])
    assert 0 < dropped < MANY
    process.terminate()
    assert process.wait(WAIT_S) == 0
    said = process.stderr.read()
    assert len(said) >= PIPE_BYTES // 2
    assert b"peer=127.0.0.1 id=iii" in said
