"""A server under test: its own process group on a free port, its output in a file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 20.0
_TAIL_LINES = 15
_POLL_S = 0.2
_MOMENT_S = 1.0


class Server:
    """A process that answers HTTP. Use as a context manager; it is ready inside.

    `{port}` in the command stands for the port. All its descendants end with it. Where it
    `is_unread`, what it writes goes into a pipe from which nobody takes it before `output`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready_path: str,
        environment: Mapping[str, str] | None = None,
        is_unread: bool = False,
    ) -> None:
        self.name = name
        self.url = ""
        self._command = command
        self._ready_path = ready_path
        self._environment = environment or {}
        self._is_unread = is_unread
        self._pipe: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> Self:
        """Start it and wait until it is ready."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()
        if self._output is not None:
            self._output.close()
            self._output = None
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def start(self) -> None:
        """Start the process on a free port and wait until it is ready.

        Raises:
            SystemExit: It ended or took too long; its last lines are shown.
        """
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        written: IO[bytes] | int = self._output
        if self._is_unread:
            self._pipe, written = os.pipe()
            os.set_blocking(self._pipe, False)
        self._process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in self._command],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **self._environment},
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if isinstance(written, int):
            os.close(written)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if not self.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise SystemExit(f"{self.name} didn't start:\n{self.tail()}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the process and all that it started, gently first."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):  # none is left, as it should be
            os.killpg(self._process.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Start anew: what a caller gave up on may still be computed."""
        if self._process is not None:
            self._process.kill()
        self.stop()
        self.start()

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def survives(self) -> bool:
        """Return whether the process still runs after a moment, for an end shows late."""
        if self._process is None:
            return False
        try:
            self._process.wait(_MOMENT_S)
        except subprocess.TimeoutExpired:
            return True
        return False

    def tail(self) -> str:
        """Return the last lines that the process wrote."""
        return "\n".join(self.output().splitlines()[-_TAIL_LINES:])

    def output(self) -> str:
        """Return what the process wrote."""
        if self._output is None:
            return ""
        if self._pipe is not None:
            with suppress(BlockingIOError):
                while part := os.read(self._pipe, 1 << 20):
                    self._output.write(part)
            self._output.flush()
        # Its own place in the file: the process writes at the one that both share.
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self.url + self._ready_path, timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False


def assay(
    checkpoint: Path,
    dtype: str,
    threads: int,
    *,
    name: str = "assay",
    source: Path | None = None,
    **settings: object,
) -> Server:
    """Return Assay serving one checkpoint; with `source`, the package in that folder."""
    command = [sys.executable, "-m", "assay", "serve", str(checkpoint), "--port", "{port}"]
    command += ["--dtype", dtype, "--threads", str(threads)]
    environment = {"PYTHONPATH": str(source.resolve())} if source else {}
    environment |= {f"ASSAY_{key.upper()}": str(value) for key, value in settings.items()}
    return Server(name, command, ready_path="/health/ready", environment=environment)


def assay_of(models: Sequence[Path], *, is_unread: bool = False, **settings: object) -> Server:
    """Return Assay on one thread, serving these models, with these settings."""
    command = [sys.executable, "-m", "assay", "serve", *map(str, models), "--port", "{port}"]
    environment = {f"ASSAY_{key.upper()}": str(value) for key, value in settings.items()}
    environment = {"ASSAY_DEVICE": "cpu", "ASSAY_THREADS": "1"} | environment
    return Server(
        "assay",
        command,
        ready_path="/health/ready",
        environment=environment,
        is_unread=is_unread,
    )


def plain(checkpoint: Path, dtype: str, threads: int, *, name: str = "plain") -> Server:
    """Return the plain server of `peers/plain.py`."""
    command = [sys.executable, "-m", "loadtest.peers.plain", "--checkpoint", str(checkpoint)]
    command += ["--dtype", dtype, "--threads", str(threads), "--port", "{port}"]
    return Server(name, command, ready_path="/openapi.json")


def vllm(checkpoint: Path, dtype: str, threads: int, *, name: str = "vllm") -> Server:
    """Return vLLM's CPU build, started by `peers/vllm.sh`."""
    script = str(Path(__file__).parent / "peers" / "vllm.sh")
    command = ["bash", script, str(checkpoint), "{port}", "--dtype", dtype]
    bind = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}"}
    return Server(name, command, ready_path="/health", environment=bind)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
