"""One of several options: Luce's choice by their rewards, which for two is Bradley-Terry's.

P(i) = exp(r_i) / Σ_j exp(r_j): a shift that is added to every reward cancels, and who has the
highest reward has the highest probability. Confidences are those that TypeSafe publishes for its
System One adapters: 0 where all options are equally likely, 1 where one is sure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.reward import tournament
from assay.reward.transform import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

# Strengths of responses that always win stay finite, and others keep nine digits.
_PRIOR = 1e-9


@dataclass(frozen=True, slots=True)
class Choice:
    """The option to choose, and how likely each one is; of equal ones the first."""

    best: int
    probabilities: list[float]


def by_rewards(rewards: Sequence[float], *, temperature: float = 1.0) -> Choice:
    """Choose by rewards, which are divided by the temperature."""
    best = max(range(len(rewards)), key=lambda i: (rewards[i], -i))
    return Choice(best, softmax(rewards, temperature))


def by_preferences(matrix: Sequence[Sequence[float]], *, temperature: float = 1.0) -> Choice:
    """Choose by P(i ≻ j), from a model that only compares: who wins most is the best.

    Probabilities are Luce's choice by the strengths of `tournament.bradley_terry`, which over all
    pairs are in the order of the mean probabilities of winning.
    """
    n = len(matrix)
    wins = {(i, j): matrix[i][j] for i in range(n) for j in range(i + 1, n)}
    strengths = tournament.bradley_terry(wins, n, prior=_PRIOR)
    best = tournament.ranking(tournament.scores(matrix))[0]
    return Choice(best, softmax(strengths, temperature))


def confidence(probabilities: Sequence[float]) -> float:
    """Return how far the likeliest option stands above a uniform guess."""
    n = len(probabilities)
    if n == 1:
        return 1.0
    return min(1.0, max(0.0, (n * max(probabilities) - 1) / (n - 1)))


def level(probabilities: Sequence[float]) -> float:
    """Return the expected level, from 0 for the first."""
    return math.fsum(place * p for place, p in enumerate(probabilities))


def level_confidence(probabilities: Sequence[float]) -> float:
    """Return one less the spread around the likeliest level over that of a uniform guess."""
    n = len(probabilities)
    if n == 1:
        return 1.0
    top = max(range(n), key=lambda i: (probabilities[i], -i))
    spread = math.fsum(p * abs(place - top) for place, p in enumerate(probabilities))
    uniform = math.fsum(abs(place - (n - 1) / 2) for place in range(n)) / n
    return max(0.0, 1 - spread / uniform)
