"""Real servers in processes of their own: started, asked, held, stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests import forks

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_S = 150.0  # a bound, not an expectation: the machine may be busy
WAIT_S = 60.0
COMMAND = [sys.executable, "-m", "assay"]
# Hands a socket over as systemd does: it is descriptor 3, and meant for this very process.
_HAND = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
    "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
_ADDRESS = re.compile(r"on (https?://\S+)")


def environment(**settings: Any) -> dict[str, str]:
    """Return this process's environment with these ASSAY_* variables and no others."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ASSAY_")}
    return clean | {f"ASSAY_{name.upper()}": str(value) for name, value in settings.items()}


def until(what: str, claim: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Return the claim's value as soon as it is true; fail when that takes too long."""
    end = time.monotonic() + seconds
    while not (value := claim()):
        assert time.monotonic() < end, f"gave up waiting until {what}"
        time.sleep(0.01)
    return value


def family(pid: int) -> list[psutil.Process]:
    """Return all processes of a server but the front itself, which they share a folder with."""
    front = psutil.Process(pid)
    found = front.children(recursive=True)
    for server in forks.pids():
        for one in psutil.Process(server).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if one.cwd() == front.cwd():
                    found.append(one)
    return found


def called(name: str, pid: int) -> list[psutil.Process]:
    """Return those of a server's processes that have a name, and haven't just ended."""
    found = []
    for one in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.name() == name and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def workers(pid: int) -> list[psutil.Process]:
    """Return a server's device processes."""
    return called("assay-worker", pid)


@dataclass
class Server:
    """A running server and a client of it."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    http: httpx.Client

    @property
    def worker(self) -> psutil.Process:
        """The device process."""
        (worker,) = workers(self.process.pid)
        return worker

    @contextlib.contextmanager
    def held(self) -> Iterator[psutil.Process]:
        """Freeze the device process, so that what is sent meanwhile surely waits."""
        worker = self.worker
        worker.suspend()
        try:
            yield worker
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()

    def score(self, **body: Any) -> httpx.Response:
        """Post to `/score`."""
        return self.http.post("/score", json=body)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum over the samples of a metric that have these labels."""
        text = self.http.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def terminate(self) -> int:
        """Ask the server to stop and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


def handed(descriptor: int, *models: str | Path) -> list[str]:
    """Return the command of a server on a socket that is open; to be passed on."""
    return [sys.executable, "-c", _HAND, str(descriptor), *COMMAND[1:], "serve", *map(str, models)]


@contextlib.contextmanager
def serving(
    folder: Path,
    *models: str | Path,
    key: str | None = None,
    verify: ssl.SSLContext | bool = True,
    port: int = 0,
    shares_forks: bool = True,
    **settings: Any,
) -> Iterator[Server]:
    """Run `assay serve` in an empty folder until the block ends; it must then exit with code 0.

    Its processes are forked from what other servers use, too, or from fork servers of its own.
    """
    folder.mkdir()
    command = forks.FRONT if shares_forks else COMMAND
    log = folder / "server.log"
    settings = {"device": "cpu", "threads": 1, **settings}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "serve", "--port", str(port), *map(str, models)],
            cwd=folder,
            env=environment(**settings) | (forks.environment() if shares_forks else {}),
            stdout=sink,
            stderr=sink,
        )
    try:
        url = _announced(process, log)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=url, headers=headers, timeout=WAIT_S, verify=verify) as http:
            server = Server(url, process, log, http)
            until("the server is ready", lambda: http.get("/health/ready").is_success)
            yield server
        assert server.terminate() == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def run(*arguments: str | Path, cwd: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**settings) | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def _announced(process: subprocess.Popen[bytes], log: Path) -> str:
    def address() -> str | None:
        text = log.read_text()
        assert process.poll() is None, f"the server ended at its start:\n{text}"
        found = _ADDRESS.search(text)
        return found[1] if found else None

    return until("the server says where it answers", address, START_S)
