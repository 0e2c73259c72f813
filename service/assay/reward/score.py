"""From the numbers that a model's heads give at the places read to one score, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from assay.reward.transform import sigmoid, standardize

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Rule:
    """How the numbers become a score x, which is reported as transform((x − mean) / std).

    At one place: `index` is one of the numbers; `weighted` is their sum, each times its weight,
    plus `bias`; `gated` is their sum, each times the gate's number (ArmoRM, Wang et al.
    2406.12845); `softmax` is the probability of the number at `index` among all. `sum` is over
    places, with one number at each.
    """

    kind: Literal["index", "weighted", "gated", "softmax", "sum"] = "index"
    index: int = 0
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    transform: Literal["identity", "sigmoid", "negate"] = "identity"

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"index is {self.index}, below 0")
        if not self.std > 0:
            raise ValueError(f"std is {self.std}, not above 0")
        if (self.kind == "weighted") != bool(self.weights):
            raise ValueError("weights go with the rule 'weighted'")
        if self.bias != 0 and self.kind != "weighted":
            raise ValueError("a bias goes with the rule 'weighted'")


def score(rule: Rule, reward: Sequence[float], gate: Sequence[float] | None = None) -> float:
    """Return the score of one place from the reward head's numbers there, and the gate's if any.

    Raises ValueError where there are too few numbers for the index, another number of them than of
    weights or of the gate's, no gate for `gated`, a gate for another rule, or the rule is `sum`.
    """
    if (rule.kind == "gated") != (gate is not None):
        raise ValueError("a gate goes with the rule 'gated'")
    match rule.kind:
        case "index":
            value = _numbered(reward, rule.index)
        case "weighted":
            value = math.fsum([*_products(reward, rule.weights, "weights"), rule.bias])
        case "gated":
            value = math.fsum(_products(reward, gate or (), "the gate's"))
        case "softmax":
            at = _numbered(reward, rule.index)
            top = max(reward)
            value = math.exp(at - top) / math.fsum(math.exp(number - top) for number in reward)
        case "sum":
            raise ValueError("the rule 'sum' is over places, not of one")
    return _reported(rule, value)


def total(rule: Rule, values: Sequence[float], *, average: bool = False) -> float:
    """Return the score of the rule `sum` over the places' numbers, or of their mean.

    Raises ValueError for another rule and where no place was read.
    """
    if rule.kind != "sum":
        raise ValueError(f"the rule {rule.kind!r} is of one place, not over places")
    if not values:
        raise ValueError("no place was read")
    value = math.fsum(values)
    return _reported(rule, value / len(values) if average else value)


def _numbered(reward: Sequence[float], index: int) -> float:
    if index >= len(reward):
        raise ValueError(f"index {index} is beyond the head's {len(reward)} numbers")
    return reward[index]


def _products(reward: Sequence[float], factors: Sequence[float], whose: str) -> list[float]:
    if len(reward) != len(factors):
        raise ValueError(f"{len(reward)} numbers don't match {whose} {len(factors)}")
    return [number * factor for number, factor in zip(reward, factors, strict=True)]


def _reported(rule: Rule, value: float) -> float:
    value = standardize(value, mean=rule.mean, std=rule.std)
    match rule.transform:
        case "identity":
            return value
        case "sigmoid":
            return sigmoid(value)
        case "negate":
            return -value
