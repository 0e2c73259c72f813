"""Device processes: started, spoken to, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Self

from assay import processes, worker_protocol
from assay.errors import WorkerError
from assay.scheduling import caches, devices

if TYPE_CHECKING:
    from collections.abc import Iterable

_STOP_S = 5.0
_LOOK_S = 0.01
# glibc gives large blocks back to the kernel once they are free, and each layer's results came from
# there again, page by page: six hundredths of the processor time.
_KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}

# torch's segments of a GPU's memory grow, so that batches of any size share them: fixed ones are
# lost to each batch that is larger. Older versions read the first name alone.
_GROWING = dict.fromkeys(
    ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"), "expandable_segments:True"
)
_PROGRAM = "assay.engine.worker"


def ahead(variables: Iterable[str] = ()) -> contextlib.AbstractContextManager[None]:
    """Import what device processes need before it is known what they are to load.

    On a CPU all of them are forked from one process: later ones, too, are there at once. What is
    imported for a GPU may have spoken to its driver, which no fork survives: there the first
    process alone is started ahead.
    """
    return processes.ahead(_PROGRAM, _variables(variables), forks=not devices.has_driver())


class Worker:
    """One device process and the stream to it. Use as an async context manager.

    `variables` are those of the environment that it gets beside what each needs.
    """

    def __init__(
        self,
        start: worker_protocol.Start,
        program: str = _PROGRAM,
        *,
        variables: Iterable[str] = (),
    ) -> None:
        self._start = start
        self._program = program
        self._variables = variables
        self._process: processes.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    async def __aenter__(self) -> Self:
        """Start the process and tell it what to load."""
        self._process, ours = processes.start(self._program, _variables(self._variables))
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

    async def send(self, message: worker_protocol.ToWorker) -> None:
        """Send a message.

        Raises:
            WorkerError: The process is gone.
        """
        if self._writer is None:
            raise WorkerError("the worker was never started")
        try:
            self._writer.writelines(worker_protocol.encode(message))
            await self._writer.drain()
        except OSError as error:
            raise WorkerError("the worker process is gone") from error

    async def receive(self) -> worker_protocol.FromWorker:
        """Wait for the next message.

        Raises:
            WorkerError: The process is gone, or says what none does.
        """
        if self._reader is None:
            raise WorkerError("the worker was never started")
        try:
            header = await self._reader.readexactly(worker_protocol.HEADER.size)
            body = await self._reader.readexactly(worker_protocol.answer_size(header))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise WorkerError("the worker process is gone") from error
        return worker_protocol.decode_answer(body)


def _variables(more: Iterable[str]) -> dict[str, str]:
    given = processes.environment(more)
    growing = {} if any(name.endswith("_ALLOC_CONF") for name in given) else _GROWING
    return _KEEP_FREED_MEMORY | growing | given | caches.variables()
