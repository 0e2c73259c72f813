"""Models that torch runs on this machine: rendered, queued, and batched on each device."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from assay import scratch
from assay.cards.code import Trust
from assay.scheduling import dispatcher as dispatchers
from assay.scheduling import policy
from assay.scheduling.dispatcher import Dispatcher
from assay.scheduling.queue import Queue, RequestHandle
from assay.scheduling.workers import Worker
from assay.telemetry.memory import resident_bytes
from assay.worker_protocol import Loaded, ModelSpec, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.backends.backend import State
    from assay.errors import AssayError
    from assay.items import Source, TokenizedItem
    from assay.jobs import Job
    from assay.prompts.models import Model
    from assay.prompts.renderers import Renderers
    from assay.settings import Settings
    from assay.telemetry.metrics import Metrics
    from assay.worker_protocol import Progress


class LocalSession:
    """One request: its stake in the queue."""

    def __init__(self, job: Job, queue: Queue, renderers: Renderers) -> None:
        self._job = job
        self._queue = queue
        self._renderers = renderers
        self._ticket = RequestHandle(
            job.settle, job.deadline, job.is_batch, job.caller, job.scope, usage=job.usage
        )

    async def prepare(
        self, models: Sequence[Model], sources: Sequence[Source]
    ) -> list[list[TokenizedItem | AssayError]]:
        """Render for each model."""
        return await self._renderers.render(models, sources, self._job.cutting, self._job.caller)

    def submit(self, model: Model, item: TokenizedItem, place: int) -> None:
        """Put an item in the queue."""
        self._queue.put(model.name, item.ids, self._ticket, place, item.read_at, item.segments)

    def cancel(self) -> None:
        """Take everything that waits out of the queue."""
        self._queue.cancel(self._ticket)


class LocalBackend:
    """All models of this machine: one queue, and a dispatcher for each device."""

    def __init__(
        self,
        models: Sequence[Model],
        devices: Sequence[str],
        settings: Settings,
        renderers: Renderers,
        metrics: Metrics,
        *,
        on_progress: Callable[[str, Progress | Loaded], None],
        on_change: Callable[[], None],
        is_needed: Callable[[], bool],
    ) -> None:
        """`on_change` is called when a device is ready, or refuses; `is_needed` whether it is.

        A device whose worker died isn't started again where nobody needs it.
        """
        self.queue = Queue()
        self._models = models
        self._settings = settings
        self._renderers = renderers
        self._on_progress = on_progress
        self._trusts: list[Trust] = []
        self.dispatchers = [
            Dispatcher(
                self._start(device),
                self.queue,
                metrics,
                on_progress=self._progress,
                on_refusal=on_change,
                on_ready=on_change,
                is_needed=is_needed,
                watchdog_s=settings.watchdog_s,
                load_timeout_s=settings.load_timeout_s,
                worker_factory=partial(Worker, variables=settings.worker_variables),
            )
            for device in devices
        ]

    async def run(self) -> None:
        """Keep every device busy until stopped.

        Raises:
            CheckpointError: A model can't be served, and never was.
            WorkerError: A worker died before it was ever ready.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for dispatcher in self.dispatchers:
                    group.create_task(dispatcher.run(), name=f"dispatcher {dispatcher.device}")
        finally:
            for trust in self._trusts:
                shutil.rmtree(trust.private, ignore_errors=True)

    def stop(self) -> None:
        """Start no worker any more."""
        for dispatcher in self.dispatchers:
            dispatcher.stop()

    def kill(self) -> None:
        """End the device processes at once, and start none any more."""
        for dispatcher in self.dispatchers:
            dispatcher.kill()

    def open(self, job: Job) -> LocalSession:
        """Return the session of a request."""
        return LocalSession(job, self.queue, self._renderers)

    # --- how it is --------------------------------------------------------------------------

    @property
    def is_refused(self) -> bool:
        """Whether no device can load again what it served."""
        return all(dispatcher.refusal for dispatcher in self.dispatchers)

    @property
    def has_loaded(self) -> bool:
        """Whether every device has loaded every model."""
        return all(len(dispatcher.loaded) == len(self._models) for dispatcher in self.dispatchers)

    @property
    def load_s(self) -> float | None:
        """How long the slowest device took to load; None where one isn't ready."""
        if any(dispatcher.state != "ready" for dispatcher in self.dispatchers):
            return None
        return max(dispatcher.load_s or 0.0 for dispatcher in self.dispatchers)

    def state(self, model: Model) -> State:
        """Return whether a model can be scored on some device."""
        states = {dispatcher.state for dispatcher in self.dispatchers}
        if "ready" in states and self.loaded(model):
            return "ready"
        return "restarting" if "restarting" in states else "loading"

    def reasons(self, *, in_full: bool) -> list[str]:
        """Return which devices aren't ready."""
        return [
            f"the worker of {dispatcher.device} is {dispatcher.state}"
            f"{f': {dispatcher.refusal}' if dispatcher.refusal and in_full else ''}"
            for dispatcher in self.dispatchers
            if dispatcher.state != "ready"
        ]

    def left_s(self, usual_s: float, now: float) -> float | None:
        """Return in how many seconds the first device should be ready; None where all are."""
        left = (
            (dispatcher.load_s or usual_s) - (now - dispatcher.begun_at)
            for dispatcher in self.dispatchers
            if dispatcher.state != "ready"
        )
        return min(left, default=None)

    def loaded(self, model: Model) -> Loaded | None:
        """Return what a worker said of a model, once one has loaded it."""
        for dispatcher in self.dispatchers:
            if model.name in dispatcher.loaded:
                return dispatcher.loaded[model.name]
        return None

    def depth(self, model: Model) -> tuple[int, int]:
        """Return how many items and tokens wait for a model."""
        return self.queue.depth(model.name)

    def rate(self, *, is_timed: bool) -> float:
        """Return the tokens a second of all devices; see `Backend`."""
        rate_of = dispatchers.timed_rate if is_timed else dispatchers.rate
        return rate_of(self.dispatchers)

    def fail_all(self, error: AssayError) -> None:
        """Answer everything that waits with an error."""
        for model in self._models:
            self.queue.fail_all(model.name, error)

    def observe(self, metrics: Metrics) -> None:
        """State in the metrics how the workers are."""
        names = [model.name for model in self._models]
        for dispatcher in self.dispatchers:
            metrics.worker(
                dispatcher.device,
                names,
                is_ready=dispatcher.state == "ready",
                resident_bytes=resident_bytes(dispatcher.worker_pid),
                device_bytes=dispatcher.device_bytes,
            )

    # --- loading ----------------------------------------------------------------------------

    def _start(self, device: str) -> Start:
        settings = self._settings
        specs = [
            ModelSpec(
                name=model.name,
                folder=model.checkpoint.folder,
                base=model.checkpoint.base,
                card=model.facts.card_in_ids,
                dtype=settings.dtype,
                quantize=settings.quantize,
                max_tokens=model.facts.max_tokens,
                prefix_cache_mb=settings.prefix_cache_mb,
                trust=self._trust(model),
                checkpoint=model.checkpoint,
                revision=model.files,
            )
            for model in self._models
        ]
        warm_up = policy.WARM_UP
        if settings.batch_tokens is not None:
            warm_up = replace(warm_up, sizes=(settings.batch_tokens,))
        return Start(
            device,
            settings.threads,
            settings.compile,
            tuple(specs),
            warm_up,
            attention=settings.attention,
            invariant=settings.invariant,
        )

    def _trust(self, model: Model) -> Trust | None:
        """Return what a worker needs to run a model's own code, in a folder of its own for each."""
        if model.trusted is None:
            return None
        private = Path(tempfile.mkdtemp(prefix="code-", dir=scratch.folder()))
        self._trusts.append(trust := Trust(model.trusted, private))
        return trust

    def _progress(self, device: str, message: Progress | Loaded) -> None:
        if isinstance(message, Loaded):
            leaves_cores = message.device == "cpu"
            self._renderers.hold_to(message.model, message.inputs, leaves_cores=leaves_cores)
        self._on_progress(device, message)
