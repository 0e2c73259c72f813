"""What is served now, and how that changes: a new scorer is loaded beside the old, then takes over.

A request stays with the scorer that it met: it is answered by one revision of everything, and the
old scorer's device processes end when its last request has been answered. A scorer that can't be
loaded changes nothing. For the time that takes, both need memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from assay.errors import (
    AssayError,
    ChangeFailed,
    ChangeRefused,
    Draining,
    InvalidField,
    SettingsError,
    StartupError,
    WorkerError,
    is_name,
)
from assay.scoring.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from assay.settings import Settings
    from assay.telemetry.metrics import Metrics
    from assay.worker_protocol import Loaded, Progress

logger = logging.getLogger("assay.service")
_RETRY_S = 2.0


@dataclass(eq=False, slots=True)
class _Generation:
    """A scorer, how many requests hold it, and whether it was left by the last of them."""

    scorer: Scorer
    users: int = 0
    is_vacant: asyncio.Event = field(default_factory=asyncio.Event)


class Service:
    """The scorer that answers. Use as an async context manager."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        on_progress: Callable[[str, Progress | Loaded], None] | None = None,
        on_failure: Callable[[AssayError], None] | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.metrics = metrics
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._on_change = on_change
        self._settings = settings
        self._is_closed = False
        self._changing = asyncio.Lock()
        self._change_task: asyncio.Task[object] | None = None
        self._pending: _Generation | None = None
        self._introducing: asyncio.Task[None] | None = None
        self._leaving: dict[asyncio.Task[None], _Generation] = {}
        self._current = self._generation(settings)

    @property
    def scorer(self) -> Scorer:
        """The scorer of requests that come now."""
        return self._current.scorer

    async def __aenter__(self) -> Self:
        """Begin loading; scoring is refused until the scorer is ready."""
        await self._current.scorer.__aenter__()
        self._introducing = asyncio.create_task(self._introduce(), name="introduce")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop every device process."""
        self._is_closed = True
        if self._introducing is not None:
            self._introducing.cancel()
        for generation in self._leaving.values():
            generation.is_vacant.set()  # nobody is answered any more
        await asyncio.gather(self._current.scorer.__aexit__(), *self._leaving, self._give_up())

    async def _give_up(self) -> None:
        """Cancel the change that is being made, and wait until what it started is stopped."""
        if task := self._change_task:
            if not task.cancelling():
                task.cancel()
            await asyncio.wait([task])

    @contextlib.contextmanager
    def using(self) -> Iterator[Scorer]:
        """Hold the scorer of now for as long as a request takes."""
        generation = self._current
        generation.users += 1
        try:
            yield generation.scorer
        finally:
            generation.users -= 1
            if not generation.users and generation is not self._current:
                generation.is_vacant.set()

    def close(self) -> None:
        """Admit nothing more, and give up the change that is being made."""
        self._is_closed = True
        self.scorer.close()
        if (task := self._change_task) and not task.cancelling():
            task.cancel()

    def kill(self) -> None:
        """End every device process at once: nobody is answered any more."""
        coming = [] if self._pending is None else [self._pending]
        for generation in (self._current, *self._leaving.values(), *coming):
            generation.scorer.served.kill()

    async def load(self, reference: str, name: str | None = None) -> None:
        """Serve one more name, path or hub id, under a name of its own if given; as `change`."""
        async with self._changing:
            served, names = self._settings.models, dict(self._settings.names)
            if reference in served:
                raise ChangeRefused(f"'{reference}' is served already; reload it instead")
            if name is not None:
                self._check_free(name)
                names[name] = reference
            await self._change_models((*served, reference), names)

    def _check_free(self, name: str) -> None:
        if not is_name(name):
            raise InvalidField("a name is one line, without blanks around it", param="name")
        if name in self.scorer.served.targets.by_name:
            raise ChangeRefused(f"'{name}' is served already; give another name", param="name")

    async def unload(self, name: str) -> None:
        """Serve a target no more; raises as `change`, and `UnknownTarget`."""
        async with self._changing:
            reference = self.scorer.served.targets.reference(name)
            rest = tuple(model for model in self._settings.models if model != reference)
            if not rest:
                raise ChangeRefused(f"'{name}' is all that is served; load another one before")
            await self._change_models(rest, self._settings.names)

    async def reload(self) -> None:
        """Read everything that is served again: weights, cards, tokenizers; raises as `change`."""
        async with self._changing:
            await self._change(self._settings)

    async def change(self, settings: Settings) -> None:
        """Serve what these settings name.

        Raises:
            ChangeRefused: It can't be served; what was served still is.
            ChangeFailed: A device process died or hung over it.
            Draining: The server is stopping.
        """
        async with self._changing:
            await self._change(settings)

    async def _change_models(self, models: tuple[str, ...], names: Mapping[str, str]) -> None:
        """Serve these models, and forget the names of others."""
        kept = {name: reference for name, reference in names.items() if reference in models}
        await self._change(self._settings.model_copy(update={"models": models, "names": kept}))

    async def _change(self, settings: Settings) -> None:
        if self._is_closed:
            raise Draining("the server is stopping")
        self._change_task = asyncio.current_task()
        try:
            await self.scorer.served.ready()
            self._pending = coming = self._generation(settings)
            await self._bring_up(coming.scorer)
        finally:
            self._change_task = self._pending = None
        leaving, self._current, self._settings = self._current, coming, settings
        self.metrics.forget_models()
        coming.scorer.served.announce()
        leaving.scorer.served.leave()
        if self._is_closed:
            self.close()
        if not leaving.users:
            leaving.is_vacant.set()
        task = asyncio.create_task(self._leave(leaving), name="leave")
        self._leaving[task] = leaving
        task.add_done_callback(self._leaving.pop)

    async def _bring_up(self, scorer: Scorer) -> None:
        """Start a scorer and wait until it is ready; else it is stopped again."""
        try:
            await scorer.__aenter__()
            await scorer.served.ready()
        except BaseException as error:
            await scorer.__aexit__()
            if isinstance(error, StartupError):
                raise _refusal(error) from error
            raise

    async def _introduce(self) -> None:
        with contextlib.suppress(AssayError):
            await self.scorer.served.ready()
            self.scorer.served.announce()

    async def _leave(self, generation: _Generation) -> None:
        """Stop a scorer once nobody holds it."""
        await generation.is_vacant.wait()
        await generation.scorer.__aexit__()
        if self._on_change:
            self._on_change()

    def _generation(self, settings: Settings) -> _Generation:
        def fail(error: AssayError) -> None:
            if self._on_failure and generation is self._current:
                self._on_failure(error)

        scorer = Scorer(settings, self.metrics, on_progress=self._on_progress, on_failure=fail)
        generation = _Generation(scorer)
        return generation


def _refusal(error: StartupError) -> AssayError:
    """Return what a change is answered that can't be loaded."""
    message = f"{error.message}; what was served before still is"
    if isinstance(error, WorkerError):
        return ChangeFailed(message, retry_after_s=_RETRY_S)
    return ChangeRefused(message, param="models" if isinstance(error, SettingsError) else None)
