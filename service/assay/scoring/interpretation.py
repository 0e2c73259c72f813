"""What the numbers of a target's members mean: scores, attributes, steps, and one reward.

From the numbers that a device read at an item's places, by the cards and `reward`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from assay.reward import composite, ensemble, score, spread, steps, tournament, transform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from assay.cards.card import Card
    from assay.scoring.targets import CompositePart, Target

_NONE: Mapping[str, float] = MappingProxyType({})  # one for all: there are many items
# A card without these tables is a checkpoint of transformers' own class with one number an item.
_MECHANISM = frozenset({"steps", "read", "heads", "score", "preference", "policy"})


def _none() -> Mapping[str, float]:
    return _NONE


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What a request asks of an item's numbers, beside the card."""

    aggregate: steps.Aggregate | None = None
    threshold: float | None = None
    attributes: Mapping[str, float] | None = None  # weights
    normalize: bool = False
    rule: ensemble.Rule | None = None  # of members; default the target's
    penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Reward:
    """One model's reading of one item."""

    score: float
    attributes: Mapping[str, float] = field(default_factory=_none)
    steps: tuple[float, ...] | None = None
    spread: spread.Spread | None = None
    members: tuple[Reward, ...] = ()  # of a model whose outputs are members


@dataclass(frozen=True, slots=True)
class TargetScore:
    """A target's reading of one item.

    `rewards` has one reward for each member of an ensemble, else one; `members` what each member of
    a target with several read, in the target's order. `combined` is the one that is reported, by
    another rule than the mean.
    """

    rewards: tuple[float, ...]
    attributes: Mapping[str, float] = field(default_factory=_none)
    steps: tuple[float, ...] | None = None
    first_error: int | None = None
    members: tuple[float, ...] = ()
    gated: bool | None = None  # whether a composite's gate replaced the reward, if it has one
    steps_std: tuple[float, ...] | None = None  # over members, of one step each
    spread: spread.Spread | None = None  # of one model that says itself how sure it is
    combined: float | None = None

    @property
    def reward(self) -> float:
        """The reported reward: of an ensemble by its rule."""
        return ensemble.mean(self.rewards) if self.combined is None else self.combined


def interpret(
    target: Target,
    numbers: Sequence[np.ndarray],
    sizes: Sequence[Mapping[str, int]],
    wish: ScoreOptions,
) -> TargetScore:
    """Return a target's reading of one item.

    `numbers` are those of each member, (places, outputs); `sizes` say which head gave which.
    """
    read = [
        reward(model.checkpoint.card, member_numbers, size, wish)
        for model, member_numbers, size in zip(target.members, numbers, sizes, strict=True)
    ]
    match target.kind:
        case "model":
            return _of_model(target.card, read[0], wish)
        case "composite":
            return _of_composite(target, read, wish)
        case "policy":
            values = tuple(reading.score for reading in read)
            value = _normal(_policy_reward(target, values), target.card, wish)
            return TargetScore((value,), members=values)
        case "ensemble":
            return _of_ensemble(target, read[0].members or read, wish)


def reward(card: Card, numbers: np.ndarray, sizes: Mapping[str, int], wish: ScoreOptions) -> Reward:
    """Return one model's reading of one item: numbers (places, outputs) by its card."""
    if _MECHANISM.isdisjoint(card.model_fields_set):
        return Reward(float(numbers[-1, 0]))
    if card.policy is not None:
        rule = score.Rule("sum")
        return Reward(score.total(rule, numbers[:, 0].tolist(), average=card.policy.average))
    rule = _rule(card)
    if rule.kind == "sum":
        return Reward(score.total(rule, numbers[:, 0].tolist()))
    heads = _by_head(card, numbers, sizes)
    if card.is_of_outputs:
        members = _outputs(card, heads["reward"], wish)
        return Reward(ensemble.mean([member.score for member in members]), members=members)
    gates: Sequence[list[float] | None] = heads.get("gate", [None] * len(heads["reward"]))
    if rule.kind != "gated":
        gates = [None] * len(heads["reward"])
    scores = [
        score.score(rule, outputs, gate)
        for outputs, gate in zip(heads["reward"], gates, strict=True)
    ]
    if card.steps is not None and card.is_by_step:
        how = wish.aggregate or card.steps.aggregate
        return Reward(steps.aggregate(scores, how), steps=tuple(scores))
    return Reward(
        scores[-1],
        dict(zip(card.score.outputs, heads["reward"][-1], strict=False)),
        spread=_spread(card, heads, wish),
    )


