"""The seam between a request and whatever computes its raw outputs.

A backend holds some of the models that are served. It takes items, not tokens: whether it renders
them, asks another server or applies a rule is its own affair. A request opens a session at each
backend that its target has models of, and every result is settled on the request's job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from assay.errors import AssayError
    from assay.items import Source, TokenizedItem
    from assay.jobs import Job
    from assay.prompts.models import Model
    from assay.telemetry.metrics import Metrics
    from assay.worker_protocol import Inputs

State = Literal["loading", "ready", "restarting"]


class Capabilities(Protocol):
    """What a model turned out to be once it was loaded."""

    @property
    def architecture(self) -> str:
        """The class of the model."""

    @property
    def device(self) -> str:
        """Where it runs."""

    @property
    def dtype(self) -> str:
        """What it computes in."""

    @property
    def quantized(self) -> str:
        """What its linear layers are rounded to: 'int8', 'fp8' or 'none'."""

    @property
    def forward(self) -> str:
        """How batches run: 'packed', 'padded', or in another way of its own."""

    @property
    def attention(self) -> str:
        """Which attention runs; '' where that isn't known."""

    @property
    def reads(self) -> str:
        """Where an item without read positions is read: 'last', 'first' or 'mean'."""

    @property
    def outputs(self) -> Mapping[str, int]:
        """How many numbers each head gives, by the head's name."""

    @property
    def inputs(self) -> Inputs:
        """Which ids it takes."""

    @property
    def parameters(self) -> int:
        """How many it has; 0 where that isn't known."""

    @property
    def shared_base(self) -> tuple[str, ...]:
        """The models, itself among them, whose adapters lie on one copy of a base; or none."""

    @property
    def budget_tokens(self) -> int:
        """How many tokens a batch has at the most."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know."""


class Session(Protocol):
    """One request at one backend."""

    async def prepare(
        self, models: Sequence[Model], sources: Sequence[Source]
    ) -> list[list[TokenizedItem | AssayError]]:
        """Return what each model reads of each item, a row an item, or why it can't be read."""

    def submit(self, model: Model, item: TokenizedItem, place: int) -> None:
        """Have a prepared item computed; its result is settled at that place."""

    def cancel(self) -> None:
        """Settle nothing more."""


class Backend(Protocol):
    """Computes the raw outputs of its models' items. Its methods are called on one loop."""

    async def run(self) -> None:
        """Load the models and serve until `stop`, or cancelled.

        Raises:
            StartupError: A model can't be served, and never was.
        """

    def stop(self) -> None:
        """Start nothing any more; to be called before `run` is cancelled."""

    def kill(self) -> None:
        """Stop, and finish nothing."""

    def open(self, job: Job) -> Session:
        """Return the session of a request."""

    @property
    def has_loaded(self) -> bool:
        """Whether every model was loaded."""

    @property
    def load_s(self) -> float | None:
        """How long that took; None where it isn't ready now."""

    @property
    def is_refused(self) -> bool:
        """Whether what it served can't be loaded again."""

    def state(self, model: Model) -> State:
        """Return whether a model can be scored."""

    def reasons(self, *, in_full: bool) -> list[str]:
        """Return why it isn't ready; empty when it is. In full they name files and addresses."""

    def left_s(self, usual_s: float, now: float) -> float | None:
        """Return in how many seconds it should be ready, below 0 if overdue; None when it is.

        `usual_s` is how long a start takes where it doesn't know better, `now` the monotonic clock.
        """

    def loaded(self, model: Model) -> Capabilities | None:
        """Return what a model is, once it was loaded."""

    def depth(self, model: Model) -> tuple[int, int]:
        """Return how many items and tokens wait for a model."""

    def rate(self, *, is_timed: bool) -> float:
        """Return the tokens a second that it does: as callers' batches were timed, or an estimate.

        0 where that isn't known.
        """

    def fail_all(self, error: AssayError) -> None:
        """Answer everything that waits with an error."""

    def observe(self, metrics: Metrics) -> None:
        """State in the metrics how it is."""
