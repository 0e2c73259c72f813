"""From a margin or a score to a probability that was fitted on labelled pairs.

A confidence is the probability that the response with the higher reward is the better one, as a
function of the size of the margin. Only `symmetric` makes P(a ≻ b) of it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def symmetric(margin: float, confidence: Callable[[float], float]) -> float:
    """Return P(a ≻ b) for the margin r_a − r_b, so that P(b ≻ a) is exactly 1 − P(a ≻ b).

    `confidence` takes |margin| > 0 and returns at least 0.5: from there 1 − p is exact. Without a
    margin the probability is 0.5.
    """
    if margin == 0:
        return 0.5
    sure = max(0.5, confidence(abs(margin)))
    return sure if margin > 0 else 1.0 - sure


def interpolate(knots: Sequence[tuple[float, ...]], x: float, column: int = 1) -> float:
    """Return the value at x of the straight lines between knots; beyond them their ends' values.

    A knot is x and its values, of which `column` is taken; x rises from knot to knot. Where the
    knots' values don't fall, neither does the result. NaN at NaN.
    """
    if math.isnan(x):
        return x
    right = bisect_right(knots, x, key=lambda knot: knot[0])
    if right == 0:
        return knots[0][column]
    if right == len(knots):
        return knots[-1][column]
    (x0, y0), (x1, y1) = ((knot[0], knot[column]) for knot in knots[right - 1 : right + 1])
    between = y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
    return min(max(between, min(y0, y1)), max(y0, y1))


def largest_margin(probability: Callable[[float], float], *, at_most: float) -> float:
    """Return the largest margin whose probability is at most so much; infinity where all are.

    `probability` doesn't fall from one margin above 0 to a larger one.
    """
    low, high = 0.0, 1.0
    while probability(high) <= at_most:
        low, high = high, 2.0 * high
        if math.isinf(high):
            return high
    while low < (middle := (low + high) / 2.0) < high:
        low, high = (middle, high) if probability(middle) <= at_most else (low, middle)
    return low


def merged(low: float, high: float) -> float:
    """Return one probability for a Venn-Abers interval, the one that is least wrong by log loss.

    That is p1 / (1 − p0 + p1) (Vovk and Petej 1211.0025, §4).
    """
    return high / (1.0 - low + high)
