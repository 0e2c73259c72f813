"""Native requests to native answers: what the members' rewards mean for the caller's question."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from assay import wire
from assay.errors import AssayError, InvalidField
from assay.reward import ensemble, preference, selection, transform
from assay.scoring import items as given
from assay.scoring.aside import aside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.engine.template import Source
    from assay.scoring.scorer import Outcome, Scored, Scorer
    from assay.scoring.targets import Target

_NEEDS_MEMBERS = ("lower_bound", "variance_penalty")


async def score(scorer: Scorer, request: wire.ScoreRequest, request_id: str) -> wire.ScoreAnswer:
    """Answer `POST /score`."""
    target = scorer.target(request.model)
    items = request.items()
    call = _Call(scorer, target, request, "score")
    sources = await aside(len(items), lambda: [given.source(item) for item in items])
    outcome = await call.run(sources, lambda i: f"inputs[{i}]")
    data = await aside(
        len(items),
        lambda: [
            call.entry(index, item, scored)
            for index, (item, scored) in enumerate(zip(items, outcome.items, strict=True))
        ],
    )
    return wire.ScoreAnswer(data=data, **call.envelope(outcome, request_id))


async def compare(
    scorer: Scorer, request: wire.CompareRequest, request_id: str
) -> wire.CompareAnswer:
    """Answer `POST /compare`."""
    target = scorer.target(request.model)
    comparisons = request.all()
    call = _Call(scorer, target, request, "compare")
    groups = [(one.prompt, one.candidates()) for one in comparisons]
    size = sum(len(responses) for _, responses in groups)
    sources = await aside(size, lambda: given.sources(groups))
    outcome = await call.run(sources, given.paths("comparisons", groups))
    parts = _split(outcome.items, [len(responses) for _, responses in groups])
    data = await aside(
        size,
        lambda: [
            _comparison(call, request, index, one.id, part)
            for index, (one, part) in enumerate(zip(comparisons, parts, strict=True))
        ],
    )
    return wire.CompareAnswer(data=data, **call.envelope(outcome, request_id))


async def best_of_n(
    scorer: Scorer, request: wire.BestOfNRequest, request_id: str
) -> wire.BestOfNAnswer:
    """Answer `POST /best-of-n`."""
    target = scorer.target(request.model)
    if request.rule in _NEEDS_MEMBERS and not target.is_ensemble:
        raise InvalidField(
            f"rule '{request.rule}' needs an ensemble's spread and '{target.name}' is one model; "
            "use 'mean', or serve an ensemble",
            param="rule",
        )
    groups = request.all()
    call = _Call(scorer, target, request, "best-of-n")
    pairs = [(group.prompt, group.responses) for group in groups]
    size = sum(len(responses) for _, responses in pairs)
    sources = await aside(size, lambda: given.sources(pairs))
    outcome = await call.run(sources, given.paths("groups", pairs))
    parts = _split(outcome.items, [len(responses) for _, responses in pairs])
    data = await aside(
        size,
        lambda: [
            _best(call, request, index, group, part)
            for index, (group, part) in enumerate(zip(groups, parts, strict=True))
        ],
    )
    return wire.BestOfNAnswer(data=data, **call.envelope(outcome, request_id))


class _Call:
    """One scoring request on its way through: options applied, numbers counted."""

    def __init__(self, scorer: Scorer, target: Target, options: wire.Options, route: str) -> None:
        if options.normalize and target.card.statistics is None:
            raise InvalidField(
                f"'{target.name}' has no stored mean and std; leave 'normalize' out, or add "
                "[statistics] to its card",
                param="normalize",
            )
        self.target = target
        self.options = options
        self._scorer = scorer
        self._route = route

    async def run(self, sources: list[Source], path: Callable[[int], str]) -> Outcome:
        """Score the items; raise the first bad one's error where the caller wants that."""
        options = self.options
        fails = options.on_error == "fail"
        outcome = await self._scorer.score(
            self.target,
            sources,
            truncation=options.truncation,
            is_batch=options.priority == "batch",
            deadline_s=None if options.deadline_ms is None else options.deadline_ms / 1e3,
            stop_at_error=fails,
        )
        for index, item in enumerate(outcome.items):
            if fails and item.error is not None:
                raise _located(item.error, path(index))
        await aside(len(sources), lambda: self._count(outcome))
        return outcome

    def rewards(self, scored: Scored) -> tuple[float, ...]:
        """Return the members' rewards, in units of the card's spread where that was asked."""
        rewards = scored.rewards or ()
        moments = self.target.card.statistics
        if not self.options.normalize or moments is None:
            return rewards
        return tuple(
            transform.standardize(one, mean=moments.mean, std=moments.std) for one in rewards
        )

    def shown(self, reward: float) -> float:
        """Return a reward as the caller wants to see it."""
        return transform.sigmoid(reward) if self.options.activation == "sigmoid" else reward

    def entry(self, index: int, item: wire.Item, scored: Scored) -> wire.ScoreEntry:
        """Return one item's part of the answer."""
        rewards = self.rewards(scored)
        several = self.target.is_ensemble and rewards
        wanted = self.options.include
        return wire.ScoreEntry(
            index=index,
            id=item.id,
            score=self.shown(ensemble.mean(rewards)) if rewards else None,
            uncertainty=_uncertainty(rewards) if several else None,
            members={
                self.target.member_label(model): self.shown(reward)
                for model, reward in zip(self.target.members, rewards, strict=True)
            }
            if several and "members" in wanted
            else None,
            tokens=scored.ids.tolist() if "tokens" in wanted else None,
            n_tokens=len(scored.ids),
            truncated=scored.truncated,
            error=_item_error(scored.error),
        )

    def envelope(self, outcome: Outcome, request_id: str) -> dict[str, object]:
        """Return what every answer has around its data."""
        return {
            "id": request_id,
            "created": int(time.time()),
            "model": self.target.name,
            "revision": self.target.revision,
            "usage": wire.Usage(
                tokens=outcome.tokens,
                computed_tokens=outcome.computed_tokens,
                shared_tokens=outcome.tokens - outcome.computed_tokens,
            ),
            "timing_ms": wire.Timing(
                tokenize=round(1e3 * outcome.tokenize_s, 3),
                queue=round(1e3 * outcome.queue_s, 3),
                compute=round(1e3 * outcome.compute_s, 3),
                total=round(1e3 * outcome.total_s, 3),
            ),
        }

    def _count(self, outcome: Outcome) -> None:
        metrics, name = self._scorer.metrics, self.target.name
        rewards = [item.rewards for item in outcome.items if item.rewards]
        metrics.scores(
            name,
            [ensemble.mean(one) for one in rewards],
            [ensemble.std(one) for one in rewards] if self.target.is_ensemble else [],
        )
        metrics.answered(
            name,
            self._route,
            tokenize_s=outcome.tokenize_s,
            queue_s=outcome.queue_s,
            compute_s=outcome.compute_s,
            total_s=outcome.total_s,
            items=len(rewards),
            tokens=outcome.tokens,
            truncated=sum(item.truncated for item in outcome.items),
        )


