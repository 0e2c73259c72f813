"""Best-of-n: which of n responses to keep, and what n buys.

Responses are ranked by their members' scores combined (`ensemble`), or by the members' votes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, Literal

from assay.reward import ensemble

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Rule = ensemble.Rule | Literal["vote"]


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome for one group; `ranking` holds indices, best first."""

    ranking: list[int]
    scores: list[float]
    stds: list[float] | None
    selection_scores: list[float]
    confidence: float | None
    ties: list[int]


def select(
    rewards: Sequence[Sequence[float]],
    *,
    rule: Rule = "mean",
    penalty: float | None = None,
    own_variances: Sequence[float] | None = None,
) -> Selection:
    """Rank the responses of one group.

    `rewards[m][i]` is member m's score of response i. Responses are ordered by the rule's value,
    then by mean score, then by index; those equal to the best in both numbers are its `ties`.
    `confidence` is the share of members whose own first choice is the best (None for one member).
    `own_variances` are those of one model that says itself how sure it is of each response.
    """
    count = len(rewards[0])
    columns = [[row[i] for row in rewards] for i in range(count)]
    scores = [ensemble.mean(column) for column in columns]
    variances: Sequence[float | None] = own_variances or [None] * count
    chosen = (
        [votes / len(rewards) for votes in _votes(rewards)]
        if rule == "vote"
        else [
            ensemble.combined(column, rule, penalty, own_variance=variance)
            for column, variance in zip(columns, variances, strict=True)
        ]
    )
    ranking = sorted(range(count), key=lambda i: (-chosen[i], -scores[i], i))
    best = ranking[0]
    ties = [i for i in ranking if (chosen[i], scores[i]) == (chosen[best], scores[best])]
    several = len(rewards) > 1
    return Selection(
        ranking=ranking,
        scores=scores,
        stds=_stds(columns, own_variances),
        selection_scores=chosen,
        confidence=_votes(rewards)[best] / len(rewards) if several else None,
        ties=sorted(ties) if len(ties) > 1 else [],
    )


def _stds(
    columns: Sequence[Sequence[float]], own_variances: Sequence[float] | None
) -> list[float] | None:
    """Return the spread of each response's score; None where one model says nothing of it."""
    if own_variances is not None:
        return [math.sqrt(variance) for variance in own_variances]
    return [ensemble.std(column) for column in columns] if len(columns[0]) > 1 else None


def _votes(rewards: Sequence[Sequence[float]]) -> list[int]:
    """Count the members whose first choice each response is; a member's tie goes to the lowest."""
    votes = [0] * len(rewards[0])
    for row in rewards:
        votes[max(range(len(row)), key=lambda i: (row[i], -i))] += 1
    return votes


def kl_bound(n: int) -> float:
    """Return ln n − (n − 1) / n, best-of-n's bound on KL(best-of-n ‖ policy) in nats."""
    return math.log(n) - (n - 1) / n


def expected_best(scores_best_first: Sequence[float]) -> dict[int, float]:
    """Return the unbiased estimate of the best-of-k score for k = 1, 2, 4, ... ≤ n, and n.

    Given n scores in order of selection, the expected score of the best of k drawn without
    replacement is Σ_i C(n − 1 − i, k − 1) / C(n, k) · s_i (WebGPT, Nakano et al. 2112.09332, §3.4).
    """
    n = len(scores_best_first)
    sizes = sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})
    return {k: math.fsum(map(mul, _weights(n, k), scores_best_first)) for k in sizes}


def _weights(n: int, k: int) -> Iterator[float]:
    """Yield C(n − 1 − i, k − 1) / C(n, k) for i = 0, 1, ..., each from the one before."""
    weight = k / n
    for i in range(n):
        yield weight
        weight *= (n - k - i) / (n - 1 - i) if i < n - 1 else 0.0
