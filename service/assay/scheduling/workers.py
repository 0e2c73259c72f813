"""Device processes: started, spoken to, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from assay.engine import messages
from assay.engine.messages import FRONT_SIGNALS
from assay.errors import WorkerError
from assay.scheduling import caches

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOP_S = 5.0
_LOOK_S = 0.01
# glibc gives large blocks back to the kernel once they are free, and each layer's results came from
# there again, page by page: six hundredths of the processor time.
_KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


_PROGRAM = "assay.engine.worker"
_ahead: list[tuple[subprocess.Popen[bytes], socket.socket]] = []


@contextlib.contextmanager
def ahead() -> Iterator[None]:
    """Start the first device process before it is known what it is to load.

    It imports torch meanwhile. One that nobody needed by the end is killed.
    """
    _ahead.append(_started(_PROGRAM))
    try:
        yield
    finally:
        while _ahead:
            process, stream = _ahead.pop()
            process.kill()
            process.wait()
            stream.close()


class Worker:
    """One device process and the stream to it. Use as an async context manager."""

    def __init__(self, start: messages.Start, program: str = _PROGRAM) -> None:
        self._start = start
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    async def __aenter__(self) -> Self:
        """Start the process and tell it what to load."""
        is_ahead = _ahead and self._program == _PROGRAM
        self._process, ours = _ahead.pop() if is_ahead else _started(self._program)
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            await self.send(self._start)
        except WorkerError:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up; a worker that doesn't leave is killed."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        if self._process is None:
            return
        end = time.monotonic() + _STOP_S
        while self._process.poll() is None:
            if time.monotonic() >= end:
                self._process.kill()
            await asyncio.sleep(_LOOK_S)

    def kill(self) -> None:
        """End the process at once; whoever waits for a message learns that it is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def send(self, message: messages.ToWorker) -> None:
        """Send a message.

        Raises:
            WorkerError: The process is gone.
        """
        if self._writer is None:
            raise WorkerError("the worker was never started")
        try:
            self._writer.write(messages.encode(message))
            await self._writer.drain()
        except OSError as error:
            raise WorkerError("the worker process is gone") from error

    async def receive(self) -> messages.FromWorker:
        """Wait for the next message.

        Raises:
            WorkerError: The process is gone.
        """
        if self._reader is None:
            raise WorkerError("the worker was never started")
        try:
            header = await self._reader.readexactly(messages.HEADER.size)
            body = await self._reader.readexactly(messages.HEADER.unpack(header)[0])
        except (asyncio.IncompleteReadError, OSError) as error:
            raise WorkerError("the worker process is gone") from error
        message: messages.FromWorker = messages.decode(body)  # type: ignore[assignment]
        return message


def _started(program: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process that no signal to the group ends before it can say that it ignores these.

    systemd and a terminal signal the whole group. A mask is inherited; a loop's own way to start
    processes may clear it. Return it with the stream to it.
    """
    ours, theirs = socket.socketpair()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FRONT_SIGNALS)
    try:
        with theirs:
            process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-m", program, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=_KEEP_FREED_MEMORY | os.environ | caches.variables(),
                stdin=subprocess.DEVNULL,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, ours
