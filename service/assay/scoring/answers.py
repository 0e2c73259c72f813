"""Native requests to native answers: what the members' rewards mean for the caller's question."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from assay import wire
from assay.errors import AssayError
from assay.reward import composite, ensemble, preference, selection, tournament
from assay.scoring import garbage
from assay.scoring import items as scoring_items
from assay.scoring.call import ScoredItem
from assay.scoring.driver import sized
from assay.scoring.interpretation import TargetScore
from assay.scoring.multi_call import MultiCall

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from assay.scoring import pairwise
    from assay.scoring.call import Call
    from assay.scoring.driver import Handler


AnswerT = TypeVar("AnswerT", wire.ScoreAnswer, wire.CompareAnswer, wire.BestOfNAnswer)


@dataclass(frozen=True, slots=True)
class EntryByEntry(Generic[AnswerT]):
    """An answer whose entries are made as they are read: all at once take much memory."""

    bare: AnswerT  # without its data
    entries: Iterator[wire.Entry]

    def whole(self) -> AnswerT:
        """Return the answer with all of its entries; they can be read once."""
        return self.bare.model_copy(update={"data": list(self.entries)})


def score(
    call: Call | MultiCall, request: wire.ScoreRequest, request_id: str
) -> Handler[EntryByEntry[wire.ScoreAnswer]]:
    """Answer `POST /score`. The request has no items afterwards.

    They would wait beside what is made of them, which takes a tenth of their memory.
    """
    items = request.items()
    yield from sized(len(items))
    ids, origins = [item.id for item in items], [scoring_items.origin(item) for item in items]
    sources = scoring_items.sources_of(items, request)
    garbage.empty([items])

    def path(place: int, param: str | None) -> str:
        return scoring_items.item_path(origins[place], place, param)

    entries: Iterator[wire.ScoreEntry]
    if isinstance(call, MultiCall):
        outcome, rows = yield from call.run(sources, path)
        entries = (
            _rewards(call, index, item_id, row)
            for index, (item_id, row) in enumerate(zip(ids, rows, strict=True))
        )
    else:
        outcome, judged = yield from call.run(sources, path)
        entries = (
            _entry(call, index, item_id, item)
            for index, (item_id, item) in enumerate(zip(ids, judged, strict=True))
        )
    return EntryByEntry(wire.ScoreAnswer(data=[], **call.envelope(outcome, request_id)), entries)


def compare(
    call: Call, request: wire.CompareRequest, request_id: str
) -> Handler[EntryByEntry[wire.CompareAnswer]]:
    """Answer `POST /compare`."""
    comparisons = request.all()
    groups = [(comparison.prompt, comparison.candidates()) for comparison in comparisons]
    yield from sized(_size(groups))
    entries: Iterator[wire.CompareEntry]
    if call.target.orders:
        outcome, parts = yield from call.run_groups(groups, "comparisons", comparisons)
        yield from sized(sum(len(part) ** 2 for part in parts))
        entries = (
            _ordered(call, request, index, comparison.id, part)
            for index, (comparison, part) in enumerate(zip(comparisons, parts, strict=True))
        )
    elif call.only_compares:
        outcome, matrices = yield from call.contest(groups, "comparisons", comparisons)
        yield from sized(_size(groups))
        entries = (
            _contest(request, index, comparison.id, matrix)
            for index, (comparison, matrix) in enumerate(zip(comparisons, matrices, strict=True))
        )
    else:
        outcome, parts = yield from call.run_groups(groups, "comparisons", comparisons)
        entries = (
            _comparison(call, request, index, comparison.id, part)
            for index, (comparison, part) in enumerate(zip(comparisons, parts, strict=True))
        )
    bare = wire.CompareAnswer(data=[], **call.envelope(outcome, request_id))
    return EntryByEntry(bare, entries)


def best_of_n(
    call: Call, request: wire.BestOfNRequest, request_id: str
) -> Handler[EntryByEntry[wire.BestOfNAnswer]]:
    """Answer `POST /best-of-n`."""
    requested = request.all()
    groups = [(group.prompt, group.candidates()) for group in requested]
    yield from sized(_size(groups))
    if call.target.orders:
        outcome, parts = yield from call.run_groups(groups, "groups", requested)
        yield from sized(_size(groups))
        parts = [_placed(call, part) for part in parts]
    elif call.only_compares:
        outcome, matrices = yield from call.contest(groups, "groups", requested)
        yield from sized(_size(groups))
        parts = [
            _winners(matrix, len(responses))
            for matrix, (_, responses) in zip(matrices, groups, strict=True)
        ]
    else:
        outcome, parts = yield from call.run_groups(groups, "groups", requested)
    return EntryByEntry(
        wire.BestOfNAnswer(data=[], **call.envelope(outcome, request_id)),
        (
            _best(call, request, index, group, part)
            for index, (group, part) in enumerate(zip(requested, parts, strict=True))
        ),
    )


def _size(groups: Sequence[pairwise.Group]) -> int:
    return sum(len(responses) for _, responses in groups)


def _entry(call: Call, index: int, item_id: str | None, judged: ScoredItem) -> wire.ScoreEntry:
    """Return one item's part of the answer."""
    return wire.ScoreEntry(index=index, id=item_id, **_reward(call, judged))


