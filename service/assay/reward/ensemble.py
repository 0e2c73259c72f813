"""The members' scores of one item as one reward with a spread.

Variance is the population variance (divided by the number of members), as in the best-of-n code of
Coste et al. 2310.02743 (tlc4418/llm_optimization, `src/bon/ensemble_rm.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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
