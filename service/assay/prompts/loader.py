"""The process that reads checkpoints and starts those that render, as the front holds it.

Whatever it is given to read, it can be killed, and a limit of time holds for what it does, but not
for what it fetches.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Self, TypeVar

from assay import processes, worker_protocol
from assay.errors import AssayError, CheckpointError, WorkerError, refusing
from assay.prompts import protocol
from assay.prompts.protocol import (
    Fetching,
    Fork,
    Hello,
    Inspect,
    InspectedFrame,
    Refusal,
    Resolve,
    ResolvedFrame,
    Restore,
    Restored,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.prompts.models import Inspected, Model, Resolved, ResolveSettings

_PROGRAM = "assay.prompts.process"
# What a hub and the way to it need, its token included.
_HUB = (
    *("HF_TOKEN", "HF_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_TOKEN_PATH"),
    *(f"{kind}_proxy".upper() for kind in ("http", "https", "all", "no")),
    *(f"{kind}_proxy" for kind in ("http", "https", "all", "no")),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
_FORK_S = 30.0  # that starting a process by a fork may take: it takes some milliseconds
FrameT = TypeVar("FrameT", ResolvedFrame, InspectedFrame, Restored)


def ahead() -> contextlib.AbstractContextManager[None]:
    """Import what loading processes need before it is known what they are to load."""
    return processes.ahead(_PROGRAM, _variables(), forks=True)


class Stream:
    """A connection to a process that renders, and that process's id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.pid: int | None = None

    async def send(self, frame: tuple[bytes, bytes]) -> None:
        """Send a frame, as its header and its body.

        Raises:
            WorkerError: The process is gone.
        """
        try:
            self._writer.writelines(frame)
            await self._writer.drain()
        except OSError as error:
            raise WorkerError("a process that renders is gone") from error

    async def receive(self) -> protocol.Told:
        """Wait for a message.

        Raises:
            WorkerError: The process is gone, or says what isn't a message.
        """
        try:
            header = await self._reader.readexactly(worker_protocol.HEADER.size)
            body = await self._reader.readexactly(protocol.size(header))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise WorkerError("a process that renders is gone") from error
        return protocol.read(body)

    def close(self) -> None:
        """Hang up, soon."""
        self._writer.close()

    async def closed(self) -> None:
        """Hang up, and wait until that is done."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Loader:
    """One loading process, started again if it dies. Use as an async context manager."""

    def __init__(self, settings: ResolveSettings, *, timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._models: Sequence[Model] = ()
        self._process: processes.Process | None = None
        self._socket: socket.socket | None = None
        self._stream: Stream | None = None
        self._forking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Start the process."""
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill the process; those that it started end with it."""
        await self._stop()

    async def resolve(self, reference: str) -> Resolved:
        """Return what a reference stands for.

        Raises:
            CheckpointError: It can't be used.
            WorkerError: The process died over it, or took too long.
        """
        frame = await self._ask(Resolve(reference, self._settings), reference, ResolvedFrame)
        with refusing(reference):
            return frame.resolved()

    async def inspect(self, reference: str) -> Inspected:
        """Return what a reference was found to be; raises as `resolve`."""
        frame = await self._ask(Inspect(reference, self._settings), reference, InspectedFrame)
        with refusing(reference):
            return frame.inspected()

    async def begin_to_render(self, models: Sequence[Model]) -> None:
        """Read nothing more; these are the models of all that was resolved, in their order."""
        self._models = list({model.name: model for model in models}.values())
        await self._open.send(worker_protocol.encode(Fork()))

    async def fork(self, model: str) -> Stream:
        """Start a process that renders a model's items.

        Raises:
            WorkerError: It can't be.
            CheckpointError: The loading process died, and the model's files were replaced.
        """
        async with self._forking:
            try:
                return await self._fork(model)
            except WorkerError:
                await self._restart()
                return await self._fork(model)

    # --- asking -----------------------------------------------------------------------------

    async def _ask(self, request: object, about: str, kind: type[FrameT]) -> FrameT:
        await self._open.send(worker_protocol.encode(request))
        try:
            answer = await self._answer()
        except TimeoutError:
            await self._stop()
            raise CheckpointError(
                f"{about} takes longer than load_timeout_s, {self._timeout_s:g} seconds, to read: "
                "its files, its tokenizer or its chat template don't come to an end"
            ) from None
        except WorkerError:
            raise CheckpointError(
                f"the process that reads {about} died over it: its files, its tokenizer or its "
                "chat template take more memory or nesting than there is"
            ) from None
        if isinstance(answer, Refusal):
            raise answer.error()
        if not isinstance(answer, kind):
            raise WorkerError("a process that reads checkpoints sent what isn't an answer")
        return answer

    async def _answer(self) -> protocol.Told:
        """Wait for an answer; for what is fetched, however long that takes."""
        is_fetching = False
        while True:
            async with asyncio.timeout(None if is_fetching else self._timeout_s):
                answer = await self._open.receive()
            if not isinstance(answer, Fetching):
                return answer
            is_fetching = answer.goes_on

    # --- the process ------------------------------------------------------------------------

    @property
    def _open(self) -> Stream:
        if self._stream is None:
            raise WorkerError("the process that reads checkpoints isn't there")
        return self._stream

    async def _start(self) -> None:
        self._process, ours = processes.start(_PROGRAM, _variables())
        self._socket = ours.dup()  # a stream of asyncio's passes no descriptors
        self._stream = Stream(*await asyncio.open_connection(sock=ours))

    async def _stop(self) -> None:
        if self._stream is not None:
            await self._stream.closed()
        if self._socket is not None:
            self._socket.close()
        self._stream = self._socket = None
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()  # it is at its end already
        self._process = None

    async def _restart(self) -> None:
        """Start the process again; its models are what they were, or it is refused."""
        await self._stop()
        await self._start()
        restored: dict[str, str] = {}
        for model in self._models:
            like = restored.get(model.template_key)
            frame = await self._ask(Restore(model, self._settings, like), model.name, Restored)
            restored[model.template_key] = model.name
            if frame.template_key != model.template_key:
                raise CheckpointError(
                    f"the tokenizer of {model.name} was replaced in {model.checkpoint.folder}; "
                    "reload to serve it, or put the other back"
                )
        await self._open.send(worker_protocol.encode(Fork()))

    async def _fork(self, model: str) -> Stream:
        place = [loaded.name for loaded in self._models].index(model)
        if self._socket is None:
            raise WorkerError("the process that reads checkpoints isn't there")
        ours, theirs = socket.socketpair()
        stream = Stream(*await asyncio.open_connection(sock=ours))
        try:
            with theirs:
                socket.send_fds(self._socket, [protocol.PLACE.pack(place)], [theirs.fileno()])
            async with asyncio.timeout(_FORK_S):
                hello = await stream.receive()
        except (OSError, AssayError) as error:  # a time that is over is an OSError, too
            stream.close()
            raise WorkerError("a process that renders can't be started") from error
        except BaseException:
            stream.close()
            raise
        stream.pid = hello.pid if isinstance(hello, Hello) else None
        return stream


def _variables() -> dict[str, str]:
    return processes.environment(_HUB)
