"""The one inner call: items and a target in, what every member read out.

All routes, contracts and the command line go through `Scorer.score`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from assay.errors import AssayError
from assay.items import Cutting, TokenizedItem
from assay.jobs import Job
from assay.prompts import chunking
from assay.scheduling.admission import Admission
from assay.scheduling.queue import late
from assay.scoring import garbage
from assay.scoring.offload import offload
from assay.scoring.served_models import ServedModels
from assay.timings import Timings
from assay.wakeup_throttle import WakeupThrottle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence

    from assay.backends.backend import Session
    from assay.items import Cut, Source
    from assay.prompts.models import Model
    from assay.prompts.renderer import Looked
    from assay.scheduling.admission import Reservation
    from assay.scoring.served_models import MakeBackend
    from assay.scoring.targets import Target
    from assay.settings import Settings
    from assay.telemetry.metrics import Metrics
    from assay.worker_protocol import Loaded, Progress

_TOKENS_PER_ITEM = 1_024  # that are as much work as an item
_AS_THE_CARD_SAYS = Cutting()
_NO_IDS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class RawResult:
    """One item's outcome: `numbers` has what each member read, or `error` says why there is none.

    A member's are (places, outputs) float64; what they mean: `meaning`.
    """

    numbers: tuple[np.ndarray, ...] | None
    error: AssayError | None
    ids: np.ndarray  # (tokens,) as the first member reads them; empty where rendering failed
    truncated: bool
    cut: Cut | None = None  # what of it was cut, as the first member reads it
    ends_as_expected: bool = True
    has_mentions: bool = False  # special tokens were in what is said


@dataclass(frozen=True, slots=True)
class RequestResult:
    """What `Scorer.score` returns."""

    items: list[RawResult]
    tokens: int
    computed_tokens: int
    timings: Timings


@dataclass(slots=True)
class _Collector:
    """Gathers the scores of one request; `finished` is done when none is out any more."""

    members: int
    numbers: list[list[np.ndarray | AssayError | None]]
    pace: WakeupThrottle
    finished: asyncio.Future[None]
    room: Reservation
    waiting: int = 0
    is_complete: bool = False
    has_failed: bool = False

    def settle(self, place: int, result: np.ndarray | AssayError) -> None:
        item, member = divmod(place, self.members)
        self.numbers[item][member] = result
        self.has_failed |= isinstance(result, AssayError)
        self.waiting -= 1
        self.room.give_back(1 / (len(self.numbers) * self.members))
        self._check()

    def mark_complete(self) -> None:
        """Say that everything has been put in the queue."""
        self.is_complete = True
        self._check()

    def _check(self) -> None:
        if self.is_complete and not self.waiting:
            self.pace.set_result(self.finished, None)


class Scorer:
    """What some settings serve, and the door before it. Use as an async context manager."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        make_backend: MakeBackend | None = None,
        on_progress: Callable[[str, Progress | Loaded], None] | None = None,
        on_failure: Callable[[AssayError], None] | None = None,
        is_calibrated: bool = True,
    ) -> None:
        self.metrics = metrics
        self._settings = settings
        self._pace = WakeupThrottle()
        self.served = served = ServedModels(
            settings,
            metrics,
            self._pace,
            is_needed=lambda: not self.admission.is_closed or self.admission.requests > 0,
            make_backend=make_backend,
            on_progress=on_progress,
            on_failure=on_failure,
            is_calibrated=is_calibrated,
        )
        self.admission = Admission(
            settings.max_queued_tokens,
            lambda: served.rate(is_timed=True),
            max_requests=settings.max_queued_requests,
            max_wait_s=settings.max_wait_s,
            estimated_per_s=lambda: served.rate(is_timed=False),
        )

    async def __aenter__(self) -> Self:
        """Begin loading; scoring is refused until `served.ready`."""
        self.served.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop every process."""
        await self.served.stop()

    def close(self) -> None:
        """Admit nothing more, and send away who is held."""
        self.admission.close()
        self.served.close()

    def target(self, name: str | None) -> Target:
        """Return the named target, or the default one; raises as `ServedModels.target`."""
        return self.served.target(name)

    def observe(self) -> None:
        """State in the metrics what waits and what was admitted, and how the backends are."""
        self.served.observe()
        self.metrics.admitted(tokens=self.admission.tokens, limit=round(self.admission.bound))

    async def score(
        self,
        target: Target,
        sources: Sequence[Source],
        *,
        cutting: Cutting = _AS_THE_CARD_SAYS,
        is_batch: bool = False,
        deadline_s: float | None = None,
        stop_at_error: bool = False,
        on_left: Callable[[Timings], None] | None = None,
        caller: str = "",
        salt: str | None = None,
    ) -> RequestResult:
        """Return what every member read of every item, in order.

        With `stop_at_error` nothing more is rendered or run once an item can't be rendered, and
        nothing more is rendered once one has failed; nor is anything once the deadline has passed.
        `on_left` learns how far a request came whose caller left. A request goes on from what is
        kept of those of its caller alone, and with a salt of those with the same.

        Raises:
            NotReady: The target is loading or its worker is being restarted, for longer than
                requests are held.
            Overloaded, Draining: The request isn't admitted.
        """
        begin = time.monotonic()
        tokens = await offload(len(sources), lambda: sum(map(chunking.estimate, sources)))
        name = await self._name(target, sources, tokens, caller)
        longest_s = self._settings.max_wait_s
        deadline_s = longest_s if deadline_s is None else min(deadline_s, longest_s)
        with self.admission.admit(
            len(target.members) * tokens, lambda: name, caller=caller
        ) as room:
            try:
                await self.served.until_ready(target, begin, deadline_s)
            except asyncio.CancelledError:
                self._count_gone(target, len(sources), on_left, Timings(*[begin] * 5))
                raise
            return await self._score(
                target,
                sources,
                cutting,
                is_batch,
                begin,
                deadline_s,
                stop_at_error,
                room,
                on_left,
                caller,
                salt,
            )

    async def rendered(
        self,
        target: Target,
        sources: Sequence[Source],
        cutting: Cutting = _AS_THE_CARD_SAYS,
        *,
        caller: str = "",
    ) -> AsyncGenerator[list[Looked | AssayError]]:
        """Yield what the target's first member reads of each item, some at a time, with its tokens.

        Raises:
            Overloaded, Draining: The request isn't admitted.
        """
        tokens = await offload(len(sources), lambda: sum(map(chunking.estimate, sources)))
        name = await self._name(target, sources, tokens, caller)
        with self.admission.admit(tokens, lambda: name, caller=caller) as room:
            for chunk in chunking.chunks(sources):
                yield await self.served.renderers.look(target.members[0], chunk, cutting, caller)
                room.give_back(len(chunk) / len(sources))

    async def _name(
        self, target: Target, sources: Sequence[Source], tokens: int, caller: str
    ) -> Hashable | None:
        """Return a request's identity where there is no room for all; it reads every character."""
        if self.admission.is_closed or self.admission.has_room(
            len(target.members) * tokens, caller=caller
        ):
            return None
        size = max(len(sources), tokens // _TOKENS_PER_ITEM)
        return await offload(size, lambda: _identity(caller, target, sources))

    async def _score(
        self,
        target: Target,
        sources: Sequence[Source],
        cutting: Cutting,
        is_batch: bool,
        begin: float,
        deadline_s: float,
        stop_at_error: bool,
        room: Reservation,
        on_left: Callable[[Timings], None] | None,
        caller: str,
        salt: str | None,
    ) -> RequestResult:
        members = target.members
        collector = _Collector(
            len(members),
            [[None] * len(members) for _ in sources],
            self._pace,
            asyncio.get_running_loop().create_future(),
            room,
        )
        job = Job(
            collector.settle,
            cutting,
            begin + deadline_s if math.isfinite(deadline_s) else None,
            is_batch,
            caller,
            prefix_scope(caller if self._settings.prefix_sharing == "caller" else "", salt),
        )
        sessions = self._sessions(members, job)

        def left_s(now: float) -> float | None:
            return None if job.deadline is None else job.deadline - now

        def timings() -> Timings:
            return Timings(
                *(begin, queued, tokenized, job.usage.began_at, time.monotonic()),
                tokenize_s=tokenize_s,
                compute_s=job.usage.compute_s,
            )

        rendered: list[TokenizedItem | AssayError] = []
        tokenize_s, queued, tokenized = 0.0, begin, begin
        try:
            for chunk in chunking.chunks(sources):
                chunk_begin = time.monotonic()
                try:
                    async with asyncio.timeout(left_s(chunk_begin)):
                        rows = await _prepared(sessions, members, chunk)
                except TimeoutError:
                    rendered += [late()] * (len(sources) - len(rendered))
                    collector.mark_complete()
                    break
                tokenized = time.monotonic()
                tokenize_s += tokenized - chunk_begin
                queued = queued if rendered else tokenized
                for place, per_member in enumerate(rows, len(rendered)):
                    _submit(sessions, members, per_member, collector, place)
                room.correct(_tokens(rows) - len(members) * sum(map(chunking.estimate, chunk)))
                outcomes = [_first_refusal(row) or row[0] for row in rows]
                rendered += outcomes
                if stop_at_error and (
                    collector.has_failed
                    or any(isinstance(outcome, AssayError) for outcome in outcomes)
                ):
                    _cancel(sessions)
                    break
            else:
                collector.mark_complete()
            if collector.is_complete:
                await collector.finished
                garbage.note([collector.numbers, rendered])
        except asyncio.CancelledError:
            _cancel(sessions)
            unscored = sum(any(value is None for value in row) for row in collector.numbers)
            self._count_gone(target, unscored, on_left, timings())
            raise
        total_timings = timings()
        return RequestResult(
            items=await offload(len(rendered), lambda: _outcomes(rendered, collector.numbers)),
            tokens=job.usage.tokens,
            computed_tokens=round(job.usage.computed_tokens),
            timings=total_timings,
        )

    def _count_gone(
        self,
        target: Target,
        items: int,
        on_left: Callable[[Timings], None] | None,
        timings: Timings,
    ) -> None:
        self.metrics.shed(target.name, "client_gone", items)
        if on_left:
            on_left(timings)

    def _sessions(self, members: Sequence[Model], job: Job) -> dict[str, Session]:
        """Return the session that each member is scored in: one for all of a backend's."""
        opened: dict[int, Session] = {}
        sessions: dict[str, Session] = {}
        for model in members:
            backend = self.served.backend(model)
            if id(backend) not in opened:
                opened[id(backend)] = backend.open(job)
            sessions[model.name] = opened[id(backend)]
        return sessions


async def _prepared(
    sessions: Mapping[str, Session], members: Sequence[Model], sources: Sequence[Source]
) -> list[list[TokenizedItem | AssayError]]:
    """Return what each member reads of each item; rows are items."""
    first = sessions[members[0].name]
    if all(session is first for session in sessions.values()):
        return await first.prepare(members, sources)
    columns: dict[str, list[TokenizedItem | AssayError]] = {}
    for session in dict.fromkeys(sessions.values()):
        session_members = [model for model in members if sessions[model.name] is session]
        rows = await session.prepare(session_members, sources)
        for place, model in enumerate(session_members):
            columns[model.name] = [row[place] for row in rows]
    return [list(row) for row in zip(*(columns[model.name] for model in members), strict=True)]


def _submit(
    sessions: Mapping[str, Session],
    members: Sequence[Model],
    prepared: Sequence[TokenizedItem | AssayError],
    collector: _Collector,
    place: int,
) -> None:
    """Have one item scored by each member; a bad one by none."""
    good = [item for item in prepared if isinstance(item, TokenizedItem)]
    if len(good) < len(prepared):
        return
    for index, (model, item) in enumerate(zip(members, good, strict=True)):
        collector.waiting += 1
        sessions[model.name].submit(model, item, place * len(members) + index)


def _cancel(sessions: Mapping[str, Session]) -> None:
    for session in dict.fromkeys(sessions.values()):
        session.cancel()


def prefix_scope(caller: str, salt: str | None) -> str:
    """Return whose prefixes a request may share: those of its caller's own, or of all for none.

    With a salt only those of requests with the same salt among them. A key's name has no blanks.
    """
    if salt is None:
        return caller
    digest = hashlib.sha256(salt.encode(errors="surrogatepass")).hexdigest()
    return f"{caller} {digest}"


def _identity(caller: str, target: Target, sources: Sequence[Source]) -> Hashable:
    """Return what a caller's request has in common with itself when it is sent again.

    An item at a time: one call for all would hold the interpreter, and with it the loop.
    """
    return hash((caller, target.name, tuple(hash(chunking.identity(source)) for source in sources)))


def _tokens(rows: Sequence[Sequence[TokenizedItem | AssayError]]) -> int:
    """Return how many tokens all members read of some items."""
    return sum(len(item.ids) for row in rows for item in row if isinstance(item, TokenizedItem))


def _first_refusal(row: Sequence[TokenizedItem | AssayError]) -> AssayError | None:
    """Return why an item isn't read: one member's refusal is enough."""
    return next((outcome for outcome in row if isinstance(outcome, AssayError)), None)


def _outcomes(
    rendered: Sequence[TokenizedItem | AssayError],
    numbers: Sequence[Sequence[np.ndarray | AssayError | None]],
) -> list[RawResult]:
    """Return what came of each item that was rendered: the first ones of a request that failed."""
    return [_scored(item, row) for item, row in zip(rendered, numbers, strict=False)]


def _scored(
    rendered: TokenizedItem | AssayError, numbers: Sequence[np.ndarray | AssayError | None]
) -> RawResult:
    if isinstance(rendered, AssayError):
        return RawResult(None, rendered, _NO_IDS, truncated=False)
    for outcome in numbers:
        if isinstance(outcome, AssayError):
            return RawResult(None, outcome, rendered.ids, rendered.truncated, rendered.cut)
    arrays = tuple(array for array in numbers if isinstance(array, np.ndarray))
    return RawResult(
        arrays,
        None,
        rendered.ids,
        rendered.truncated,
        rendered.cut,
        rendered.ends_as_expected,
        rendered.has_mentions,
    )
