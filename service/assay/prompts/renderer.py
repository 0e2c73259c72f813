"""Who renders one model's items: a process, and what waits for it.

What comes while it is busy is rendered together in its next round, without a timer. A fat request
hands in chunks, the next when the last is back; whose chunk is next, `fairness` says.

A process that takes too long or too much is ended and started again. What it was at is rendered
again, item by item: the item over which it ends once more is refused, and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay import worker_protocol
from assay.errors import AssayError, NotReady, TemplateRefused, WorkerError
from assay.prompts.fair_queue import FairQueue
from assay.prompts.protocol import Defect, Hold, Outcomes, Refusal, Render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from assay.items import Cutting, Source, TokenizedItem
    from assay.prompts import protocol
    from assay.prompts.loader import Loader, Stream
    from assay.prompts.models import Model
    from assay.wakeup_throttle import WakeupThrottle
    from assay.worker_protocol import Inputs

logger = logging.getLogger("assay.renderer")
ROUND_TOKENS = 32_768
OVERDUE_S = 3.0  # that a round has taken when the service isn't ready any more
_ROUND_S = 5.0  # of processor time that any round may take, which takes some 20 ms
_TOKENS_PER_S = 8_000  # and that the slowest tokenizer does
_WALL = 12  # times as long it may take where others have the processor
_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Looked:
    """An item rendered, and each of its tokens as the vocabulary spells it."""

    rendered: TokenizedItem
    tokens: list[str]


Outcome = Looked | AssayError


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    sources: Sequence[Source]
    cutting: Cutting
    looks: bool
    size: int  # in tokens, about
    outcomes: asyncio.Future[list[Outcome]]


class Renderer:
    """One model's. `stop` it at the end; its process is started when it is first asked."""

    def __init__(
        self,
        model: Model,
        loader: Loader,
        pace: WakeupThrottle,
        on_restart: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._loader = loader
        self._pace = pace
        self._on_restart = on_restart
        self._clock = clock
        self._jobs: FairQueue[_Job] = FairQueue()
        self._stream: Stream | None = None
        self._holds: list[Hold] = []
        self._task: asyncio.Task[None] | None = None
        self._begun_at: float | None = None  # the round that it is at

    @property
    def is_overdue(self) -> bool:
        """Whether a round takes so long that the service isn't ready."""
        begun_at = self._begun_at
        return begun_at is not None and self._clock() - begun_at >= OVERDUE_S

    @property
    def pid(self) -> int | None:
        """The id of the process while there is one."""
        return self._stream.pid if self._stream else None

    def stop(self) -> None:
        """Render nothing more; what waits never is."""
        if self._task is not None:
            self._task.cancel()
        self._kill()

    def hold_to(self, inputs: Inputs, *, leaves_cores: bool) -> None:
        """Take no other ids than a loaded model does; tokenize on one core, if it is so."""
        hold = Hold(inputs, leaves_cores)
        if hold in self._holds:
            return
        self._holds.append(hold)
        if self._stream is not None and self._task is None:
            self._kill()  # idle: it begins with all of them

    async def render(
        self, sources: Sequence[Source], cutting: Cutting, *, size: int, caller: str = ""
    ) -> list[TokenizedItem | AssayError]:
        """Return what `Template.render_all` says of a caller's items, of about so many tokens."""
        outcomes = await self._put(sources, cutting, size, caller, looks=False)
        return [
            outcome.rendered if isinstance(outcome, Looked) else outcome for outcome in outcomes
        ]

    async def look(
        self, sources: Sequence[Source], cutting: Cutting, *, size: int, caller: str = ""
    ) -> list[Outcome]:
        """Return the same with the texts and tokens of each item."""
        return await self._put(sources, cutting, size, caller, looks=True)

    async def _put(
        self, sources: Sequence[Source], cutting: Cutting, size: int, caller: str, *, looks: bool
    ) -> list[Outcome]:
        outcomes: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        job = _Job(sources, cutting, looks, size, outcomes)
        self._jobs.put(job, caller=caller, size=size)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"render {self._model.name}")
        return await outcomes

    # --- rounds -----------------------------------------------------------------------------

    async def _run(self) -> None:
        """Render until nothing waits any more."""
        try:
            while jobs := self._next_round():
                for same in _alike(jobs):
                    self._begun_at = self._clock()
                    try:
                        await self._round(same)
                    except Exception as error:  # noqa: BLE001  a defect: who meets it reports it
                        for job in same:
                            self._pace.set_result(job.outcomes, error)
        finally:
            self._begun_at = self._task = None

    def _next_round(self) -> list[_Job]:
        """Take jobs up to a round."""
        jobs: list[_Job] = []
        tokens = 0
        while tokens < ROUND_TOKENS and (job := self._jobs.take()):
            if not job.outcomes.cancelled():
                jobs.append(job)
                tokens += job.size
        return jobs

    async def _round(self, jobs: Sequence[_Job]) -> None:
        """Render jobs that one call can render; one by one where that fails: so one alone does."""
        sources = [source for job in jobs for source in job.sources]
        try:
            answer = await self._ask(jobs[0], sources, sum(job.size for job in jobs))
        except WorkerError:
            for job in jobs:
                await self._singly(job)
            return
        except AssayError as error:
            for job in jobs:
                self._pace.set_result(job.outcomes, error)
            return
        if isinstance(answer, Defect):
            await self._defect(jobs, answer)
            return
        outcomes = iter(answer)
        for job in jobs:
            self._pace.set_result(job.outcomes, [next(outcomes) for _ in job.sources])

    async def _defect(self, jobs: Sequence[_Job], defect: Defect) -> None:
        if len(jobs) > 1:
            for job in jobs:
                await self._round([job])
        elif not defect.frames and len(jobs[0].sources) > 1:  # one of them is too much
            await self._singly(jobs[0])
        else:
            self._pace.set_result(jobs[0].outcomes, _raised(defect))

    async def _singly(self, job: _Job) -> None:
        """Render a job item by item, over one of which the process may have ended."""
        outcomes: list[Outcome] = []
        for source in job.sources:
            if job.outcomes.cancelled():
                return
            self._begun_at = self._clock()
            try:
                answer = await self._ask(job, [source], job.size)
            except WorkerError:
                outcomes.append(
                    TemplateRefused(
                        "the model's chat template or tokenizer doesn't come to an end with the "
                        "item, or takes too much memory"
                    )
                )
                continue
            except AssayError as error:
                self._pace.set_result(job.outcomes, error)
                return
            if isinstance(answer, Defect):
                self._pace.set_result(job.outcomes, _raised(answer))
                return
            outcomes += answer
        self._pace.set_result(job.outcomes, outcomes)

    async def _ask(
        self, job: _Job, sources: Sequence[Source], tokens: int
    ) -> list[Outcome] | Defect:
        """Return what the process says of some items.

        Raises:
            WorkerError: It ended over them.
            NotReady: It can't be started.
        """
        stream = self._stream or await self._started()
        processor_s = _ROUND_S + tokens / _TOKENS_PER_S
        request = Render(sources, job.cutting, processor_s, job.looks)
        try:
            async with asyncio.timeout(_WALL * processor_s):
                await stream.send(worker_protocol.encode(request))
                answer = await stream.receive()
            return _read(answer, len(sources))
        except (WorkerError, TimeoutError) as error:
            self._kill()
            self._on_restart(self._model.name)
            logger.warning(
                "%s: the process that renders ended over a round; it is started again",
                self._model.name,
            )
            raise WorkerError("a process that renders ended") from error
        except BaseException:  # cancelled: an answer that nobody waits for would be the next's
            self._kill()
            raise

    # --- the process ------------------------------------------------------------------------

    async def _started(self) -> Stream:
        try:
            stream = await self._loader.fork(self._model.name)
            for hold in self._holds:
                await stream.send(worker_protocol.encode(hold))
        except AssayError as error:
            logger.error("%s: nothing can be rendered: %s", self._model.name, error.message)  # noqa: TRY400
            raise NotReady(
                f"'{self._model.name}' can't be rendered for: {error.message}",
                retry_after_s=_RETRY_S,
            ) from error
        self._stream = stream
        return stream

    def _kill(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        stream.close()
        if stream.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stream.pid, signal.SIGKILL)


def _alike(jobs: Iterable[_Job]) -> list[list[_Job]]:
    """Group the jobs that one call can render."""
    groups: dict[tuple[Cutting, bool], list[_Job]] = {}
    for job in jobs:
        groups.setdefault((job.cutting, job.looks), []).append(job)
    return list(groups.values())


def _read(answer: protocol.Told, count: int) -> list[Outcome] | Defect:
    """Return the outcomes of so many items.

    Raises:
        WorkerError: There are others.
    """
    if isinstance(answer, Defect):
        return answer
    if not isinstance(answer, Outcomes) or len(answer.items) != count:
        raise WorkerError("a process that renders sent what isn't an answer")
    try:
        return [
            item.error()
            if isinstance(item, Refusal)
            else Looked(item.rendered(), item.tokens or [])
            for item in answer.items
        ]
    except ValueError as error:  # bytes that aren't whole ids
        raise WorkerError("a process that renders sent what isn't an answer") from error


def _raised(defect: Defect) -> Exception:
    """Return what a request is answered that met a defect of Assay's."""
    error = RuntimeError(f"rendering raised {defect.kind}")
    for frame in defect.frames:
        error.add_note(frame)
    return error