def _comparison(
    call: _Call,
    request: wire.CompareRequest,
    index: int,
    name: str | None,
    items: Sequence[Scored],
) -> wire.CompareEntry:
    if error := _first_error(items):
        return wire.CompareEntry(index=index, id=name, error=error)
    rewards = _by_member(call, items)
    outcome = preference.compare(
        rewards, temperature=request.temperature, tie_margin=request.tie_margin
    )
    several = len(items) > 2
    return wire.CompareEntry(
        index=index,
        id=name,
        scores=[call.shown(ensemble.mean(call.rewards(item))) for item in items],
        margin=outcome.margin,
        margin_std=outcome.margin_std,
        probability=outcome.probability,
        agreement=outcome.agreement,
        winner=outcome.winner,
        undecided=outcome.undecided,
        ranking=outcome.ranking if several else None,
        probabilities=outcome.probabilities if several else None,
        n_tokens=[len(item.ids) for item in items],
        truncated=[item.truncated for item in items],
    )


def _best(
    call: _Call,
    request: wire.BestOfNRequest,
    index: int,
    group: wire.Group,
    items: Sequence[Scored],
) -> wire.BestOfNEntry:
    n = len(items)
    if error := _first_error(items):
        return wire.BestOfNEntry(index=index, id=group.id, n=n, error=error)
    chosen = selection.select(_by_member(call, items), rule=request.rule, penalty=request.penalty)
    top = [
        wire.Candidate(
            index=i,
            response=group.responses[i],
            score=call.shown(chosen.scores[i]),
            selection_score=chosen.selection_scores[i],
        )
        for i in chosen.ranking[: request.top_k]
        if request.min_score is None or chosen.scores[i] >= request.min_score
    ]
    return wire.BestOfNEntry(
        index=index,
        id=group.id,
        best=top[0] if top else None,
        top=top,
        ranking=[
            wire.Ranked(
                index=i,
                score=call.shown(chosen.scores[i]),
                std=chosen.stds[i] if chosen.stds else None,
                selection_score=chosen.selection_scores[i],
            )
            for i in chosen.ranking
        ],
        n=n,
        kl=selection.kl_bound(n),
        expected_best=selection.expected_best([chosen.scores[i] for i in chosen.ranking]),
        confidence=chosen.confidence,
        ties=chosen.ties,
        truncated=[item.truncated for item in items],
    )


def _split(items: Sequence[Scored], sizes: Sequence[int]) -> list[list[Scored]]:
    remaining = iter(items)
    return [[next(remaining) for _ in range(size)] for size in sizes]


def _by_member(call: _Call, items: Sequence[Scored]) -> list[list[float]]:
    """Return one row of rewards a member."""
    return [list(row) for row in zip(*(call.rewards(item) for item in items), strict=True)]


def _uncertainty(rewards: Sequence[float]) -> wire.Uncertainty:
    return wire.Uncertainty(
        std=ensemble.std(rewards), variance=ensemble.variance(rewards), members=len(rewards)
    )


def _first_error(items: Sequence[Scored]) -> wire.ItemError | None:
    return next((_item_error(item.error) for item in items if item.error), None)


def _item_error(error: AssayError | None) -> wire.ItemError | None:
    return wire.ItemError(code=error.code, message=error.message) if error else None


def _located(error: AssayError, path: str) -> AssayError:
    """Return the error with the path of the item it is about."""
    where = f"{path}.{error.param}" if error.param else path
    return type(error)(error.message, param=where, retry_after_s=error.retry_after_s)
