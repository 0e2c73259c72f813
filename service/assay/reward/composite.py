"""Attributes, safety and costs as one reward.

A part is one named score of a response. Parts on different scales are `standardised` first, with
the mean and spread of a fixed reference set: never of the request itself, whose other items would
otherwise change a score.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from assay.reward.transform import standardize

if TYPE_CHECKING:
    from collections.abc import Mapping


def weighted(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return Σ weight · part. Weights are taken as they are: negative ones are costs.

    Raises ValueError, with the names, unless exactly the parts have weights. Weight 0 leaves out.
    """
    _match(parts, weights, "weight")
    return math.fsum(weights[name] * part for name, part in parts.items())


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


def _match(parts: Mapping[str, float], values: Mapping[str, object], kind: str) -> None:
    if unknown := sorted(values.keys() - parts.keys()):
        raise ValueError(f"a {kind} is given for {unknown}, which aren't parts")
    if missing := sorted(parts.keys() - values.keys()):
        raise ValueError(f"no {kind} is given for {missing}")
