"""How sure a model says that it is of a score, from what a head of its own says of its numbers.

A score is a weighted sum of the numbers of the head `reward`, with the weights of its rule or of a
gate. Not here: the spread over an ensemble's members (`ensemble`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from assay.reward import ensemble

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["quantiles", "bins", "gaussian", "laplace"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The variance of a score, and what it was told by."""

    kind: Kind
    variance: float


def of_deviations(deviations: Sequence[float], weights: Sequence[float]) -> float:
    """Return the variance of a weighted sum of independent numbers: Σ (weight · deviation)²."""
    return math.fsum(
        (weight * deviation) ** 2
        for weight, deviation in zip(weights, deviations, strict=True)
        if weight
    )


def of_quantiles(quantiles: Sequence[float], weights: Sequence[float]) -> float:
    """Return the population variance of a weighted sum's quantiles.

    `quantiles` has as many for each number, side by side. The sum's quantile is the sum of the
    numbers' (as in QRM, Dorka 2409.10164): they rise and fall together.

    Raises ValueError where they are no multiple of the weights.
    """
    if len(quantiles) % len(weights):
        raise ValueError(f"{len(quantiles)} quantiles are no multiple of {len(weights)} numbers")
    count = len(quantiles) // len(weights)
    return ensemble.variance(
        [
            math.fsum(
                weight * quantiles[number * count + level] for number, weight in enumerate(weights)
            )
            for level in range(count)
        ]
    )
