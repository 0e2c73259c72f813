"""The thread that renders: what comes while it is busy is rendered together in its next round.

Off the loop, and without a timer. A fat request hands in chunks, the next when the last is back;
whose chunk is next, `fairness` says: a single item waits for the round that is being rendered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from assay.engine.spelling import characters, message_key
from assay.engine.template import Contest, Ids, Solution, Text
from assay.scoring.fairness import FairQueue

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from assay.engine.template import Rendered, Source, Template
    from assay.engine.truncation import Cutting
    from assay.errors import AssayError
    from assay.scoring.pacing import Pace

CHUNK_ITEMS = 128
CHUNK_TOKENS = 16_384  # some 20 ms of one core
ROUND_TOKENS = 32_768
_CHARACTERS_PER_TOKEN = 4

Outcomes = list["Rendered | AssayError"]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    template: Template
    sources: Sequence[Source]
    cutting: Cutting
    size: int  # in tokens, about
    outcomes: asyncio.Future[Outcomes]


class RenderThread:
    """One thread for all templates, which aren't thread-safe. Between `start` and `stop`."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._jobs: FairQueue[_Job] = FairQueue()
        self._thread = Thread(target=self._run, name="render")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after the round it is at; what waits is never rendered."""
        self._jobs.close()

    async def render(
        self,
        template: Template,
        sources: Sequence[Source],
        cutting: Cutting,
        *,
        caller: str = "",
    ) -> Outcomes:
        """Return what `Template.render_all` says of a caller's sources."""
        outcomes: asyncio.Future[Outcomes] = asyncio.get_running_loop().create_future()
        size = sum(map(estimate, sources))
        job = _Job(template, sources, cutting, size, outcomes)
        self._jobs.put(job, caller=caller, size=size)
        return await outcomes

    def _run(self) -> None:
        while jobs := self._next_round():
            done = [one for same in _alike(jobs) for one in _rendered(same)]
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                jobs[0].outcomes.get_loop().call_soon_threadsafe(self._deliver, done)

    def _deliver(self, done: Sequence[tuple[_Job, Outcomes | Exception]]) -> None:
        """Hand a round's outcomes to those who wait. Runs on the loop."""
        for job, outcomes in done:
            self._pace.set_result(job.outcomes, outcomes)

    def _next_round(self) -> list[_Job]:
        """Wait for a job and take those behind it, up to a round; empty at the end."""
        jobs: list[_Job] = []
        tokens = 0
        while tokens < ROUND_TOKENS and (job := self._jobs.take(waits=not jobs)):
            if not job.outcomes.cancelled():
                jobs.append(job)
                tokens += job.size
        return jobs


def estimate(source: Source) -> int:
    """Guess an item's tokens before it is tokenized."""
    if isinstance(source, Ids):
        return len(source.ids)
    return characters(source) // _CHARACTERS_PER_TOKEN + 1


def identity(source: Source) -> Hashable:
    """Return what tells an item from others."""
    match source:
        case Ids():
            parts = source.ids, source.segments or ()
            return tuple(np.asarray(one, dtype=np.int32).tobytes() for one in parts)
        case Text():
            return source.specials, source.text
    turns = (source.inputs.key, *map(message_key, source.messages))
    match source:
        case Solution():
            return turns, source.steps
        case Contest():
            return turns, source.first, source.second
    return turns, source.specials


def chunks(sources: Sequence[Source]) -> Iterator[Sequence[Source]]:
    """Cut a request's items into what is rendered at a time: the device starts after the first."""
    start, tokens = 0, 0
    for place, source in enumerate(sources):
        tokens += estimate(source)
        if tokens >= CHUNK_TOKENS or place + 1 - start >= CHUNK_ITEMS:
            yield sources[start : place + 1]
            start, tokens = place + 1, 0
    if start < len(sources):
        yield sources[start:]


def keep_to_one_core() -> None:
    """Tokenize on one core, so that the others are the device's; an operator's word stands."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _alike(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Group the jobs that one call can render."""
    groups: dict[tuple[int, Cutting], list[_Job]] = {}
    for job in jobs:
        groups.setdefault((id(job.template), job.cutting), []).append(job)
    return list(groups.values())


def _rendered(jobs: Sequence[_Job]) -> list[tuple[_Job, Outcomes | Exception]]:
    """Render jobs of one template together; one by one where that fails, so that one alone does."""
    sources = [source for job in jobs for source in job.sources]
    try:
        outcomes = iter(jobs[0].template.render_all(sources, jobs[0].cutting))
    except Exception as error:  # noqa: BLE001  a defect: the request that meets it reports it
        if len(jobs) > 1:
            return [one for job in jobs for one in _rendered([job])]
        return [(jobs[0], error)]
    return [(job, list(islice(outcomes, len(job.sources)))) for job in jobs]
