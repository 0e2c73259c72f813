"""One scoring request on its way through: options applied, items judged, numbers counted."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assay import wire
from assay.errors import BodyTooLarge, DeadlineExceeded, ServiceError
from assay.items import Cutting, Ids
from assay.reward import ensemble, transform
from assay.scoring import (
    calibrated,
    garbage,
    interpretation,
    items,
    pairwise,
    reward_metrics,
    validation,
)
from assay.scoring.driver import awaited
from assay.scoring.interpretation import ScoreOptions, TargetScore
from assay.telemetry import tracing
from assay.telemetry.metrics import CLIENT_GONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from assay.errors import AssayError
    from assay.items import Source, TemplateInputs
    from assay.scoring.driver import Handler
    from assay.scoring.items import Path
    from assay.scoring.scorer import RawResult, RequestResult, Scorer
    from assay.scoring.targets import Target

_NOTHING = TargetScore(())


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """One item with what the target made of it, or why it made nothing of it."""

    error: AssayError | None
    verdict: TargetScore = _NOTHING
    scored: RawResult | None = None
    raw: float | None = None  # the mean reward before length control, where that is asked for

    @property
    def rewards(self) -> tuple[float, ...]:
        """The rewards, one for each member of an ensemble, else one; none read at all tokens."""
        return self.verdict.rewards

    @property
    def n_tokens(self) -> int:
        """Tokens as the first member reads them."""
        return len(self.scored.ids) if self.scored else 0

    @property
    def truncated(self) -> bool:
        """Whether anything of it was cut."""
        return self.scored is not None and self.scored.truncated


class Call:
    """A request to one target; refused where its options mean nothing to the target."""

    def __init__(
        self,
        scorer: Scorer,
        target: Target,
        options: wire.Options,
        route: str,
        *,
        caller: str = "",
        cutting: Cutting | None = None,
        is_native: bool = True,
    ) -> None:
        self.target = target
        self.options = options
        self.only_compares = self.target.only_compares
        self._scorer = scorer
        self._route = route
        self._caller = caller
        self._cutting = replace(
            cutting or Cutting(options.truncation), special_tokens=options.special_tokens
        )
        self._is_native = is_native
        self._wish = ScoreOptions(
            options.aggregate, options.threshold, options.attributes, options.normalize
        )
        validation.check(self.target, options)
        self.calibrated = calibrated.of(self.target, options)

    def run(
        self, sources: list[Source], path: Path
    ) -> Handler[tuple[RequestResult, list[ScoredItem]]]:
        """Score the items; raise the first bad one's error where the caller wants that."""
        outcome = yield from self._score(sources, path)
        judged = self._judged(sources, outcome)
        garbage.note([outcome.items, judged])
        return outcome, judged

    def _judged(self, sources: Sequence[Source], outcome: RequestResult) -> list[ScoredItem]:
        """Return what the target made of each item, and count it."""
        sizes = self._scorer.served.sizes(self.target)
        judged = [
            self._judge(source, item, sizes)
            for source, item in zip(sources, outcome.items, strict=True)
        ]
        self._count(outcome, judged)
        self._observe(sources, judged)
        return [*map(self._controlled, sources, judged)] if self.calibrated.length else judged

    def _controlled(self, source: Source, item: ScoredItem) -> ScoredItem:
        """Return an item's rewards less what is expected of a response of its length."""
        verdict, length = item.verdict, self.calibrated.length
        if length is None or not verdict.rewards:
            return item
        offset = length.offset(calibrated.response_of(source))
        rewards = tuple(reward + offset for reward in verdict.rewards)
        members = rewards if self.target.is_ensemble else verdict.members
        return replace(
            item,
            verdict=replace(verdict, rewards=rewards, members=members),
            raw=ensemble.mean(verdict.rewards),
        )

    def contest(
        self,
        groups: Sequence[pairwise.Group],
        field: str,
        entries: Sequence[wire.TemplateInputs] = (),
        inputs: Sequence[TemplateInputs] = (),
    ) -> Handler[tuple[RequestResult, list[pairwise.Matrix | AssayError]]]:
        """Let each group's responses meet; return P(i ≻ j) for each group.

        `entries` are the groups as they came, which may have tools and the like of their own;
        foreign contracts give these as `inputs`.
        """
        overrides = entries or [self.options] * len(groups)
        beside = inputs or items.each_inputs(self.options, overrides)
        rounds = [
            pairwise.Round(self.target.card, *group, group_inputs)
            for group, group_inputs in zip(groups, beside, strict=True)
        ]
        for index, comparison in enumerate(rounds):
            if self._fails_whole and comparison.error is not None:
                raise _located(comparison.error, f"{field}[{index}].{comparison.error.param}")
        sources = [source for comparison in rounds for source in comparison.sources]
        owners = [index for index, comparison in enumerate(rounds) for _ in comparison.sources]

        def path(place: int, param: str | None) -> str:
            owner = owners[place]
            where, entry = f"{field}[{owner}]", overrides[owner] if entries else None
            return items.beside(where, entry, param, groups[owner][0]) or where

        outcome = yield from self._score(sources, path)
        remaining = iter(outcome.items)
        sizes = self._scorer.served.sizes(self.target)[0]
        matrices = [
            comparison.matrix([next(remaining) for _ in comparison.sources], sizes)
            for comparison in rounds
        ]
        self._count(outcome, [])
        return outcome, matrices

    @property
    def _fails_whole(self) -> bool:
        return self.options.on_error == "fail"

    def _score(self, sources: list[Source], path: Path) -> Handler[RequestResult]:
        options = self.options
        garbage.note([sources])
        if len(sources) > wire.MOST_ITEMS:
            raise BodyTooLarge(
                f"the request has {len(sources)} items; send at most {wire.MOST_ITEMS} at a time"
            )
        begin = time.monotonic()
        try:
            outcome = yield from awaited(
                lambda: self._scorer.score(
                    self.target,
                    sources,
                    cutting=self._cutting,
                    is_batch=options.priority == "batch",
                    deadline_s=None if options.deadline_ms is None else options.deadline_ms / 1e3,
                    stop_at_error=self._fails_whole,
                    caller=self._caller,
                    salt=options.cache_salt,
                    on_left=lambda timings: tracing.passed(
                        begin, timings, self._named(len(sources)), error=CLIENT_GONE
                    ),
                ),
                items=len(sources),
            )
        except ServiceError as error:
            self._scorer.metrics.shed(self.target.name, error.code, len(sources))
            tracing.refused(begin, error.code)
            raise
        tracing.passed(begin, outcome.timings, self._facts(outcome), error=_failure(outcome))
        late = sum(isinstance(item.error, DeadlineExceeded) for item in outcome.items)
        self._scorer.metrics.shed(self.target.name, DeadlineExceeded.code, late)
        for index, item in enumerate(outcome.items):
            if self._fails_whole and item.error is not None:
                self._fail(outcome, item.error)
                raise _located(self._advised(item.error), path(index, item.error.param))
        return outcome

    def _fail(self, outcome: RequestResult, error: AssayError) -> None:
        """Note how long a request took that the caller can't mend; the others end at once."""
        if isinstance(error, ServiceError):
            self._scorer.metrics.failed(self.target.name, self._route, outcome.timings)

    def _facts(self, outcome: RequestResult) -> dict[str, str | int]:
        """Return what a request's spans say of it."""
        return {
            **self._named(len(outcome.items)),
            "assay.tokens": outcome.tokens,
            "assay.computed_tokens": outcome.computed_tokens,
        }

    def _named(self, items: int) -> dict[str, str | int]:
        return {
            "assay.model": self.target.name,
            "assay.route": self._route,
            "assay.items": items,
        }

    def _judge(
        self, source: Source, scored: RawResult, sizes: Sequence[Mapping[str, int]]
    ) -> ScoredItem:
        if scored.numbers is None:
            return ScoredItem(scored.error and self._advised(scored.error), scored=scored)
        target_score = interpretation.interpret(self.target, scored.numbers, sizes, self._wish)
        if isinstance(source, Ids) and source.reads_all:  # which are steps isn't known here
            target_score = TargetScore((), steps=target_score.steps)
        return ScoredItem(None, target_score, scored)

    def _advised(self, error: AssayError) -> AssayError:
        """Return an error; it advises a field of the native routes on these only."""
        return error.advised() if self._is_native else error

    def shown(self, reward: float) -> float:
        """Return a reward as the caller wants to see it."""
        return transform.sigmoid(reward) if self.options.activation == "sigmoid" else reward

    def envelope(self, outcome: RequestResult, request_id: str) -> dict[str, object]:
        """Return what every answer has around its data."""
        timings = outcome.timings
        return {
            "id": request_id,
            "created": int(time.time()),
            "model": self.target.name,
            "revision": self.target.revision,
            "calibration": self.calibrated.id,
            "usage": wire.Usage(
                tokens=outcome.tokens,
                computed_tokens=outcome.computed_tokens,
                shared_tokens=outcome.tokens - outcome.computed_tokens,
            ),
            "timing_ms": wire.Timing(
                tokenize=round(1e3 * timings.tokenize_s, 3),
                queue=round(1e3 * timings.queue_s, 3),
                compute=round(1e3 * timings.compute_s, 3),
                total=round(1e3 * timings.total_s, 3),
            ),
        }

    def compared(self, margin: float, *, is_undecided: bool) -> None:
        """Count a comparison of two responses by its raw mean margin."""
        if self.target.calibration is not None:
            self._scorer.metrics.compared(self.target.name, margin, is_undecided=is_undecided)

    def _count(self, outcome: RequestResult, judged: Sequence[ScoredItem]) -> None:
        metrics, name = self._scorer.metrics, self.target.name
        rewards = [item.rewards for item in judged if item.rewards]
        metrics.scores(
            name,
            [ensemble.mean(item_rewards) for item_rewards in rewards],
            [ensemble.std(item_rewards) for item_rewards in rewards]
            if self.target.is_ensemble
            else [],
        )
        metrics.answered(
            name,
            self._route,
            outcome.timings,
            items=sum(item.error is None for item in outcome.items),
            tokens=outcome.tokens,
            cuts=Counter(item.cut for item in outcome.items if item.cut is not None),
            unexpected_ends=sum(not item.ends_as_expected for item in outcome.items),
            special_tokens=sum(item.has_mentions for item in outcome.items),
        )

    def _observe(self, sources: Sequence[Source], judged: Sequence[ScoredItem]) -> None:
        """Note how rewards go with lengths, and whether an ensemble's members agree."""
        metrics, name = self._scorer.metrics, self.target.name
        rewards = [item.rewards for item in judged]
        means = [ensemble.mean(item_rewards) if item_rewards else 0.0 for item_rewards in rewards]
        pairs: dict[reward_metrics.Length, list[tuple[float, float]]] = {}
        for source, item_rewards, mean in zip(sources, rewards, means, strict=True):
            if item_rewards:
                kind, size = reward_metrics.length(source)
                pairs.setdefault(kind, []).append((size, mean))
        for kind, observations in pairs.items():
            metrics.lengths(name, kind, observations)
        if self.target.is_ensemble:
            metrics.agreements(name, reward_metrics.agreements(sources, rewards, means))


def _failure(outcome: RequestResult) -> str | None:
    """Return the code of the first error that is the service's own."""
    errors = (item.error for item in outcome.items)
    return next((error.code for error in errors if isinstance(error, ServiceError)), None)


def _located(error: AssayError, path: str) -> AssayError:
    """Return the error with the path of what it is about."""
    return type(error)(error.message, param=path, retry_after_s=error.retry_after_s)
