"""One scoring request on its way through: options applied, items judged, numbers counted."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assay import wire
from assay.errors import InvalidField
from assay.items import Cutting, Ids
from assay.reward import composite, ensemble, selection, transform
from assay.scoring import (
    calibrated,
    garbage,
    interpretation,
    items,
    pairwise,
    reward_metrics,
    validation,
)
from assay.scoring.interpretation import ScoreOptions, TargetScore
from assay.scoring.scorer_call import ScorerCall
from assay.scoring.target_union import TargetUnion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from assay.errors import AssayError
    from assay.items import Source, TemplateInputs
    from assay.scoring.driver import Handler
    from assay.scoring.items import Path
    from assay.scoring.results import RawResult, RequestResult
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import Target

_NOTHING = TargetScore(())


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """One item with what the target made of it, or why it made nothing of it."""

    error: AssayError | None
    verdict: TargetScore = _NOTHING
    scored: RawResult | None = None
    raw: TargetScore | None = None  # without length control, where that is asked for

    @property
    def rewards(self) -> tuple[float, ...]:
        """The rewards, one for each member of an ensemble, else one; none read at all tokens."""
        return self.verdict.rewards

    @property
    def reward(self) -> float:
        """The reported reward: of an ensemble by its rule. Not of one that has none."""
        return self.verdict.reward

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
        self._scoring = ScorerCall(
            scorer,
            TargetUnion.of([target]),
            options,
            route,
            caller,
            cutting_of(options, cutting),
            is_native,
        )
        validation.check(self.target, options)
        self.calibrated = calibrated.of(self.target, options)
        own = target.combination
        self.rule: selection.Rule = options.rule or own.rule
        self.penalty = own.penalty if options.rule in (None, own.rule) else None
        if options.penalty is not None:
            self.penalty = options.penalty
        self._wish = ScoreOptions(
            options.aggregate,
            options.threshold,
            options.attributes,
            options.normalize,
            None if self.rule == "vote" else self.rule,
            self.penalty,
        )

    def run(
        self, sources: list[Source], path: Path
    ) -> Handler[tuple[RequestResult, list[ScoredItem]]]:
        """Score the items; raise the first bad one's error where the caller wants that."""
        outcome = yield from self._scoring.score(sources, path)
        judged = self.judged(sources, outcome)
        garbage.note([outcome.items, judged])
        return outcome, judged

    def run_groups(
        self,
        groups: Sequence[pairwise.Group],
        field: str,
        entries: Sequence[wire.TemplateInputs] = (),
        inputs: Sequence[TemplateInputs] = (),
    ) -> Handler[tuple[RequestResult, list[list[ScoredItem]]]]:
        """Score the responses of each group; `entries` and `inputs` as in `contest`."""
        beside = inputs or items.each_inputs(self.options, entries or [self.options] * len(groups))
        sources = items.sources(groups, beside)
        outcome, judged = yield from self.run(sources, items.paths(field, groups, entries))
        remaining = iter(judged)
        return outcome, [[next(remaining) for _ in responses] for _, responses in groups]

    def judged(self, sources: Sequence[Source], outcome: RequestResult) -> list[ScoredItem]:
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
        combined = None if verdict.combined is None else verdict.combined + offset
        return replace(
            item,
            verdict=replace(verdict, rewards=rewards, members=members, combined=combined),
            raw=verdict,
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
        if self.target.orders:
            return (yield from self._ordered(groups, field, entries, inputs))
        overrides = entries or [self.options] * len(groups)
        beside = inputs or items.each_inputs(self.options, overrides)
        rounds = [
            pairwise.Round(self.target.card, *group, group_inputs)
            for group, group_inputs in zip(groups, beside, strict=True)
        ]
        for index, comparison in enumerate(rounds):
            if self._scoring.fails_whole and comparison.error is not None:
                raise _located(comparison.error, f"{field}[{index}].{comparison.error.param}")
        sources = [source for comparison in rounds for source in comparison.sources]
        owners = [index for index, comparison in enumerate(rounds) for _ in comparison.sources]

        def path(place: int, param: str | None) -> str:
            owner = owners[place]
            where, entry = f"{field}[{owner}]", overrides[owner] if entries else None
            return items.beside(where, entry, param, groups[owner][0]) or where

        outcome = yield from self._scoring.score(sources, path)
        remaining = iter(outcome.items)
        sizes = self._scorer.served.sizes(self.target)[0]
        matrices = [
            comparison.matrix([next(remaining) for _ in comparison.sources], sizes)
            for comparison in rounds
        ]
        self._count(outcome, [])
        return outcome, matrices

    def _ordered(
        self,
        groups: Sequence[pairwise.Group],
        field: str,
        entries: Sequence[wire.TemplateInputs],
        inputs: Sequence[TemplateInputs],
    ) -> Handler[tuple[RequestResult, list[pairwise.Matrix | AssayError]]]:
        """Let a target order each group's responses by their parts."""
        for index, (_, responses) in enumerate(groups):
            if len(responses) > wire.MOST_COMPARED:
                raise InvalidField(
                    f"at most {wire.MOST_COMPARED} responses can be compared with each other",
                    param=f"{field}[{index}].responses",
                )
        outcome, parts = yield from self.run_groups(groups, field, entries, inputs)
        return outcome, [
            next((item.error for item in part if item.error is not None), None)
            or composite.preferences(self.ranks(part))
            for part in parts
        ]

    def ranks(self, responses: Sequence[ScoredItem]) -> list[int]:
        """Return how many of a group stand before each response, by a target that orders them."""
        return interpretation.ranks(self.target, [item.verdict for item in responses])

    def _judge(
        self, source: Source, scored: RawResult, sizes: Sequence[Mapping[str, int]]
    ) -> ScoredItem:
        if scored.numbers is None:
            return ScoredItem(scored.error and self._scoring.advised(scored.error), scored=scored)
        target_score = interpretation.interpret(self.target, scored.numbers, sizes, self._wish)
        if isinstance(source, Ids) and source.reads_all:  # which are steps isn't known here
            target_score = TargetScore((), steps=target_score.steps)
        return ScoredItem(None, target_score, scored)

    def shown(self, reward: float) -> float:
        """Return a reward as the caller wants to see it."""
        return transform.sigmoid(reward) if self.options.activation == "sigmoid" else reward

    def envelope(self, outcome: RequestResult, request_id: str) -> dict[str, object]:
        """Return what every answer has around its data."""
        return {
            **envelope(self.target.name, self.target.revision, outcome, request_id),
            "calibration": self.calibrated.id,
            "calibrations": self.target.calibrations or None,
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
            items=sum(item.numbers is not None for item in outcome.items),
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


def envelope(
    name: str, revision: str, outcome: RequestResult, request_id: str
) -> dict[str, object]:
    """Return what every answer has around its data."""
    timings = outcome.timings
    return {
        "id": request_id,
        "created": int(time.time()),
        "model": name,
        "revision": revision,
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


def cutting_of(options: wire.Options, cutting: Cutting | None = None) -> Cutting:
    """Return what may be cut of an item: as said, else by the request's options."""
    return replace(cutting or Cutting(options.truncation), special_tokens=options.special_tokens)


def _located(error: AssayError, path: str) -> AssayError:
    """Return the error with the path of what it is about."""
    return type(error)(error.message, param=path, retry_after_s=error.retry_after_s)