def _outputs(card: Card, rows: Sequence[Sequence[float]], wish: ScoreOptions) -> tuple[Reward, ...]:
    """Return what each number of the head `reward` reads of one item, a member each."""
    declared = card.score
    readings = []
    for index in range(len(declared.outputs)):
        rule = score.Rule(
            index=index, mean=declared.mean, std=declared.std, transform=declared.transform
        )
        scores = [score.score(rule, row) for row in rows]
        if card.steps is not None and card.is_by_step:
            how = wish.aggregate or card.steps.aggregate
            readings.append(Reward(steps.aggregate(scores, how), steps=tuple(scores)))
        else:
            readings.append(Reward(scores[-1]))
    return tuple(readings)


def ranks(target: Target, responses: Sequence[TargetScore]) -> list[int]:
    """Return how many responses stand before each one, by a target that orders them."""
    counted = [part for part in target.parts if part.weight]
    rows = [
        [part.weight * response.attributes[part.name] for part in counted] for response in responses
    ]
    return composite.ranks(rows, [part.tolerance for part in counted])


def probability(card: Card, ordered: np.ndarray, swapped: np.ndarray | None) -> float:
    """Return P(a ≻ b) by a model that reads both: in `ordered` a first, in `swapped` b first."""
    preference = card.preference
    if preference is not None and preference.logit:
        first = _logit(ordered)
        logit = first if swapped is None else tournament.both_orders_logit(first, _logit(swapped))
        return transform.sigmoid(logit / preference.temperature)
    rule = _rule(card)
    first = score.score(rule, ordered[-1].tolist())
    if swapped is None:
        return first
    return tournament.both_orders(first, score.score(rule, swapped[-1].tolist()))


def embedding(
    card: Card, numbers: np.ndarray, sizes: Mapping[str, int]
) -> tuple[list[float], list[float] | None]:
    """Return a response's embedding and the gate of its prompt, if the model has one."""
    heads = _by_head(card, numbers, sizes)
    return heads["reward"][-1], heads["gate"][-1] if "gate" in heads else None


def _of_model(card: Card, read: Reward, wish: ScoreOptions) -> TargetScore:
    value = read.score
    if wish.attributes:
        value = _weighted(read.attributes, wish.attributes)
    value, own = _normal(value, card, wish), _normal_spread(read.spread, card, wish)
    combined = None
    if own is not None and wish.rule not in (None, "mean"):
        combined = ensemble.combined((value,), wish.rule, wish.penalty, own_variance=own.variance)
    return TargetScore(
        (value,),
        read.attributes,
        read.steps,
        _first_error(card, read.steps, wish),
        spread=own,
        combined=combined,
    )


def _of_ensemble(target: Target, read: Sequence[Reward], wish: ScoreOptions) -> TargetScore:
    on_one_scale = target.combination.standardized([reading.score for reading in read])
    rewards = tuple(_normal(value, target.card, wish) for value in on_one_scale)
    own = target.combination
    rule, penalty = (wish.rule, wish.penalty) if wish.rule else (own.rule, own.penalty)
    by_step = list(zip(*(reading.steps or () for reading in read), strict=True))
    means = tuple(map(ensemble.mean, by_step)) if target.scores_steps else None
    return TargetScore(
        rewards,
        steps=means,
        first_error=_first_error(target.card, means, wish),
        members=rewards,
        steps_std=tuple(map(ensemble.std, by_step)) if target.scores_steps else None,
        combined=None if rule == "mean" else ensemble.combined(rewards, rule, penalty),
    )


def _first_error(card: Card, scores: Sequence[float] | None, wish: ScoreOptions) -> int | None:
    """Return the first step below the threshold; None where there is none, or no steps."""
    if scores is None or card.steps is None:
        return None
    threshold = card.steps.threshold if wish.threshold is None else wish.threshold
    return steps.first_error(scores, threshold)


def _spread(
    card: Card, heads: Mapping[str, list[list[float]]], wish: ScoreOptions
) -> spread.Spread | None:
    """Return how sure a model says it is of the score at the last place."""
    if card.spread is None:
        return None
    own, kind = heads["spread"][-1], card.spread.kind
    if kind == "laplace":  # of the score itself: of a sum by the request's weights it says nothing
        if wish.attributes:
            return None
        variance = own[0] ** 2
    else:
        weights = _weights(card, heads, wish)
        of = spread.of_quantiles if kind == "quantiles" else spread.of_deviations
        variance = of(own, weights)
    std = 1.0 if wish.attributes else card.score.std
    return spread.Spread(kind, variance / std**2)


