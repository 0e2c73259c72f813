"""Per device: plan, send, receive, resolve; bring the process back when it dies or hangs.

An idle device gets whatever waits, at once. When the batch that runs comes to its end, the next one
is sent ahead if it is full, and waits in the socket: the device goes from one to the other without
asking. Sent earlier, it would hold up newcomers for longer. What wouldn't fill a batch stays in the
queue until the device is idle, so that more may join it; that costs a hop between processes, well
below a millisecond.

A batch that fails is run again, each of its items alone, and only those that fail alone are
answered with an error. Where memory ran out the batches are made smaller instead. A worker that
dies, or is killed because its batch takes far too long, is started again, and what was at it runs
again: what ran goes alone, and isn't run a third time. A device that served once is never given up:
where what it is to load is refused now, it is tried again, later and later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from itertools import count
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
from msgspec.structs import replace

from assay import joined_batch
from assay.errors import CheckpointError, ForwardFailed, NonFiniteScore, WorkerError
from assay.scheduling import policy
from assay.scheduling.budget import Budget
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.rate import Rate
from assay.scheduling.search import Search
from assay.scheduling.workers import Worker
from assay.worker_protocol import (
    BLOCK_TOKENS,
    Batch,
    Done,
    Ending,
    Failed,
    Loaded,
    Progress,
    Refused,
    Start,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from assay.scheduling.queue import Queue, ScheduledBatch
    from assay.scheduling.work_item import WorkItem
    from assay.worker_protocol import FromWorker, ToWorker

logger = logging.getLogger("assay.dispatcher")
MAX_DEATHS = 2  # of workers that ran an item: in a batch, then alone
WATCHDOG_S = 60.0
LOAD_TIMEOUT_S = 900.0
_FAR_SLOWER = 20  # than the measured rate: a batch that takes so long hangs
_LONGEST_BACKOFF_S = 30.0
_NOT_FINITE = "the model's score of this item is not a finite number"
_STEADY_S = 30.0  # a worker that served for so long doesn't loop through crashes

State = Literal["loading", "ready", "restarting", "stopped"]
Reason = Literal["died", "hung"]


class Observer(Protocol):
    """What the dispatcher tells whoever counts."""

    def batch(
        self,
        model: str,
        done: Done,
        *,
        items: int,
        tokens: int,
        shared_tokens: int,
        held_tokens: int,
    ) -> None:
        """Note a finished batch.

        `tokens` were computed, its items have `shared_tokens` more; `held_tokens`, each counted
        once, were there from earlier batches.
        """

    def worker_restarted(self, device: str, reason: Reason) -> None:
        """Note a restart."""

    def out_of_memory(self, device: str, model: str) -> None:
        """Note a batch that found no memory."""


class Device(Protocol):
    """What the dispatcher needs of a device process: `scheduling.workers.Worker` is one."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""

    async def __aenter__(self) -> Self:
        """Start the process and tell it what to load."""

    async def __aexit__(self, *_: object) -> None:
        """Stop the process."""

    def kill(self) -> None:
        """End the process at once."""

    async def send(self, message: ToWorker) -> None:
        """Send a message; raises `WorkerError` when the process is gone."""

    async def receive(self) -> FromWorker:
        """Wait for the next message; raises `WorkerError` when the process is gone."""


