"""A request's one call of the scorer: counted where it is refused, the first bad item raised."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay import wire
from assay.errors import BodyTooLarge, DeadlineExceeded, ServiceError
from assay.scoring import garbage
from assay.scoring.driver import awaited
from assay.telemetry import tracing
from assay.telemetry.metrics import CLIENT_GONE

if TYPE_CHECKING:
    from assay.errors import AssayError
    from assay.items import Cutting, Source
    from assay.scoring.driver import Handler
    from assay.scoring.items import Path
    from assay.scoring.results import RequestResult
    from assay.scoring.scorer import Scorer
    from assay.scoring.target_union import TargetUnion
    from assay.scoring.targets import Target


@dataclass(frozen=True, slots=True)
class ScorerCall:
    """Who is asked, by whom, and how; `is_native` errors advise fields of the native routes."""

    scorer: Scorer
    union: TargetUnion
    options: wire.Options
    route: str
    caller: str
    cutting: Cutting
    is_native: bool = True

    @property
    def fails_whole(self) -> bool:
        """Whether one bad item fails the request."""
        return self.options.on_error == "fail"

    def score(self, sources: list[Source], path: Path) -> Handler[RequestResult]:
        """Score the items; raise the first bad one's error where the caller wants that.

        Raises:
            BodyTooLarge: There are more than a request may have, over all of its targets.
        """
        options, union = self.options, self.union
        garbage.note([sources])
        if len(sources) * len(union.targets) > wire.MOST_ITEMS:
            several = f" for each of {len(union.targets)} targets" if len(union.targets) > 1 else ""
            most = wire.MOST_ITEMS // len(union.targets)
            raise BodyTooLarge(
                f"the request has {len(sources)} items{several}; send at most {most} at a time"
            )
        begin = time.monotonic()
        try:
            outcome = yield from awaited(
                lambda: self.scorer.score(
                    union,
                    sources,
                    cutting=self.cutting,
                    is_batch=options.priority == "batch",
                    deadline_s=None if options.deadline_ms is None else options.deadline_ms / 1e3,
                    stop_at_error=self.fails_whole,
                    caller=self.caller,
                    salt=options.cache_salt,
                    on_left=lambda timings: tracing.passed(
                        begin, timings, self._named(len(sources)), error=CLIENT_GONE
                    ),
                ),
                items=len(sources) * len(union.targets),
            )
        except ServiceError as error:
            self._shed(error.code, [len(sources)] * len(union.targets))
            tracing.refused(begin, error.code)
            raise
        facts = {
            **self._named(len(outcome.items)),
            "assay.tokens": outcome.tokens,
            "assay.computed_tokens": outcome.computed_tokens,
        }
        tracing.passed(begin, outcome.timings, facts, error=_failure(outcome))
        late = [
            sum(isinstance(item.error, DeadlineExceeded) for item in items)
            for items in outcome.by_target
        ]
        self._shed(DeadlineExceeded.code, late)
        if self.fails_whole:
            self._raise_first(outcome, path)
        return outcome

    def advised(self, error: AssayError) -> AssayError:
        """Return an error; it advises a field of the native routes on these only."""
        return error.advised() if self.is_native else error

    def _raise_first(self, outcome: RequestResult, path: Path) -> None:
        """Raise the error of the first item that a required target can't score."""
        required = [
            (target, items)
            for target, is_required, items in zip(
                self.union.targets, self.union.required, outcome.by_target, strict=True
            )
            if is_required
        ]
        for index, row in enumerate(zip(*(items for _, items in required), strict=True)):
            for (target, _), item in zip(required, row, strict=True):
                if item.error is not None:
                    self._fail(outcome, item.error)
                    raise self._located(item.error, target, path(index, item.error.param))

    def _fail(self, outcome: RequestResult, error: AssayError) -> None:
        """Note how long a request took that the caller can't mend; the others end at once."""
        if isinstance(error, ServiceError):
            for target in self.union.targets:
                self.scorer.metrics.failed(target.name, self.route, outcome.timings)

    def _located(self, error: AssayError, target: Target, path: str) -> AssayError:
        """Return an error with the path of what it is about, and of several the target."""
        said = self.advised(error)
        message = (
            f"'{target.name}': {said.message}" if len(self.union.targets) > 1 else said.message
        )
        return type(said)(message, param=path, retry_after_s=said.retry_after_s)

    def _shed(self, code: str, counts: list[int]) -> None:
        for target, count in zip(self.union.targets, counts, strict=True):
            self.scorer.metrics.shed(target.name, code, count)

    def _named(self, items: int) -> dict[str, str | int]:
        return {
            "assay.model": self.union.name,
            "assay.route": self.route,
            "assay.items": items,
        }


def _failure(outcome: RequestResult) -> str | None:
    """Return the code of the first error that is the service's own."""
    errors = (item.error for items in outcome.by_target for item in items)
    return next((error.code for error in errors if isinstance(error, ServiceError)), None)
