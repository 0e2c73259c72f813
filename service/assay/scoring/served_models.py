"""What one set of settings serves: resolved, loaded by its backends, watched, and left again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from assay.backends.local import LocalBackend
from assay.backends.remote import RemoteBackend
from assay.errors import AssayError, Draining, NotReady, WorkerError
from assay.notebook import Notebook
from assay.prompts.renderers import Renderers
from assay.scheduling import devices
from assay.scoring import assembly, starts, targets
from assay.scoring.offload import run_in_daemon_thread
from assay.scoring.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from assay.backends.backend import Backend, Capabilities
    from assay.prompts.models import Model
    from assay.scoring.targets import Target
    from assay.settings import Settings
    from assay.telemetry.metrics import Metrics
    from assay.wakeup_throttle import WakeupThrottle
    from assay.worker_protocol import Loaded, Progress

    # Of these models, and to be told whenever its state changes.
    MakeBackend = Callable[[Sequence[Model], Callable[[], None]], Backend]

logger = logging.getLogger("assay.served_models")
_RETRY_S = 2.0


class ServedModels:
    """The targets of some settings, and the backends of their models.

    `start` begins to load; who asks meanwhile waits, or is told how long that will take. A backend
    made by `make_backend` has all models, in place of those that the settings ask for.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        pace: WakeupThrottle,
        *,
        is_needed: Callable[[], bool],
        make_backend: MakeBackend | None = None,
        on_progress: Callable[[str, Progress | Loaded], None] | None = None,
        on_failure: Callable[[AssayError], None] | None = None,
        is_calibrated: bool = True,
    ) -> None:
        self.targets = Targets()
        self.renderers = Renderers(
            targets.resolve_settings(settings),
            pace,
            metrics.renderer_restarted,
            timeout_s=settings.load_timeout_s,
        )
        self.failure: AssayError | None = None
        self.started_at = int(time.time())
        self.is_closed = False
        self.backends: list[Backend] = []
        self._by_model: Mapping[str, Backend] = {}
        self._settings = settings
        self._metrics = metrics
        self._is_needed = is_needed
        self._is_calibrated = is_calibrated
        self._make_backend = make_backend
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._ready = asyncio.Event()
        self._turn = asyncio.Event()  # of whoever is held: something has changed
        self._is_remembered = False  # how long it took
        self._held = 0  # requests, before it is known what is served
        self._begun_at = time.monotonic()
        self._usual_s: float | None = None  # from there to ready, where that is known
        self._is_leaving = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load."""
        self._begun_at = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="served models")

    async def stop(self) -> None:
        """Stop every process."""
        self.renderers.cancel()
        for backend in self.backends:
            backend.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.renderers.stop()

    def close(self) -> None:
        """Send away who is held."""
        self.is_closed = True
        self._wake()

    def kill(self) -> None:
        """End what computes at once, and start nothing any more."""
        for backend in self.backends:
            backend.kill()

    def leave(self) -> None:
        """Know that another scorer has taken over; see `_changed`."""
        self._is_leaving = True
        self._changed()

    # --- waiting for it ---------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until every model is loaded, verified and warm.

        Raises:
            StartupError: One can't be.
        """
        await self._ready.wait()
        if self.failure is not None:
            raise self.failure

    async def resolved(self) -> None:
        """Wait until it is known what is served, for as long as requests are held; then return."""
        until = time.monotonic() + self._settings.hold_while_loading_s
        if self._held >= self._settings.max_queued_requests:
            return
        self._held += 1
        try:
            while not (self.targets.by_name or self.is_closed or self.failure):
                if not await self._changes(until):
                    return
        finally:
            self._held -= 1

    async def until_ready(self, target: Target, begin: float, deadline_s: float) -> None:
        """Wait until a target can be scored, or until the deadline is what ends the wait.

        Raises:
            NotReady: It can't within the time for which requests are held.
            Draining: The server is stopping.
        """
        hold_s = self._settings.hold_while_loading_s
        until = begin + min(hold_s, deadline_s)
        while (state := self.state(target)) != "ready":
            if self.is_closed:
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
            each_s
            for backend in self.backends
            if (each_s := backend.left_s(usual_s, now)) is not None
        ]
        left_s = min(left) if left else usual_s - (now - self._begun_at)
        return float(math.ceil(left_s if left_s >= 1 else max(1.0, -left_s / 4)))

    # --- what it is -------------------------------------------------------------------------

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

    def backend(self, model: Model) -> Backend:
        """Return the backend that has a model."""
        return self._by_model[model.name]

    def loaded(self, model: Model) -> Capabilities | None:
        """Return what a model is, once it was loaded."""
        backend = self._by_model.get(model.name)
        return backend.loaded(model) if backend else None

    def sizes(self, target: Target) -> list[Mapping[str, int]]:
        """Return how many numbers each head of each member gives, by the head's name."""
        loaded = [self.loaded(model) for model in target.members]
        return [member.outputs if member else {} for member in loaded]

    def state(self, target: Target) -> str:
        """Return 'ready', 'loading' or 'restarting' for a target."""
        if not self.backends:
            return "loading"
        states = {self.backend(model).state(model) for model in target.members}
        return "ready" if states == {"ready"} else max(states - {"ready"})

    def depth(self, target: Target) -> tuple[int, int]:
        """Return how many items and tokens wait for a target's models."""
        models = {model.name: model for model in target.members}.values()
        depths = [self.backend(model).depth(model) for model in models] if self.backends else []
        return sum(items for items, _ in depths), sum(tokens for _, tokens in depths)

    def rate(self, *, is_timed: bool) -> float:
        """Return the tokens a second of all backends; timed, 0 until each has been."""
        rates = [backend.rate(is_timed=is_timed) for backend in self.backends]
        return sum(rates) if all(rates) or not is_timed else 0.0

    def reasons(self, *, in_full: bool = True) -> list[str]:
        """Return why the service isn't ready; empty when it is.

        In full they name models, paths, files and revisions.
        """
        if self.failure is not None:
            return [self.failure.message if in_full else "the start has failed"]
        if not self.backends:
            return ["the models are being resolved"]
        reasons = [
            reason for backend in self.backends for reason in backend.reasons(in_full=in_full)
        ]
        if (overdue := self.renderers.overdue) and not in_full:
            reasons.append("rendering is overdue")
        elif overdue:
            reasons += [f"rendering for '{name}' is overdue" for name in overdue]
        return [*reasons, "the server is draining"] if self.is_closed else reasons

    def observe(self) -> None:
        """State in the metrics what waits, and how the backends are."""
        for model in self.targets.models:
            items, tokens = self.backend(model).depth(model) if self.backends else (0, 0)
            self._metrics.depth(model.name, items=items, tokens=tokens)
        for backend in self.backends:
            backend.observe(self._metrics)

    def announce(self) -> None:
        """State in the metrics what is served."""
        for target in self.targets.by_name.values():
            if loaded := self.loaded(target.members[0]):
                self._metrics.model(
                    target.name,
                    revision=target.revision,
                    device=loaded.device,
                    dtype=loaded.dtype,
                    quantized=loaded.quantized,
                    forward=loaded.forward,
                )
            if fitted := target.calibration:
                moments = fitted.moments
                self._metrics.calibration(
                    target.name,
                    created=fitted.created.timestamp(),
                    margins=(moments.margin_absolute, moments.margin_squared)
                    if moments
                    else (None, None),
                )

    # --- loading ----------------------------------------------------------------------------

    async def _run(self) -> None:
        """Load the targets and keep their backends running."""
        try:
            self._usual_s = await run_in_daemon_thread(
                lambda: starts.recall(self._name_by_settings)
            )
            served, names = await asyncio.gather(
                self._resolved(),
                run_in_daemon_thread(lambda: devices.expand(self._settings.device)),
            )
            self._take_up(served, names)
            self._usual_s = await run_in_daemon_thread(self._usual)
            self._wake()
            async with asyncio.TaskGroup() as group:
                for backend in self.backends:
                    group.create_task(backend.run(), name="backend")
        except* AssayError as errors:
            self._fail(_first(errors))
        except* Exception as errors:
            logger.exception("what is served failed", exc_info=errors)
            self._fail(WorkerError("a defect of Assay stopped the workers; the log has it"))

    async def _resolved(self) -> Targets:
        """Have what the settings name read, and be ready to render for it."""
        resolved = await self.renderers.resolve(self._settings.models)
        return await run_in_daemon_thread(
            lambda: assembly.assemble(self._settings, resolved, is_calibrated=self._is_calibrated)
        )

    def _take_up(self, served: Targets, device_names: Sequence[str]) -> None:
        """Serve these targets, by backends that are yet to load."""
        backends: Mapping[str, Backend]
        if self._make_backend is not None:
            backend = self._make_backend(served.models, self._changed)
            backends = dict.fromkeys((model.name for model in served.models), backend)
        else:
            backends = self._own_backends(served.models, device_names)
        self.targets, self._by_model = served, backends
        self.backends = list(dict.fromkeys(backends.values()))

    def _own_backends(
        self, models: Sequence[Model], device_names: Sequence[str]
    ) -> dict[str, Backend]:
        """Return the backend of each model: a server of its own, or this machine."""
        remotes = self._settings.remotes
        backends: dict[str, Backend] = {
            model.name: RemoteBackend(
                model, remotes[model.name], self.renderers, on_change=self._changed
            )
            for model in models
            if model.name in remotes
        }
        here = [model for model in models if model.name not in remotes]
        if here:
            local = LocalBackend(
                here,
                device_names,
                self._settings,
                self.renderers,
                self._metrics,
                on_progress=self._progress,
                on_change=self._changed,
                is_needed=self._is_needed,
            )
            backends |= dict.fromkeys((model.name for model in here), local)
        return backends

    @property
    def _name_by_settings(self) -> str:
        settings = self._settings
        return Notebook.name(
            settings.models,
            str(settings.repository),
            settings.device,
            settings.compile,
            settings.dtype,
            settings.quantize,
        )

    @property
    def _name_by_revisions(self) -> str:
        settings, revisions = self._settings, [model.revision for model in self.targets.models]
        return Notebook.name(revisions, settings.device, settings.compile, settings.dtype)

    def _usual(self) -> float:
        """Return how long such a start takes: as last time, or by the size of what is to read."""
        folders = [model.checkpoint.folder for model in self.targets.models]
        return starts.recall(self._name_by_revisions) or starts.guess(folders)

    def _changed(self) -> None:
        """Look at backends of which one is ready now, or refuses to load again.

        Those who are held go on. Who waits for a revision that is served no more and can't be
        loaded again is answered.
        """
        self._wake()
        self._look()
        if self._is_leaving and all(backend.is_refused for backend in self.backends):
            self._fail_all("that revision is gone, and another is served; send it again")
        load_s = [backend.load_s for backend in self.backends]
        known_s = [seconds for seconds in load_s if seconds is not None]
        if len(known_s) < len(load_s) or self._is_remembered:
            return
        self._is_remembered = True
        took_s = time.monotonic() - self._begun_at
        durations = {
            self._name_by_settings: took_s,
            self._name_by_revisions: max(known_s, default=0.0),
        }
        threading.Thread(target=starts.remember, args=(durations,), daemon=True).start()

    def _progress(self, device: str, message: Progress | Loaded) -> None:
        if self._on_progress:
            self._on_progress(device, message)
        self._look()

    def _look(self) -> None:
        """Know whether everything has been loaded."""
        if all(backend.has_loaded for backend in self.backends):
            self._ready.set()

    def _fail_all(self, message: str) -> None:
        for backend in self.backends:
            backend.fail_all(NotReady(message, retry_after_s=_RETRY_S))

    def _fail(self, error: AssayError) -> None:
        self.failure = error
        self._ready.set()
        self._wake()
        self._fail_all("the workers can't be brought back")
        if self._on_failure:
            self._on_failure(error)


def _first(errors: BaseExceptionGroup[AssayError]) -> AssayError:
    for error in errors.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