class Dispatcher:
    """Keeps one device busy with the queue's work."""

    def __init__(
        self,
        start: Start,
        queue: Queue,
        observer: Observer,
        *,
        on_progress: Callable[[str, Progress | Loaded], None] | None = None,
        on_refusal: Callable[[], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        is_needed: Callable[[], bool] = lambda: True,
        watchdog_s: float = WATCHDOG_S,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        first_backoff_s: float = 0.5,
        worker_factory: Callable[[Start], Device] = Worker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.device = start.device
        self.state: State = "loading"
        self.loaded: dict[str, Loaded] = {}
        self.refusal: str | None = None  # why what served before can't be loaded again
        self.rate = Rate()
        self.begun_at = self._clock()  # when the worker was started that loads, or has loaded
        self.load_s: float | None = None  # from there to ready, the last time
        self.device_bytes: int | None = None  # what the worker holds of a GPU's memory
        self._start = start
        self._queue = queue
        self._observer = observer
        self._on_progress = on_progress
        self._on_refusal = on_refusal
        self._on_ready = on_ready
        self._is_needed = is_needed
        self._watchdog_s = watchdog_s
        self._load_timeout_s = load_timeout_s
        self._first_backoff_s = first_backoff_s
        self._budgets: dict[str, Budget] = {}
        self._caches: dict[str, PrefixCache] = {}
        self._numbers = count()
        self._in_flight: dict[int, ScheduledBatch] = {}
        self._oldest_since = 0.0  # since when the worker is at the first of them
        self._ending = -1  # the last batch that said it would be done soon
        self._hangs = False
        self._is_stopped = False
        self._worker_factory = worker_factory
        self._worker: Device | None = None
        self._changed = asyncio.Event()  # there may be a batch to send
        queue.subscribe(self._changed.set)

    @property
    def worker_pid(self) -> int | None:
        """The device process, while there is one."""
        return self._worker.pid if self._worker else None

    @property
    def is_idle(self) -> bool:
        """Whether no batch is at the worker."""
        return not self._in_flight

    def stop(self) -> None:
        """Start no worker any more; to be called before `run` is cancelled.

        A cancellation is lost where a worker dies at that moment: the group of tasks that serves it
        has but one exception to raise.
        """
        self._is_stopped = True

    def kill(self) -> None:
        """Stop, and let the worker finish nothing."""
        self.stop()
        if self._worker is not None:
            self._worker.kill()

    async def run(self) -> None:
        """Serve until stopped, restarting the worker when it dies, while anybody needs it.

        Raises:
            CheckpointError: A model can't be served, and never was.
            WorkerError: The worker died before it was ever ready.
        """
        backoff_s = self._first_backoff_s
        while not self._is_stopped:
            ready_at = math.inf
            self.begun_at = self._clock()
            try:
                async with self._worker_factory(self._start) as self._worker:
                    await self._load(self._worker)
                    ready_at = self._clock()
                    await self._serve(self._worker)
            except (CheckpointError, WorkerError) as error:
                if self.state == "loading":
                    raise
                self._note(error)
            finally:
                self._worker = None
                self.state = "restarting" if self.loaded else "loading"
                self._recover()
            self._observer.worker_restarted(self.device, "hung" if self._hangs else "died")
            self._hangs = False
            if self.refusal and self._on_refusal:
                self._on_refusal()
            if self._clock() - ready_at >= _STEADY_S:
                backoff_s = self._first_backoff_s
            self.begun_at = self._clock() + backoff_s
            await asyncio.sleep(backoff_s)
            if not self._is_needed():
                return
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    def _note(self, error: CheckpointError | WorkerError) -> None:
        """Say why the worker is started again."""
        self.refusal = error.message if isinstance(error, CheckpointError) else None
        if self.refusal:
            logger.error("worker of %s can't be restarted yet: %s", self.device, self.refusal)
        else:
            logger.warning("worker of %s is gone; restarting it", self.device)

    async def _load(self, worker: Device) -> None:
        """Wait until every model is loaded, verified and warm."""
        waiting = {spec.name for spec in self._start.models}
        while waiting:
            message = await self._hear(worker)
            match message:
                case Refused():
                    raise CheckpointError(f"{message.model}: {message.message}")
                case Progress() | Loaded() if message.model not in waiting:
                    raise WorkerError("the worker loads what it wasn't asked to")
                case Loaded():
                    self._take_up(message)
                    if message.prefix_blocks:
                        self._caches[message.model] = PrefixCache(message.prefix_blocks)
                    self.rate.warm(message.model, message.tokens_per_s)
                    waiting.discard(message.model)
            if self._on_progress and isinstance(message, Progress | Loaded):
                self._on_progress(self.device, message)
        joined_batch.check(self.loaded)
        self.state = "ready"
        self.refusal = None
        self.load_s = self._clock() - self.begun_at
        if self._on_ready:
            self._on_ready()

    def _take_up(self, loaded: Loaded) -> None:
        """Begin with what warm-up found; one that is started again goes on with what is known."""
        name = loaded.model
        if name not in self._budgets:
            is_given = len(self._start.warm_up.sizes) == 1  # by the operator
            tokens, rate, most = loaded.budget_tokens, loaded.tokens_per_s, loaded.most_batch_tokens
            search = None if is_given else Search(tokens, rate, most=most)
            budget = Budget(tokens, self._clock, search=search)
            # Models on one base run together: what is found of one is found of all.
            known = (self._budgets[other] for other in loaded.shared_base if other in self._budgets)
            self._budgets[name] = next(known, budget)
        self.loaded[name] = replace(loaded, budget_tokens=self._budgets[name].whole)

    async def _hear(self, worker: Device) -> FromWorker:
        """Wait for what a worker that loads says next; kill one that says nothing for too long."""
        limit_s = self._load_timeout_s
        try:
            async with asyncio.timeout(limit_s if math.isfinite(limit_s) else None):
                return await worker.receive()
        except TimeoutError:
            logger.error("worker of %s hangs while it loads; killing it", self.device)  # noqa: TRY400
            self._hangs = True
            worker.kill()
            raise WorkerError(
                f"the worker of {self.device} said nothing for {limit_s:g} s while it loaded; "
                "load_timeout_s allows for more"
            ) from None

    async def _serve(self, worker: Device) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed(worker), name=f"feed {self.device}")
                group.create_task(self._drain(worker), name=f"drain {self.device}")
                group.create_task(self._watch(worker), name=f"watch {self.device}")
        except* WorkerError:
            pass
        raise WorkerError("the worker process is gone")

    async def _feed(self, worker: Device) -> None:
        """Plan and send whenever the worker has room and there is enough to send."""
        while True:
            self._changed.clear()
            while scheduled := self._next_batch():
                number = next(self._numbers)
                if not self._in_flight:
                    self._oldest_since = self._clock()
                self._in_flight[number] = scheduled
                batch = Batch(number, scheduled.model, scheduled.prefix_batch, policy.PREFETCH_PART)
                await worker.send(batch)
            await self._changed.wait()

    def _next_batch(self) -> ScheduledBatch | None:
        """Take what waits for an idle worker, a full batch for one that will soon be."""
        if len(self._in_flight) >= policy.BATCHES_AT_WORKER:
            return None
        if self._in_flight and self._ending not in self._in_flight:
            return None
        return self._queue.take(self._specs(), self._caches, only_full=bool(self._in_flight))

    def _specs(self) -> Mapping[str, Loaded]:
        """Return what is loaded, with the budgets of now."""
        budgets = {name: budget.tokens for name, budget in self._budgets.items()}
        if all(loaded.budget_tokens == budgets[name] for name, loaded in self.loaded.items()):
            return self.loaded
        return {
            name: replace(loaded, budget_tokens=budgets[name])
            for name, loaded in self.loaded.items()
        }

    async def _watch(self, worker: Device) -> None:
        """Kill a worker that is at one batch for far longer than its tokens take."""
        while True:
            await asyncio.sleep(min(1.0, self._watchdog_s / 4))
            if not self._in_flight:
                continue
            oldest = next(iter(self._in_flight.values()))
            expected_s = self.rate.expected_s(oldest.model, oldest.prefix_batch.tokens)
            passed_s = self._clock() - self._oldest_since
            if passed_s > max(self._watchdog_s, _FAR_SLOWER * expected_s):
                logger.error("worker of %s hangs; killing it", self.device)
                self._hangs = True
                worker.kill()
                return

    async def _drain(self, worker: Device) -> None:
        """Resolve what the worker answers."""
        while True:
            message = await worker.receive()
            match message:
                case Ending():
                    self._ending = message.number
                case Done():
                    self._resolve(self._answered(message), message)
                case Failed():
                    self._retry(self._answered(message), message)
            self._changed.set()

    def _answered(self, message: Done | Failed) -> ScheduledBatch:
        """Return the batch of an answer, which is no longer at the worker.

        Raises:
            WorkerError: It never was, or asks for other numbers: then it counts as not answered.
        """
        if (batch := self._in_flight.get(message.number)) is None:
            raise WorkerError("the worker answers what it wasn't asked")
        rows = sum(part.plan.rows for part in batch.parts)
        shape = rows, sum(self.loaded[batch.model].outputs.values())
        if isinstance(message, Done) and message.shape != shape:
            raise WorkerError("the worker answers with other numbers than it was asked for")
        self._oldest_since = self._clock()
        return self._in_flight.pop(message.number)

    def _resolve(self, batch: ScheduledBatch, done: Done) -> None:
        tokens = batch.prefix_batch.tokens
        self.device_bytes = done.device_bytes
        if batch.is_full:
            served = sum(work.tokens for part in batch.parts for work in part.plan.works)
            self.rate.note(batch.model, computed=tokens, served=served, seconds=done.compute_s)
        self._weigh(batch, done.compute_s)
        claims = [claim for part in batch.parts for claim in part.claims]
        for ticket in {id(claim.ticket): claim.ticket for claim in claims}.values():
            usage = ticket.usage
            usage.began_at = min(usage.began_at, self._clock() - done.compute_s)
            usage.compute_s += done.compute_s
        numbers, begin = done.numbers, 0
        for part in batch.parts:
            self._observer.batch(
                part.model,
                done if part is batch else replace(done, padded_tokens=0),  # it counts once
                items=len(part.plan.works),
                tokens=part.plan.prefix_batch.tokens,
                shared_tokens=part.plan.shared_tokens,
                held_tokens=BLOCK_TOKENS * len(part.plan.prefix_batch.cached_blocks),
            )
            self._settle(part, numbers[begin : begin + part.plan.rows], is_whole=not batch.others)
            begin += part.plan.rows

    def _settle(self, batch: ScheduledBatch, read: np.ndarray, *, is_whole: bool) -> None:
        """Answer the items of one model's part of a batch, which may be all of it."""
        plan = batch.plan
        was_alone = is_whole and len(plan.works) == 1 and not plan.prefix_batch.held
        doubtful = []
        results = zip(batch.entries, plan.computed_tokens(), plan.numbers(read), strict=True)
        for (work, claim), computed, numbers in results:
            is_finite = bool(np.isfinite(numbers).all())
            if not is_finite:
                doubtful.append((work, claim))
                if not was_alone:
                    continue
            claim.ticket.usage.tokens += work.tokens
            claim.ticket.usage.computed_tokens += computed
            claim.settle(numbers if is_finite else NonFiniteScore(_NOT_FINITE))
        if doubtful:
            self._forget(batch, [work for work, _ in doubtful])
        if doubtful and not was_alone:  # who has read what was spoilt is right then
            self._queue.put_back(batch.model, doubtful)

    def _forget(self, batch: ScheduledBatch, works: Iterable[WorkItem]) -> None:
        """Forget what a batch was to leave of items whose scores aren't finite.

        In attention a key that weighs nothing is still multiplied: NaN times 0 is NaN, so a token
        whose numbers aren't finite spoils those shortly before it, which may begin other items.
        """
        if (cache := self._caches.get(batch.model)) is None:
            return
        left = set(batch.plan.prefix_batch.new_blocks.tolist())
        for work in works:
            path = cache.path(work.ids, work.flow.scope)
            spoilt = next((block for block in path if block.number in left), None)
            if spoilt is not None:
                cache.forget(spoilt)

    def _weigh(self, batch: ScheduledBatch, seconds: float) -> None:
        """Let a batch count for how large the next ones may be."""
        model, budget = batch.model, self._budgets[batch.model]
        budget.note(
            batch.budget_tokens,
            computed=batch.prefix_batch.tokens,
            seconds=seconds,
            is_full=batch.fills_its_budget,
        )
        if budget.whole != self.loaded[model].budget_tokens:
            logger.info("batches of %s now have up to %d tokens", model, budget.whole)
            for name in self.loaded[model].shared_base or [model]:
                self.loaded[name] = replace(self.loaded[name], budget_tokens=budget.whole)

    def _retry(self, batch: ScheduledBatch, failed: Failed) -> None:
        """Run each item of a failed batch again, alone; an item that failed alone is answered.

        Where memory ran out, they run in smaller batches as long as there are smaller ones. What
        the batch was to leave on the device, and what rests on that, isn't there.
        """
        for part in batch.parts:
            if part.model in self._caches:
                self._caches[part.model].clear()
        count = sum(len(part.claims) for part in batch.parts)
        may_shrink = False
        if failed.out_of_memory:
            self._observer.out_of_memory(self.device, batch.model)
            budget = self._budgets[batch.model]
            may_shrink = budget.halve(batch.budget_tokens) and count > 1
        if count > 1 or batch.prefix_batch.held:
            for part in batch.parts:
                self._queue.put_back(part.model, part.entries, was_tried=not may_shrink)
            return
        (claim,) = batch.claims
        claim.settle(ForwardFailed(f"the model failed on this item even alone ({failed.reason})"))

    def _recover(self) -> None:
        """Put what was at a dead worker back in line; an item that killed two is answered.

        The worker runs batches in order, so only the oldest can have killed it.
        """
        for place, batch in reversed(list(enumerate(self._in_flight.values()))):
            was_running = place == 0
            if was_running and batch.claims[0].deaths + 1 >= MAX_DEATHS:
                (claim,) = batch.claims
                claim.settle(
                    ForwardFailed("the worker died each time this item ran; it won't run again")
                )
            else:
                for part in batch.parts:
                    self._queue.put_back(
                        part.model, part.entries, was_tried=was_running, was_deadly=was_running
                    )
        self._in_flight.clear()
        self._caches.clear()


def rate(dispatchers: Sequence[Dispatcher]) -> float:
    """Return the tokens per second of all devices, before anything was timed an estimate."""
    return sum(dispatcher.rate.served for dispatcher in dispatchers)


def timed_rate(dispatchers: Sequence[Dispatcher]) -> float:
    """Return that of the batches of callers; 0 until each device has had enough of these."""
    rates = [dispatcher.rate.timed for dispatcher in dispatchers]
    return sum(rates) if all(rates) else 0.0
