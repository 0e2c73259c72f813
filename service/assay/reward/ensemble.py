"""The members' scores of one item as one reward with a spread.

Variance is the population variance (divided by the number of members), as in the best-of-n code of
Coste et al. 2310.02743 (tlc4418/llm_optimization, `src/bon/ensemble_rm.py`). Their worst-case
optimization is the rule `min`, their uncertainty-weighted optimization `variance_penalty`.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Rule = Literal["mean", "median", "min", "lower_bound", "variance_penalty"]

DEFAULT_PENALTY: dict[str, float] = {"lower_bound": 1.0, "variance_penalty": 0.5}


def mean(members: Sequence[float]) -> float:
    """Return the mean of the members' scores, exactly rounded."""
    return math.fsum(members) / len(members)


def variance(members: Sequence[float]) -> float:
    """Return the population variance of the members' scores."""
    centre = mean(members)
    return math.fsum((score - centre) ** 2 for score in members) / len(members)


def std(members: Sequence[float]) -> float:
    """Return the population standard deviation of the members' scores."""
    return math.sqrt(variance(members))


def combined(
    members: Sequence[float],
    rule: Rule = "mean",
    penalty: float | None = None,
    *,
    own_variance: float | None = None,
) -> float:
    """Return the members' scores as one reward.

    `lower_bound` is mean − penalty · std, `variance_penalty` mean − penalty · variance. One model
    that says itself how sure it is has an `own_variance` in place of its members'.
    """
    weight = DEFAULT_PENALTY.get(rule, 0.0) if penalty is None else penalty
    match rule:
        case "mean":
            return mean(members)
        case "median":
            return float(median(members))
        case "min":
            return min(members)
        case "lower_bound":
            spread = std(members) if own_variance is None else math.sqrt(own_variance)
            return mean(members) - weight * spread
        case "variance_penalty":
            spread = variance(members) if own_variance is None else own_variance
            return mean(members) - weight * spread