def _rewards(
    call: MultiCall, index: int, item_id: str | None, row: Sequence[ScoredItem]
) -> wire.ScoreEntry:
    """Return one item's part of the answer of several targets."""
    fields: dict[str, Any] = {
        "score": None,
        "n_tokens": row[0].n_tokens,
        "truncated": any(judged.truncated for judged in row),
    }
    for target, is_required, judged in zip(
        call.union.targets, call.union.required, row, strict=True
    ):
        if is_required and judged.error is not None:
            error = _item_error(judged.error, target.name)
            return wire.ScoreEntry(index=index, id=item_id, error=error, **fields)
    if call.lead is not None:
        fields = _reward(call.calls[call.lead], row[call.lead])
    answered = zip(call.calls, row, strict=True)
    rewards = {
        name: _refused(call.refused[name])
        if name in call.refused
        else wire.Reward(**_reward(*next(answered)))
        for name in call.names
    }
    return wire.ScoreEntry(index=index, id=item_id, **fields, rewards=rewards)


def _refused(error: AssayError) -> wire.Reward:
    """Return the reward of an optional target that means nothing by the request's options."""
    return wire.Reward(score=None, n_tokens=0, truncated=False, error=_item_error(error))


def _reward(call: Call, judged: ScoredItem) -> dict[str, Any]:
    """Return what the answer says of one target's reward, by field."""
    rewards, verdict = judged.rewards, judged.verdict
    fields = {
        "attributes": dict(verdict.attributes) if verdict.attributes else None,
        "steps": list(verdict.steps) if verdict.steps is not None else None,
        "first_error": verdict.first_error,
        "steps_std": list(verdict.steps_std) if verdict.steps_std is not None else None,
    }
    return {
        "score": call.shown(judged.reward) if rewards else None,
        "raw_score": _raw(call, judged),
        **_calibrated(call, judged),
        "uncertainty": _uncertainty(call, verdict) if rewards else None,
        **fields,
        **_included(call, judged),
        "gated": verdict.gated,
        "n_tokens": judged.n_tokens,
        "truncated": judged.truncated,
        "error": _item_error(judged.error),
    }


def _contest(
    request: wire.CompareRequest,
    index: int,
    name: str | None,
    matrix: pairwise.Matrix | AssayError,
) -> wire.CompareEntry:
    """Return a comparison by a model that only compares.

    Preferences may go in circles: the winner is who wins most, though the second may beat it.
    """
    if isinstance(matrix, AssayError):
        return wire.CompareEntry(index=index, id=name, error=_item_error(matrix))
    scores = tournament.scores(matrix)
    ranking = tournament.ranking(scores)
    first, second = (0, 1) if len(scores) == 2 else ranking[:2]
    probability = matrix[first][second]
    several = len(scores) > 2
    lead = scores[first] - scores[second] if several else probability - 0.5
    tie = abs(lead) <= request.tie_margin
    return wire.CompareEntry(
        index=index,
        id=name,
        scores=scores,
        probability=probability,
        winner=None if tie else first if lead > 0 else second,
        undecided=tie or (several and probability <= 0.5),
        ranking=ranking if several else None,
        probabilities=matrix if several else None,
    )


