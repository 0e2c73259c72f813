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

from assay.errors import AssayError, NotReady
from assay.items import Cutting, TokenizedItem
from assay.jobs import Job
from assay.prompts import chunking
from assay.scheduling.admission import Admission
from assay.scheduling.queue import late
from assay.scoring import garbage, results
from assay.scoring.offload import offload
from assay.scoring.served_models import ServedModels
from assay.scoring.target_union import TargetUnion
from assay.timings import Timings
from assay.wakeup_throttle import WakeupThrottle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence

    import numpy as np

    from assay.backends.backend import Session
    from assay.items import Source
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


@dataclass(slots=True)
class _Collector:
    """Gathers the scores of one request; `finished` is done when none is out any more."""

    members: int
    required: frozenset[int]  # members whose errors fail an item
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
        self.has_failed |= isinstance(result, AssayError) and member in self.required
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
        target: Target | TargetUnion,
        sources: Sequence[Source],
        *,
        cutting: Cutting = _AS_THE_CARD_SAYS,
        is_batch: bool = False,
        deadline_s: float | None = None,
        stop_at_error: bool = False,
        on_left: Callable[[Timings], None] | None = None,
        caller: str = "",
        salt: str | None = None,
    ) -> results.RequestResult:
        """Return what every member of a target, or of several, read of every item, in order.

        An item that a required target can't read isn't read by the others. Where another target
        can't be scored for now, all of its items have that error.

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
        union = target if isinstance(target, TargetUnion) else TargetUnion.of([target])
        tokens = await offload(len(sources), lambda: sum(map(chunking.estimate, sources)))
        name = await self._name(union, sources, tokens, caller)
        longest_s = self._settings.max_wait_s
        deadline_s = longest_s if deadline_s is None else min(deadline_s, longest_s)
        with self.admission.admit(len(union.members) * tokens, lambda: name, caller=caller) as room:
            try:
                absent = await self._absent(union, begin, deadline_s)
            except asyncio.CancelledError:
                self._count_gone(union, len(sources), on_left, Timings(*[begin] * 5))
                raise
            outcome = await self._score(
                union.without(absent),
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
            return results.with_absent(outcome, absent, len(sources))

    async def _absent(
        self, union: TargetUnion, begin: float, deadline_s: float
    ) -> dict[int, NotReady]:
        """Wait until what an item needs can be scored; return why other targets can't, by place.

        Where nothing is needed, one that can be scored is enough.
        """
        states = [self.served.state(target) for target in union.targets]
        needed = [place for place, is_needed in enumerate(union.required) if is_needed]
        if not needed and "ready" not in states:
            needed = [0]
        for place in needed:
            await self.served.until_ready(union.targets[place], begin, deadline_s)
        others = [place for place in range(len(states)) if place not in needed]
        return {
            place: NotReady(f"'{union.targets[place].name}' is {state}; retry later")
            for place in others
            if (state := self.served.state(union.targets[place])) != "ready"
        }

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
        name = await self._name(TargetUnion.of([target]), sources, tokens, caller)
        with self.admission.admit(tokens, lambda: name, caller=caller) as room:
            for chunk in chunking.chunks(sources):
                yield await self.served.renderers.look(target.members[0], chunk, cutting, caller)
                room.give_back(len(chunk) / len(sources))

    async def _name(
        self, union: TargetUnion, sources: Sequence[Source], tokens: int, caller: str
    ) -> Hashable | None:
        """Return a request's identity where there is no room for all; it reads every character."""
        if self.admission.is_closed or self.admission.has_room(
            len(union.members) * tokens, caller=caller
        ):
            return None
        size = max(len(sources), tokens // _TOKENS_PER_ITEM)
        return await offload(size, lambda: _identity(caller, union, sources))

    async def _score(
        self,
        union: TargetUnion,
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
    ) -> results.RequestResult:
        members = union.members
        collector = _Collector(
            len(members),
            union.required_places,
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

        rendered: list[Sequence[TokenizedItem | AssayError]] = []  # what each member reads
        tokenize_s, queued, tokenized = 0.0, begin, begin
        try:
            for chunk in chunking.chunks(sources):
                chunk_begin = time.monotonic()
                try:
                    async with asyncio.timeout(left_s(chunk_begin)):
                        rows = await _prepared(sessions, members, chunk)
                except TimeoutError:
                    rendered += [[late()] * len(members)] * (len(sources) - len(rendered))
                    collector.mark_complete()
                    break
                tokenized = time.monotonic()
                tokenize_s += tokenized - chunk_begin
                queued = queued if rendered else tokenized
                has_refused = False
                for place, row in enumerate(rows, len(rendered)):
                    _submit(sessions, union, row, collector, place)
                    has_refused |= results.required_refusal(union, row) is not None
                room.correct(
                    results.row_tokens(rows) - len(members) * sum(map(chunking.estimate, chunk))
                )
                rendered += rows
                if stop_at_error and (collector.has_failed or has_refused):
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
            self._count_gone(union, unscored, on_left, timings())
            raise
        total_timings = timings()
        by_target = await offload(
            len(rendered) * len(union.targets),
            lambda: results.by_target(union, rendered, collector.numbers),
        )
        return results.RequestResult(
            [items for items, _ in by_target],
            [job.usage.tokens] if len(by_target) == 1 else [tokens for _, tokens in by_target],
            tokens=job.usage.tokens,
            computed_tokens=round(job.usage.computed_tokens),
            timings=total_timings,
        )

    def _count_gone(
        self,
        union: TargetUnion,
        items: int,
        on_left: Callable[[Timings], None] | None,
        timings: Timings,
    ) -> None:
        for target in union.targets:
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
    union: TargetUnion,
    row: Sequence[TokenizedItem | AssayError],
    collector: _Collector,
    place: int,
) -> None:
    """Have one item scored by the members that are to read it."""
    for index in union.readers(row):
        model, item = union.members[index], row[index]
        if isinstance(item, TokenizedItem):
            collector.waiting += 1
            sessions[model.name].submit(model, item, place * len(row) + index)


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


def _identity(caller: str, union: TargetUnion, sources: Sequence[Source]) -> Hashable:
    """Return what a caller's request has in common with itself when it is sent again.

    An item at a time: one call for all would hold the interpreter, and with it the loop.
    """
    return hash((caller, union.name, tuple(hash(chunking.identity(source)) for source in sources)))
