"""The one inner call: items and a target in, what every member read out.

All routes, dialects and the command line go through `Scorer.score`. It owns what lives as long as
the server: the targets, the queue, the device processes and those that render.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from assay import scratch
from assay.cards.code import Trust
from assay.errors import AssayError, Draining, NotReady, WorkerError
from assay.items import Cutting, Rendered
from assay.pacing import Pace
from assay.prompts.loader import Loader
from assay.prompts.renderer import Looked, Renderer
from assay.scheduling import devices
from assay.scheduling import dispatcher as dispatchers
from assay.scheduling.admission import Admission
from assay.scheduling.dispatcher import Dispatcher
from assay.scheduling.queue import Queue, Ticket, late
from assay.scheduling.workers import Worker
from assay.scoring import caller, garbage, rendering, starts
from assay.scoring import targets as served
from assay.scoring.aside import aside, detached
from assay.scoring.targets import Target, Targets
from assay.telemetry.memory import resident_bytes
from assay.worker_protocol import Loaded, ModelSpec, Start

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence

    from assay.items import Cut, Source
    from assay.prompts.models import Model
    from assay.scheduling.admission import Room
    from assay.settings import Settings
    from assay.telemetry.metrics import Metrics
    from assay.worker_protocol import Inputs, Progress

logger = logging.getLogger("assay.scorer")
_RETRY_S = 2.0
_TOKENS_PER_ITEM = 1_024  # that are as much work as an item
_AS_THE_CARD_SAYS = Cutting()
_NO_IDS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Scored:
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
class Times:
    """When a request went on, by the monotonic clock; one rendered in parts waits meanwhile."""

    admitted: float
    queued: float  # its first items
    tokenized: float  # its last
    began: float  # its first batch; infinity where it had none
    ended: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `Scorer.score` returns; seconds are wall time."""

    items: list[Scored]
    tokens: int
    computed_tokens: int
    tokenize_s: float
    queue_s: float
    compute_s: float
    total_s: float
    times: Times


@dataclass(slots=True)
class _Collector:
    """Gathers the scores of one request; `finished` is done when none is out any more."""

    members: int
    numbers: list[list[np.ndarray | AssayError | None]]
    pace: Pace
    finished: asyncio.Future[None]
    room: Room
    waiting: int = 0
    is_sealed: bool = False
    has_failed: bool = False

    def settle(self, place: int, result: np.ndarray | AssayError) -> None:
        item, member = divmod(place, self.members)
        self.numbers[item][member] = result
        self.has_failed |= isinstance(result, AssayError)
        self.waiting -= 1
        self.room.give_back(1 / (len(self.numbers) * self.members))
        self._check()

    def seal(self) -> None:
        """Say that everything has been put in the queue."""
        self.is_sealed = True
        self._check()

    def _check(self) -> None:
        if self.is_sealed and not self.waiting:
            self.pace.set_result(self.finished, None)


