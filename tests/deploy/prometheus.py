"""A real Prometheus: found on PATH, or the Debian package unpacked where tests keep things."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.http.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FETCH_S = 120.0
PROGRAMS = ("prometheus", "promtool")


def programs(folder: Path) -> dict[str, Path]:
    """Return where Prometheus' programs are; `folder` keeps them if they aren't installed.

    Unpacking a Debian package needs no root, only apt and its mirrors.
    """
    installed = {name: shutil.which(name) for name in PROGRAMS}
    if all(installed.values()):
        return {name: folder / str(path) for name, path in installed.items()}
    unpacked = {name: folder / "usr/bin" / name for name in PROGRAMS}
    if not all(path.exists() for path in unpacked.values()):
        _fetch(folder)
    return unpacked


def _fetch(folder: Path) -> None:
    """Download and unpack the package, with lists of apt's own or, where it has none, new ones."""
    lists = folder / "apt"
    (lists / "lists/partial").mkdir(parents=True, exist_ok=True)
    own = [f"-oDir::State={lists}", f"-oDir::Cache={lists}", "-oAPT::Sandbox::User=root"]
    download = ["apt-get", "-oAPT::Sandbox::User=root", "download", "prometheus"]
    if _run(download, folder):
        _run(["apt-get", *own, "update"], folder)
        failed = _run([*download[:1], *own, *download[1:]], folder)
        assert not failed, f"Prometheus is needed: put {PROGRAMS} on PATH. apt-get says: {failed}"
    (package,) = folder.glob("prometheus_*.deb")
    failed = _run(["dpkg-deb", "--extract", str(package), str(folder)], folder)
    assert not failed, failed


def _run(command: list[str], folder: Path) -> str:
    """Run a command; return what it says where it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S, check=False
        )
    except OSError as error:
        return str(error)
    return (done.stderr or "failed") if done.returncode else ""


@dataclass
class Prometheus:
    """A running Prometheus."""

    http: httpx.Client

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data that the API answers."""
        answer = self.http.get(f"/api/v1/{path}", params=parameters)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def values(self, query: str) -> list[float]:
        """Return what a query gives now."""
        data = self.ask("query", query=query)
        assert data["resultType"] == "vector"
        return [float(sample["value"][1]) for sample in data["result"]]


@contextlib.contextmanager
def running(program: Path, folder: Path, config: Path) -> Iterator[Prometheus]:
    """Run Prometheus with a configuration until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = folder / "prometheus.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            cwd=folder,
            stdout=sink,
            stderr=sink,
            env=os.environ | {"GOMAXPROCS": "1"},
        )
    try:
        with httpx.Client(base_url=f"http://{address}") as http:
            until("Prometheus is ready", lambda: _is_ready(http, process, log))
            yield Prometheus(http)
    finally:
        process.kill()
        process.wait()


def _is_ready(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return http.get("/-/ready").is_success
    except httpx.TransportError:
        return False