def _ordered(
    call: Call,
    request: wire.CompareRequest,
    index: int,
    name: str | None,
    items: Sequence[ScoredItem],
) -> wire.CompareEntry:
    """Return a comparison by a target that orders responses by their parts."""
    if error := _first_error(items):
        return wire.CompareEntry(index=index, id=name, error=error)
    entry = _contest(request, index, name, composite.preferences(call.ranks(items)))
    beside: dict[str, Any] = {
        **_listed([_included(call, item) for item in items]),
        "n_tokens": [item.n_tokens for item in items],
        "truncated": [item.truncated for item in items],
    }
    return entry.model_copy(update=beside)


def _placed(call: Call, items: Sequence[ScoredItem]) -> list[ScoredItem]:
    """Return responses by the share of the others that each stands before."""
    if any(item.error for item in items):
        return list(items)
    return [
        replace(item, verdict=replace(item.verdict, rewards=(share,)))
        for item, share in zip(items, composite.shares(call.ranks(items)), strict=True)
    ]


def _winners(matrix: pairwise.Matrix | AssayError, count: int) -> list[ScoredItem]:
    """Return responses by their mean probability of winning."""
    if isinstance(matrix, AssayError):
        return [ScoredItem(matrix)] * count
    return [
        ScoredItem(None, TargetScore((probability,))) for probability in tournament.scores(matrix)
    ]


def _comparison(
    call: Call,
    request: wire.CompareRequest,
    index: int,
    name: str | None,
    items: Sequence[ScoredItem],
) -> wire.CompareEntry:
    if error := _first_error(items):
        return wire.CompareEntry(index=index, id=name, error=error)
    rewards = _by_member(items)
    scores = [item.reward for item in items]
    outcome = preference.compare(
        rewards,
        temperature=request.temperature or 1.0,
        tie_margin=request.tie_margin,
        combined=None if call.rule == "mean" else scores,
        own_variances=_own_variances(items),
        calibration=call.calibrated.probability,
        threshold=call.calibrated.threshold,
    )
    several = len(items) > 2
    raw = [item.raw.reward for item in items if item.raw is not None]
    if not several:
        margin = raw[0] - raw[1] if raw else outcome.margin
        call.compared(margin, is_undecided=outcome.undecided)
    return wire.CompareEntry(
        index=index,
        id=name,
        scores=list(map(call.shown, scores)),
        raw_scores=[call.shown(score) for score in raw] or None,
        margin=outcome.margin,
        margin_std=outcome.margin_std,
        probability=outcome.probability,
        agreement=outcome.agreement,
        winner=outcome.winner,
        undecided=outcome.undecided,
        ranking=outcome.ranking if several else None,
        probabilities=outcome.probabilities if several else None,
        **_listed([_included(call, item) for item in items]),
        gated=_gated(items),
        n_tokens=[item.n_tokens for item in items],
        truncated=[item.truncated for item in items],
    )


def _best(
    call: Call,
    request: wire.BestOfNRequest,
    index: int,
    group: wire.Group,
    items: Sequence[ScoredItem],
) -> wire.BestOfNEntry:
    n = len(items)
    if error := _first_error(items):
        return wire.BestOfNEntry(index=index, id=group.id, n=n, error=error)
    chosen = selection.select(
        _by_member(items),
        rule=call.rule,
        penalty=call.penalty,
        own_variances=_own_variances(items),
    )
    top = _top(call, request, group, chosen)
    return wire.BestOfNEntry(
        index=index,
        id=group.id,
        best=top[0] if top else None,
        top=top,
        ranking=[
            wire.Ranked(
                index=i,
                score=call.shown(chosen.scores[i]),
                raw_score=_raw_mean(call, items[i]),
                std=chosen.stds[i] if chosen.stds else None,
                selection_score=chosen.selection_scores[i],
                **_included(call, items[i]),
                gated=items[i].verdict.gated,
            )
            for i in chosen.ranking
        ],
        n=n,
        kl=selection.kl_bound(n),
        expected_best=selection.expected_best([chosen.scores[i] for i in chosen.ranking]),
        confidence=chosen.confidence,
        undecided=_is_close(call, [items[i].reward for i in chosen.ranking[:2]]),
        ties=chosen.ties,
        truncated=[item.truncated for item in items],
    )


def _top(
    call: Call, request: wire.BestOfNRequest, group: wire.Group, chosen: selection.Selection
) -> list[wire.Candidate]:
    """Return the first `top_k` that are good enough."""
    return [
        wire.Candidate(
            index=i,
            response=group.responses[i] if group.responses is not None else None,
            steps=group.chains[i] if group.chains is not None else None,
            score=call.shown(chosen.scores[i]),
            selection_score=chosen.selection_scores[i],
        )
        for i in chosen.ranking[: request.top_k]
        if request.min_score is None or chosen.scores[i] >= request.min_score
    ]