class Scorer:
    """A running set of targets. Use as an async context manager; `ready` waits for the models."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        on_progress: Callable[[str, Progress | Loaded], None] | None = None,
        on_failure: Callable[[AssayError], None] | None = None,
    ) -> None:
        self.targets = Targets()
        self.queue = Queue()
        self.metrics = metrics
        self.dispatchers: list[Dispatcher] = []
        self.admission = Admission(
            settings.max_queued_tokens,
            lambda: dispatchers.timed_rate(self.dispatchers),
            max_requests=settings.max_queued_requests,
            max_wait_s=settings.max_wait_s,
            estimated_per_s=lambda: dispatchers.rate(self.dispatchers),
        )
        self.failure: AssayError | None = None
        self.started_at = int(time.time())
        self._settings = settings
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._pace = Pace()
        self._loader = Loader(served.wanted(settings), timeout_s=settings.load_timeout_s)
        self._renderers: dict[str, Renderer] = {}
        self._ready = asyncio.Event()
        self._turn = asyncio.Event()  # of whoever is held: something has changed
        self._is_remembered = False  # how long it took
        self._held = 0  # requests, before it is known what is served
        self._begun_at = time.monotonic()
        self._usual_s: float | None = None  # from there to ready, where that is known
        self._is_leaving = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin loading; scoring is refused until `ready`."""
        self._begun_at = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="scorer")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop every process."""
        for renderer in self._renderers.values():
            renderer.stop()
        for one in self.dispatchers:
            one.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._loader.__aexit__()

    def close(self) -> None:
        """Admit nothing more, and send away who is held."""
        self.admission.close()
        self._wake()

    def kill(self) -> None:
        """End the device processes at once, and start none any more."""
        for one in self.dispatchers:
            one.kill()

    async def ready(self) -> None:
        """Wait until every model is loaded, verified and warm.

        Raises:
            StartupError: One can't be.
        """
        await self._ready.wait()
        if self.failure is not None:
            raise self.failure

    def reasons(self, *, in_full: bool = True) -> list[str]:
        """Return why the service isn't ready; empty when it is.

        In full they name models, paths, files and revisions.
        """
        if self.failure is not None:
            return [self.failure.message if in_full else "the start has failed"]
        if not self.dispatchers:
            return ["the models are being resolved"]
        reasons = [
            f"the worker of {one.device} is {one.state}"
            f"{f': {one.refusal}' if one.refusal and in_full else ''}"
            for one in self.dispatchers
            if one.state != "ready"
        ]
        overdue = [name for name, one in self._renderers.items() if one.is_overdue]
        if overdue and not in_full:
            reasons.append("rendering is overdue")
        elif overdue:
            reasons += [f"rendering for '{name}' is overdue" for name in overdue]
        return [*reasons, "the server is draining"] if self.admission.is_closed else reasons

    def target(self, name: str | None) -> Target:
        """Return the named target, or the default one.

        Raises:
            NotReady: The models are still being resolved.
            UnknownTarget: Nothing of that name is served.
        """
        if not self.targets.by_name:
            raise NotReady(
                "the models are being resolved; retry later", retry_after_s=self._left_s()
            )
        return self.targets.get(name)

    async def resolved(self) -> None:
        """Wait until it is known what is served, for as long as requests are held; then return."""
        until = time.monotonic() + self._settings.hold_while_loading_s
        if self._held >= self._settings.max_queued_requests:
            return
        self._held += 1
        try:
            while not (self.targets.by_name or self.admission.is_closed or self.failure):
                if not await self._changes(until):
                    return
        finally:
            self._held -= 1

    async def _until_ready(self, target: Target, begin: float, deadline_s: float) -> None:
        """Wait until a target can be scored, or until the deadline is what ends the wait.

        Raises:
            NotReady: It can't within the time for which requests are held.
            Draining: The server is stopping.
        """
        hold_s = self._settings.hold_while_loading_s
        until = begin + min(hold_s, deadline_s)
        while (state := self.state(target)) != "ready":
            if self.admission.is_closed:
                raise Draining("the server is stopping; send it to another", retry_after_s=1)
            if self.failure is None and await self._changes(until):
                continue
            if self.failure is None and deadline_s <= hold_s:
                return
            raise NotReady(f"'{target.name}' is {state}; retry later", retry_after_s=self._left_s())

    async def _changes(self, until: float) -> bool:
        """Wait until something has changed; False where the time is over."""
        left_s = until - time.monotonic()
        if left_s <= 0:
            return False
        turn = self._turn
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s if math.isfinite(left_s) else None):
                await turn.wait()
        return True

    def _wake(self) -> None:
        """Let all who are held look again."""
        self._turn.set()
        self._turn = asyncio.Event()

    def _left_s(self) -> float:
        """Return in how many seconds it should be ready: whole ones, more the later it is."""
        now, usual_s = time.monotonic(), self._usual_s or starts.guess(())
        left = [
            (one.load_s or usual_s) - (now - one.begun_at)
            for one in self.dispatchers
            if one.state != "ready"
        ]
        left_s = min(left) if left else usual_s - (now - self._begun_at)
        return float(math.ceil(left_s if left_s >= 1 else max(1.0, -left_s / 4)))

    def loaded(self, model: Model) -> Loaded | None:
        """Return what a worker said of a model, once one has loaded it."""
        for one in self.dispatchers:
            if model.name in one.loaded:
                return one.loaded[model.name]
        return None

    def sizes(self, target: Target) -> list[Mapping[str, int]]:
        """Return how many numbers each head of each member gives, by the head's name."""
        loaded = [self.loaded(model) for model in target.members]
        return [one.outputs if one else {} for one in loaded]

    def state(self, target: Target) -> str:
        """Return 'ready', 'loading' or 'restarting' for a target."""
        states = {one.state for one in self.dispatchers}
        if "ready" in states and all(self.loaded(model) for model in target.members):
            return "ready"
        return "restarting" if "restarting" in states else "loading"

    async def score(
        self,
        target: Target,
        sources: Sequence[Source],
        *,
        cutting: Cutting = _AS_THE_CARD_SAYS,
        is_batch: bool = False,
        deadline_s: float | None = None,
        stop_at_error: bool = False,
        on_left: Callable[[Times], None] | None = None,
        salt: str | None = None,
    ) -> Outcome:
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
        tokens = await aside(len(sources), lambda: sum(map(rendering.estimate, sources)))
        name = await self._name(target, sources, tokens)
        longest_s = self._settings.max_wait_s
        deadline_s = longest_s if deadline_s is None else min(deadline_s, longest_s)
        with self.admission.admit(
            len(target.members) * tokens, lambda: name, caller=caller.NAME.get()
        ) as room:
            try:
                await self._until_ready(target, begin, deadline_s)
            except asyncio.CancelledError:
                self._count_gone(target, len(sources), on_left, Times(*[begin] * 5))
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
                salt,
            )

    async def rendered(
        self, target: Target, sources: Sequence[Source], cutting: Cutting = _AS_THE_CARD_SAYS
    ) -> AsyncGenerator[list[Looked | AssayError]]:
        """Yield what the target's first member reads of each item, some at a time, with its tokens.

        Raises:
            Overloaded, Draining: The request isn't admitted.
        """
        own, renderer = caller.NAME.get(), self._renderers[target.members[0].name]
        tokens = await aside(len(sources), lambda: sum(map(rendering.estimate, sources)))
        name = await self._name(target, sources, tokens)
        with self.admission.admit(tokens, lambda: name, caller=own) as room:
            for chunk in rendering.chunks(sources):
                size = sum(map(rendering.estimate, chunk))
                yield await renderer.look(chunk, cutting, size=size, caller=own)
                room.give_back(len(chunk) / len(sources))

    async def _name(
        self, target: Target, sources: Sequence[Source], tokens: int
    ) -> Hashable | None:
        """Return a request's identity where there is no room for all; it reads every character."""
        own = caller.NAME.get()
        if self.admission.is_closed or self.admission.has_room(
            len(target.members) * tokens, caller=own
        ):
            return None
        size = max(len(sources), tokens // _TOKENS_PER_ITEM)
        return await aside(size, lambda: _identity(own, target, sources))

    async def _score(
        self,
        target: Target,
        sources: Sequence[Source],
        cutting: Cutting,
        is_batch: bool,
        begin: float,
        deadline_s: float,
        stop_at_error: bool,
        room: Room,
        on_left: Callable[[Times], None] | None,
        salt: str | None,
    ) -> Outcome:
        members = target.members
        collector = _Collector(
            len(members),
            [[None] * len(members) for _ in sources],
            self._pace,
            asyncio.get_running_loop().create_future(),
            room,
        )
        ticket = Ticket(
            collector.settle,
            begin + deadline_s if math.isfinite(deadline_s) else None,
            is_batch,
            caller.NAME.get(),
            caller.scope(salt, self._settings.prefix_sharing),
        )

        def left_s(now: float) -> float | None:
            return None if ticket.deadline is None else ticket.deadline - now

        rendered: list[Rendered | AssayError] = []
        tokenize_s, queued, tokenized = 0.0, begin, begin
        try:
            for chunk in rendering.chunks(sources):
                chunk_begin = time.monotonic()
                try:
                    async with asyncio.timeout(left_s(chunk_begin)):
                        rows = await self._render_for_members(target, chunk, cutting)
                except TimeoutError:
                    rendered += [late()] * (len(sources) - len(rendered))
                    collector.seal()
                    break
                tokenized = time.monotonic()
                tokenize_s += tokenized - chunk_begin
                queued = queued if rendered else tokenized
                for place, per_member in enumerate(rows, len(rendered)):
                    self._put(members, per_member, ticket, collector, place)
                room.correct(_tokens(rows) - len(members) * sum(map(rendering.estimate, chunk)))
                outcomes = [_first_refusal(row) or row[0] for row in rows]
                rendered += outcomes
                if stop_at_error and (
                    collector.has_failed or any(isinstance(one, AssayError) for one in outcomes)
                ):
                    self.queue.cancel(ticket)
                    break
            else:
                collector.seal()
            if collector.is_sealed:
                await collector.finished
                garbage.note([collector.numbers, rendered])
        except asyncio.CancelledError:
            self.queue.cancel(ticket)
            unscored = sum(any(one is None for one in row) for row in collector.numbers)
            times = Times(begin, queued, tokenized, ticket.began_at, time.monotonic())
            self._count_gone(target, unscored, on_left, times)
            raise
        ended = time.monotonic()
        total_s = ended - begin
        return Outcome(
            items=await aside(len(rendered), lambda: _outcomes(rendered, collector.numbers)),
            tokens=ticket.tokens,
            computed_tokens=round(ticket.computed_tokens),
            tokenize_s=tokenize_s,
            queue_s=max(0.0, total_s - tokenize_s - ticket.compute_s),
            compute_s=ticket.compute_s,
            total_s=total_s,
            times=Times(begin, queued, tokenized, ticket.began_at, ended),
        )

    def _count_gone(
        self, target: Target, items: int, on_left: Callable[[Times], None] | None, times: Times
    ) -> None:
        self.metrics.shed(target.name, "client_gone", items)
        if on_left:
            on_left(times)

    async def _render_for_members(
        self, target: Target, sources: Sequence[Source], cutting: Cutting
    ) -> list[list[Rendered | AssayError]]:
        """Render for each member, once for those whose templates are equal; rows are items."""
        rendered: dict[tuple[str, Inputs], list[Rendered | AssayError]] = {}
        keys = [(one.template_key, self._inputs(one)) for one in target.members]
        size = sum(map(rendering.estimate, sources))
        for model, key in zip(target.members, keys, strict=True):
            if key not in rendered:
                rendered[key] = await self._renderers[model.name].render(
                    sources, cutting, size=size, caller=caller.NAME.get()
                )
        columns = [rendered[key] for key in keys]
        return [list(row) for row in zip(*columns, strict=True)]

    def _inputs(self, model: Model) -> Inputs:
        """Return what a model reads: as it is loaded, or by its config.json."""
        loaded = self.loaded(model)
        return loaded.inputs if loaded else model.facts.inputs

    def _put(
        self,
        members: Sequence[Model],
        rendered: Sequence[Rendered | AssayError],
        ticket: Ticket,
        collector: _Collector,
        place: int,
    ) -> None:
        """Queue one item for each member. A bad item is not queued at all."""
        good = [one for one in rendered if isinstance(one, Rendered)]
        if len(good) < len(rendered):
            return
        for index, (model, one) in enumerate(zip(members, good, strict=True)):
            collector.waiting += 1
            at = place * len(members) + index
            self.queue.put(model.name, one.ids, ticket, at, one.marks, one.segments)

    async def _run(self) -> None:
        """Load the targets and keep one dispatcher a device running."""
        try:
            self._usual_s = await detached(lambda: starts.recall(self._name_by_settings))
            self.targets, names = await asyncio.gather(
                self._resolved(), detached(lambda: devices.expand(self._settings.device))
            )
            self._usual_s = await detached(self._usual)
            self._wake()
            self.dispatchers = [
                Dispatcher(
                    self._start(device),
                    self.queue,
                    self.metrics,
                    on_progress=self._progress,
                    on_refusal=self._give_up,
                    on_ready=self._note_ready,
                    is_needed=lambda: not self.admission.is_closed or self.admission.requests > 0,
                    watchdog_s=self._settings.watchdog_s,
                    load_timeout_s=self._settings.load_timeout_s,
                    worker_factory=partial(Worker, variables=self._settings.worker_variables),
                )
                for device in names
            ]
            async with asyncio.TaskGroup() as group:
                for one in self.dispatchers:
                    group.create_task(one.run(), name=f"dispatcher {one.device}")
        except* AssayError as errors:
            self._fail(_first(errors))
        except* Exception as errors:
            logger.exception("the scorer failed", exc_info=errors)
            self._fail(WorkerError("a defect of Assay stopped the workers; the log has it"))

    async def _resolved(self) -> Targets:
        """Have what the settings name read, and be ready to render for it."""
        await self._loader.__aenter__()
        found = [await self._loader.resolve(one) for one in self._settings.models]
        targets = await detached(lambda: served.assemble(self._settings, found))
        models = [model for one in found for model in one.models]
        await self._loader.begin_to_render(models)
        self._renderers = {
            one.name: Renderer(one, self._loader, self._pace, self.metrics.renderer_restarted)
            for one in models
        }
        return targets

    @property
    def _name_by_settings(self) -> str:
        one = self._settings
        return starts.name(one.models, str(one.repository), one.device, one.compile, one.dtype)

    @property
    def _name_by_revisions(self) -> str:
        one, revisions = self._settings, [model.revision for model in self.targets.models]
        return starts.name(revisions, one.device, one.compile, one.dtype)

    def _usual(self) -> float:
        """Return how long such a start takes: as last time, or by the size of what is to read."""
        folders = [model.checkpoint.folder for model in self.targets.models]
        return starts.recall(self._name_by_revisions) or starts.guess(folders)

    def _note_ready(self) -> None:
        """Let those go on who are held, and remember how long the first start took."""
        self._wake()
        if all(one.state == "ready" for one in self.dispatchers) and not self._is_remembered:
            self._is_remembered = True
            took_s = time.monotonic() - self._begun_at
            load_s = max(one.load_s or 0.0 for one in self.dispatchers)
            known = {self._name_by_settings: took_s, self._name_by_revisions: load_s}
            threading.Thread(target=starts.remember, args=(known,), daemon=True).start()

    def _start(self, device: str) -> Start:
        specs = [
            ModelSpec(
                name=model.name,
                folder=model.checkpoint.folder,
                base=model.checkpoint.base,
                card=model.facts.card_in_ids,
                dtype=self._settings.dtype,
                max_tokens=model.facts.max_tokens,
                batch_tokens=self._settings.batch_tokens,
                prefix_cache_mb=self._settings.prefix_cache_mb,
                trust=_trust(model),
                checkpoint=model.checkpoint,
                revision=model.files,
            )
            for model in self.targets.models
        ]
        return Start(device, self._settings.threads, self._settings.compile, tuple(specs))

    def _progress(self, device: str, message: Progress | Loaded) -> None:
        if isinstance(message, Loaded):
            renderer = self._renderers[message.model]
            renderer.hold_to(message.inputs, leaves_cores=message.device == "cpu")
        if self._on_progress:
            self._on_progress(device, message)
        if all(len(one.loaded) == len(self.targets.models) for one in self.dispatchers):
            self._ready.set()

    def observe(self) -> None:
        """State in the metrics what waits, and how the workers are."""
        names = [model.name for model in self.targets.models]
        for name in names:
            items, tokens = self.queue.depth(name)
            self.metrics.depth(name, items=items, tokens=tokens)
        self.metrics.admitted(tokens=self.admission.tokens, limit=round(self.admission.bound))
        for one in self.dispatchers:
            self.metrics.worker(
                one.device,
                names,
                is_ready=one.state == "ready",
                resident_bytes=resident_bytes(one.worker_pid),
                device_bytes=one.device_bytes,
            )

    def announce(self) -> None:
        """State in the metrics what is served."""
        for target in self.targets.by_name.values():
            if loaded := self.loaded(target.members[0]):
                self.metrics.model(
                    target.name,
                    revision=target.revision,
                    device=loaded.device,
                    dtype=loaded.dtype,
                    forward=loaded.forward,
                )

    def leave(self) -> None:
        """Know that another scorer has taken over; see `_give_up`."""
        self._is_leaving = True
        self._give_up()

    def _give_up(self) -> None:
        """Answer who waits for a revision that is served no more and can't be loaded again."""
        if self._is_leaving and all(one.refusal for one in self.dispatchers):
            self._fail_all("that revision is gone, and another is served; send it again")

    def _fail_all(self, message: str) -> None:
        for model in self.targets.models:
            self.queue.fail_all(model.name, NotReady(message, retry_after_s=_RETRY_S))

    def _fail(self, error: AssayError) -> None:
        self.failure = error
        self._ready.set()
        self._wake()
        self._fail_all("the workers can't be brought back")
        if self._on_failure:
            self._on_failure(error)


def _identity(own: str, target: Target, sources: Sequence[Source]) -> Hashable:
    """Return what a caller's request has in common with itself when it is sent again.

    An item at a time: one call for all would hold the interpreter, and with it the loop.
    """
    return hash((own, target.name, tuple(hash(rendering.identity(one)) for one in sources)))


def _trust(model: Model) -> Trust | None:
    """Return what a worker needs to run a model's own code, in a folder of its own for each."""
    if model.trusted is None:
        return None
    return Trust(model.trusted, Path(tempfile.mkdtemp(prefix="code-", dir=scratch.folder())))


def _tokens(rows: Sequence[Sequence[Rendered | AssayError]]) -> int:
    """Return how many tokens all members read of some items."""
    return sum(len(one.ids) for row in rows for one in row if isinstance(one, Rendered))


def _first_refusal(row: Sequence[Rendered | AssayError]) -> AssayError | None:
    """Return why an item isn't read: one member's refusal is enough."""
    return next((one for one in row if isinstance(one, AssayError)), None)


def _first(errors: BaseExceptionGroup[AssayError]) -> AssayError:
    for error in errors.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")


def _outcomes(
    rendered: Sequence[Rendered | AssayError],
    numbers: Sequence[Sequence[np.ndarray | AssayError | None]],
) -> list[Scored]:
    """Return what came of each item that was rendered: the first ones of a request that failed."""
    return [_scored(one, row) for one, row in zip(rendered, numbers, strict=False)]


def _scored(
    rendered: Rendered | AssayError, numbers: Sequence[np.ndarray | AssayError | None]
) -> Scored:
    if isinstance(rendered, AssayError):
        return Scored(None, rendered, _NO_IDS, truncated=False)
    for one in numbers:
        if isinstance(one, AssayError):
            return Scored(None, one, rendered.ids, rendered.truncated, rendered.cut)
    found = tuple(one for one in numbers if isinstance(one, np.ndarray))
    return Scored(
        found,
        None,
        rendered.ids,
        rendered.truncated,
        rendered.cut,
        rendered.ends_as_expected,
        rendered.has_mentions,
    )
