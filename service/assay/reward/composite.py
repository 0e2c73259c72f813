"""Attributes, safety and costs as one reward.

A part is one named score of a response. Parts on different scales are `standardised` first, with
the mean and spread of a fixed reference set: never of the request itself, whose other items would
otherwise change a score.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from assay.reward.transform import standardize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def weighted(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return Σ weight · part. Weights are taken as they are: negative ones are costs.

    Raises ValueError, with the names, unless exactly the parts have weights. Weight 0 leaves out.
    """
    _match(parts, weights, "weight")
    return math.fsum(weights[name] * part for name, part in parts.items())


def smallest(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the smallest weight · part. Weight 0 leaves out; 0.0 where every part is.

    Raises ValueError as `weighted` does.
    """
    _match(parts, weights, "weight")
    counted = (weights[name] * part for name, part in parts.items() if weights[name])
    return min(counted, default=0.0)


def ranks(rows: Sequence[Sequence[float]], tolerances: Sequence[float]) -> list[int]:
    """Return how many responses stand before each: by their first part, then the next, and so on.

    `rows` has each response's parts, the larger the better. Those whose part is at most its
    tolerance below the best of a band are that band, which the next part orders; the best of the
    others begins the next band. Two responses tie where one band still has both.

    Bands, for "alike within a tolerance" isn't transitive: a lexicographic semiorder of pairs
    (Tversky 1969) may go in circles. Of two responses it is that order.
    """
    bands = [list(range(len(rows)))]
    for part, tolerance in enumerate(tolerances):
        bands = [
            narrower
            for band in bands
            for narrower in _bands(band, [rows[i][part] for i in band], tolerance)
        ]
    found = [0] * len(rows)
    before = 0
    for band in bands:
        for i in band:
            found[i] = before
        before += len(band)
    return found


def preferences(ranks: Sequence[int]) -> list[list[float]]:
    """Return P(i ≻ j) at [i][j] of an order: 1, 0, or 0.5 for a tie."""
    return [[0.5 if own == other else float(own < other) for other in ranks] for own in ranks]


def shares(ranks: Sequence[int]) -> list[float]:
    """Return the share of the others that each response beats, ties by half; 0.5 for a lone one."""
    n = len(ranks)
    if n == 1:
        return [0.5]
    tied = Counter(ranks)
    return [(n - own - tied[own] + (tied[own] - 1) / 2) / (n - 1) for own in ranks]


def standardised(
    parts: Mapping[str, float], references: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Return each part as (part − mean) / std with its reference (mean, std).

    Raises ValueError, with the names, unless exactly the parts have references and stds are > 0.
    """
    _match(parts, references, "reference")
    if flat := sorted(name for name, (_, std) in references.items() if not std > 0):
        raise ValueError(f"not above 0 is the std of {flat}")
    return {
        name: standardize(part, mean=references[name][0], std=references[name][1])
        for name, part in parts.items()
    }


def gated(reward: float, safety: float, *, at_least: float, otherwise: float) -> float:
    """Return the reward if the safety score passes the gate, else `otherwise`."""
    return reward if passes(safety, at_least=at_least) else otherwise


def passes(safety: float, *, at_least: float) -> bool:
    """Return whether a safety score is `at_least` that much; a NaN isn't."""
    return safety >= at_least


def _bands(band: Sequence[int], values: Sequence[float], tolerance: float) -> list[list[int]]:
    """Return a band in narrower ones, best first; inside each in the order that it had."""
    bands: list[list[int]] = []
    best = math.inf
    for value, i in sorted(zip(values, band, strict=True), key=lambda pair: -pair[0]):
        if not bands or best - value > tolerance:
            bands.append([])
            best = value
        bands[-1].append(i)
    return bands


def _match(parts: Mapping[str, float], values: Mapping[str, object], kind: str) -> None:
    if unknown := sorted(values.keys() - parts.keys()):
        raise ValueError(f"a {kind} is given for {unknown}, which aren't parts")
    if missing := sorted(parts.keys() - values.keys()):
        raise ValueError(f"no {kind} is given for {missing}")
