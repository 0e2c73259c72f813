"""A backend without a model: a function of the item. For tests of all that is around a backend."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np

from assay.backends.remote import RemoteCapabilities
from assay.errors import AssayError
from assay.items import Ids, TokenizedItem, characters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.backends.backend import State
    from assay.items import Source
    from assay.jobs import Job
    from assay.prompts.models import Model
    from assay.telemetry.metrics import Metrics


class FakeSession:
    """One request; an item is computed in the loop's next iteration."""

    def __init__(self, job: Job, score: Callable[[TokenizedItem], float | AssayError]) -> None:
        self._job = job
        self._score = score
        self._is_cancelled = False

    async def prepare(
        self, models: Sequence[Model], sources: Sequence[Source]
    ) -> list[list[TokenizedItem | AssayError]]:
        """Read an item as its ids, or as so many tokens as it has characters."""
        return [[_read(source)] * len(models) for source in sources]

    def submit(self, model: Model, item: TokenizedItem, place: int) -> None:
        """Settle an item soon."""
        del model
        asyncio.get_running_loop().call_soon(self._settle, item, place)

    def cancel(self) -> None:
        """Settle nothing more."""
        self._is_cancelled = True

    def _settle(self, item: TokenizedItem, place: int) -> None:
        if self._is_cancelled:
            return
        usage = self._job.usage
        usage.began_at = min(usage.began_at, time.monotonic())
        usage.tokens += len(item.ids)
        usage.computed_tokens += len(item.ids)
        result = self._score(item)
        if not isinstance(result, AssayError):
            self._job.settle(place, np.array([[result]], np.float64))
            return
        self._job.settle(place, result)


class FakeBackend:
    """Any models, each item's score by one function; ready as soon as it runs."""

    def __init__(
        self,
        models: Sequence[Model],
        score: Callable[[TokenizedItem], float | AssayError],
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.now: State = "loading"
        self._models = models
        self._score = score
        self._on_change = on_change
        self._is_stopped = asyncio.Event()

    async def run(self) -> None:
        """Be ready until stopped."""
        self.be("ready")
        await self._is_stopped.wait()

    def be(self, state: State) -> None:
        """Change the state."""
        self.now = state
        self._on_change()

    def stop(self) -> None:
        """Let `run` return."""
        self._is_stopped.set()

    kill = stop

    def open(self, job: Job) -> FakeSession:
        """Return the session of a request."""
        return FakeSession(job, self._score)

    @property
    def has_loaded(self) -> bool:
        """Whether it runs."""
        return self.now != "loading"

    @property
    def load_s(self) -> float | None:
        """No time at all; None where it isn't ready."""
        return 0.0 if self.now == "ready" else None

    @property
    def is_refused(self) -> bool:
        """Never."""
        return False

    def state(self, model: Model) -> State:
        """Return what it was told to be."""
        del model
        return self.now

    def reasons(self, *, in_full: bool) -> list[str]:
        """Return why it isn't ready."""
        del in_full
        return [] if self.now == "ready" else [f"the fake backend is {self.now}"]

    def left_s(self, usual_s: float, now: float) -> float | None:
        """Return how long a start usually takes; None where it is ready."""
        del now
        return None if self.now == "ready" else usual_s

    def loaded(self, model: Model) -> RemoteCapabilities | None:
        """Return that it gives one number an item."""
        if not self.has_loaded:
            return None
        return RemoteCapabilities("fake", "fake", model.facts.inputs, {"reward": 1})

    def depth(self, model: Model) -> tuple[int, int]:
        """Return that nothing waits."""
        del model
        return 0, 0

    def rate(self, *, is_timed: bool) -> float:
        """Return that it isn't known."""
        del is_timed
        return 0.0

    def fail_all(self, error: AssayError) -> None:
        """Do nothing: nothing waits."""

    def observe(self, metrics: Metrics) -> None:
        """State that it is ready, or not."""
        metrics.worker(
            "fake",
            [model.name for model in self._models],
            is_ready=self.now == "ready",
            resident_bytes=None,
            device_bytes=None,
        )


def _read(source: Source) -> TokenizedItem:
    ids = source.ids if isinstance(source, Ids) else range(characters(source))
    return TokenizedItem(np.asarray(ids, np.int32), None)
