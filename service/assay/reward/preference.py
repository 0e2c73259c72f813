"""Preferences between responses to one prompt under Bradley-Terry.

Rewards come as one row of scores a member: `rewards[m][i]` is member m's score of response i. A
shift that a member adds to every response of a prompt cancels in its margins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.reward.ensemble import mean, std
from assay.reward.transform import sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Preference:
    """The outcome of one comparison.

    `margin`, `margin_std` and `probability` are of the pair (0, 1) for two responses, of the first
    and second of `ranking` for more.
    """

    ranking: list[int]
    margin: float
    margin_std: float | None
    probability: float
    agreement: float | None
    winner: int | None
    undecided: bool
    probabilities: list[list[float]]


def compare(
    rewards: Sequence[Sequence[float]],
    *,
    temperature: float = 1.0,
    tie_margin: float = 0.0,
    combined: Sequence[float] | None = None,
    own_variances: Sequence[float] | None = None,
    calibration: Callable[[float], float] | None = None,
    threshold: float | None = None,
) -> Preference:
    """Compare two or more responses.

    The winner has the highest mean reward, unless the mean margin to the next is at most
    `tie_margin`: then it is None. With several members, `agreement` is the share of them whose own
    margin is on the winner's side, and the comparison is `undecided` when |margin| ≤ margin_std:
    the members disagree by as much as they see. A tie is always undecided.

    `combined` are the responses' rewards by another rule than the mean: the winner, the ranking and
    the margin are of them, all else is of the members. `own_variances` are those of one model that
    says itself how sure it is of each response; the margin has their sum, as of independent ones.
    A `calibration` gives P(a ≻ b) for a margin, in place of Bradley-Terry. With a `threshold` the
    comparison is `undecided` when |margin| is at most that, whatever the members do.
    """
    count = len(rewards[0])
    scores = combined or [mean([row[i] for row in rewards]) for i in range(count)]
    ranking = sorted(range(count), key=lambda i: (-scores[i], i))
    first, second = ranking[0], ranking[1]
    a, b = (0, 1) if count == 2 else (first, second)

    def margin_of(i: int, j: int) -> float:
        if combined is not None:
            return combined[i] - combined[j]
        return mean([row[i] - row[j] for row in rewards])

    margins = [row[a] - row[b] for row in rewards]
    margin = margin_of(a, b)
    margin_std = std(margins) if len(rewards) > 1 else None
    if own_variances is not None:
        margin_std = math.sqrt(own_variances[a] + own_variances[b])
    winner = first if abs(margin) > tie_margin else None
    agreement = None
    if winner is not None and len(rewards) > 1:
        side = 1.0 if winner == a else -1.0
        agreement = sum(side * member_margin > 0 for member_margin in margins) / len(margins)
    bar = margin_std if threshold is None else threshold
    undecided = winner is None or (bar is not None and abs(margin) <= bar)

    def probability(i: int, j: int) -> float:
        if calibration is not None:
            return calibration(margin_of(i, j))
        return _probability(rewards, i, j, temperature)

    return Preference(
        ranking=ranking,
        margin=margin,
        margin_std=margin_std,
        probability=probability(a, b),
        agreement=agreement,
        winner=winner,
        undecided=undecided,
        probabilities=[[probability(i, j) for j in range(count)] for i in range(count)],
    )


def _probability(rewards: Sequence[Sequence[float]], a: int, b: int, temperature: float) -> float:
    """Return P(a ≻ b): the Bradley-Terry probability averaged over members."""
    return mean([sigmoid((row[a] - row[b]) / temperature) for row in rewards])