def _weights(card: Card, heads: Mapping[str, list[list[float]]], wish: ScoreOptions) -> list[float]:
    """Return what each number of the head `reward` counts in the score."""
    if wish.attributes:
        return [wish.attributes.get(name, 0.0) for name in card.score.outputs]
    if card.score.rule == "gated":
        return heads["gate"][-1]
    if card.score.rule == "weighted":
        return [card.score.weights.get(name, 0.0) for name in card.score.outputs]
    return [float(place == card.score.index) for place in range(len(heads["reward"][-1]))]


def _of_composite(target: Target, read: Sequence[Reward], wish: ScoreOptions) -> TargetScore:
    by_name = {model.name: reading for model, reading in zip(target.members, read, strict=True)}
    raw = {part.name: _part(part, by_name) for part in target.parts}
    parts = {
        part.name: transform.standardize(raw[part.name], mean=part.mean, std=part.std)
        for part in target.parts
    }
    members = tuple(reading.score for reading in read)
    weights = wish.attributes or {part.name: part.weight for part in target.parts}
    match target.rule:
        case "weighted":
            value = _weighted(parts, weights)
        case "min":
            value = composite.smallest(parts, {name: weights.get(name, 0.0) for name in parts})
        case "lexicographic":  # an order, in which one response alone has no place
            return TargetScore((), attributes=parts, members=members)
    gated = None
    if gate := target.gate:
        acceptable = next(part.acceptable for part in target.parts if part.name == gate.part)
        looked_at = acceptable.probability(raw[gate.part]) if acceptable else parts[gate.part]
        gated = not composite.passes(looked_at, at_least=gate.at_least)
        value = gate.otherwise if gated else value
    return TargetScore((value,), attributes=parts, members=members, gated=gated)


def _weighted(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the sum of the parts, each times its weight; one without a weight is left out."""
    return composite.weighted(parts, {name: weights.get(name, 0.0) for name in parts})


def _rule(card: Card) -> score.Rule:
    declared = card.score
    return score.Rule(
        declared.rule,
        index=declared.index,
        weights=tuple(declared.weights.get(name, 0.0) for name in declared.outputs)
        if declared.weights
        else (),
        bias=declared.bias,
        mean=declared.mean,
        std=declared.std,
        transform=declared.transform,
    )


def _by_head(
    card: Card, numbers: np.ndarray, sizes: Mapping[str, int]
) -> dict[str, list[list[float]]]:
    """Return each head's numbers at the places where it reads.

    Heads with places of their own have one each, in the heads' order.
    """
    have_own = any(head.read for head in card.heads.values())
    heads: dict[str, list[list[float]]] = {}
    begin = 0
    for place, (name, size) in enumerate(sizes.items()):
        columns = numbers[:, begin : begin + size]
        heads[name] = (columns[place : place + 1] if have_own else columns).tolist()
        begin += size
    return heads


def _logit(numbers: np.ndarray) -> float:
    """Return how much the first of two places is preferred, over all outputs."""
    return float((numbers[0] - numbers[1]).mean()) if len(numbers) > 1 else float(numbers[0, 0])


def _policy_reward(target: Target, log_probabilities: Sequence[float]) -> float:
    policy = target.card.policy
    if policy is None:
        raise ValueError("the target has no [policy]")
    of_policy, *of_reference = log_probabilities
    return policy.beta * (of_policy - sum(of_reference))


def _part(part: CompositePart, read: Mapping[str, Reward]) -> float:
    """Return a part as its target has it: a model's score or attribute, an ensemble's reward."""
    readings = [member for name in part.models for member in read[name].members or (read[name],)]
    values = [
        reading.attributes[part.attribute] if part.attribute else reading.score
        for reading in readings
    ]
    own = part.of.combination
    return ensemble.combined(own.standardized(values), own.rule, own.penalty)


def _normal(value: float, card: Card, wish: ScoreOptions) -> float:
    moments = card.statistics
    if not wish.normalize or moments is None:
        return value
    return transform.standardize(value, mean=moments.mean, std=moments.std)


def _normal_spread(
    own: spread.Spread | None, card: Card, wish: ScoreOptions
) -> spread.Spread | None:
    moments = card.statistics
    if own is None or not wish.normalize or moments is None:
        return own
    return replace(own, variance=own.variance / moments.std**2)
