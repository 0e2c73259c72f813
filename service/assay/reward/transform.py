"""From the raw reward to the number a caller asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def sigmoid(score: float) -> float:
    """Return 1 / (1 + exp(-score)) without overflow."""
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    grown = math.exp(score)
    return grown / (1.0 + grown)


def standardize(score: float, *, mean: float, std: float) -> float:
    """Return the score in units of a fixed reference set's spread: (score − mean) / std."""
    return (score - mean) / std


def softmax(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Return exp(score / temperature) of each score over their sum."""
    highest = max(scores)
    grown = [math.exp((score - highest) / temperature) for score in scores]
    total = math.fsum(grown)
    return [value / total for value in grown]