def _raw(call: Call, judged: ScoredItem) -> float | None:
    """Return an item's score without length control, where that is asked for."""
    return None if judged.raw is None else call.shown(judged.raw.reward)


def _raw_mean(call: Call, judged: ScoredItem) -> float | None:
    """Return the same of /best-of-n, whose scores are means by whatever rule it ranks."""
    return None if judged.raw is None else call.shown(ensemble.mean(judged.raw.rewards))


def _calibrated(call: Call, judged: ScoredItem) -> dict[str, Any]:
    """Return what `calibrated` says of a response: how probably it is acceptable, and how good."""
    fields: dict[str, Any] = {}
    if not judged.rewards:
        return fields
    if acceptable := call.calibrated.acceptable:
        fields["probability"] = acceptable.probability(judged.reward)
        fields["probability_interval"] = acceptable.interval(judged.reward)
    if absolute := call.calibrated.absolute:
        fields["absolute"] = absolute.reward(judged.reward)
    return fields


def _is_close(call: Call, first: Sequence[float]) -> bool | None:
    """Return whether the best isn't reliably better than the next, where that is asked for.

    `first` are the rewards of these two, by the target's own rule.
    """
    threshold = call.calibrated.threshold
    if threshold is None:
        return None
    return len(first) > 1 and first[0] - first[1] <= threshold


def _gated(items: Sequence[ScoredItem]) -> list[bool] | None:
    """Return whose reward a composite's gate replaced; None where there is no gate."""
    gated = [item.verdict.gated for item in items]
    return None if None in gated else [bool(is_gated) for is_gated in gated]


def _by_member(items: Sequence[ScoredItem]) -> list[list[float]]:
    """Return one row of rewards a member."""
    return [list(row) for row in zip(*(item.rewards for item in items), strict=True)]


def _own_variances(items: Sequence[ScoredItem]) -> list[float] | None:
    """Return how sure one model says it is of each response; None where it says nothing."""
    variances = [item.verdict.spread.variance for item in items if item.verdict.spread is not None]
    return variances if len(variances) == len(items) else None


def _included(call: Call, judged: ScoredItem) -> dict[str, Any]:
    """Return what `include` asks of one item, by field; nothing of one that has no score."""
    included, verdict = call.options.include, judged.verdict
    fields: dict[str, Any] = {}
    if judged.error is not None:
        return fields
    if "members" in included:
        fields["members"] = _members(call, verdict)
    if "attributes" in included:
        fields["attributes"] = dict(verdict.attributes)
    if "steps" in included:
        fields["steps"] = list(verdict.steps or ())
    if "steps" in included or call.options.threshold is not None:
        fields["first_error"] = verdict.first_error
    if "tokens" in included and judged.scored is not None:
        fields["tokens"] = judged.scored.ids.tolist()
    return fields


def _listed(included: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return what each response has, as a list by field."""
    return {name: [fields[name] for fields in included] for name in included[0]}


def _members(call: Call, verdict: TargetScore) -> dict[str, float] | None:
    """Return each member's reward; one model's own."""
    rewards = verdict.members or verdict.rewards
    named = zip(call.target.member_labels, rewards, strict=True) if rewards else ()
    return {name: call.shown(reward) for name, reward in named} or None


def _uncertainty(call: Call, verdict: TargetScore) -> wire.Uncertainty | None:
    """Return the spread over an ensemble's members, or what one model says of itself."""
    if call.target.is_ensemble:
        rewards = verdict.rewards
        return wire.Uncertainty(
            std=ensemble.std(rewards), variance=ensemble.variance(rewards), members=len(rewards)
        )
    if (own := verdict.spread) is not None:
        return wire.Uncertainty(std=math.sqrt(own.variance), variance=own.variance, kind=own.kind)
    return None


def _first_error(items: Sequence[ScoredItem]) -> wire.ItemError | None:
    return next((_item_error(item.error) for item in items if item.error), None)


def _item_error(error: AssayError | None, target: str | None = None) -> wire.ItemError | None:
    if error is None:
        return None
    return wire.ItemError(code=error.code, message=error.advised().message, target=target)
