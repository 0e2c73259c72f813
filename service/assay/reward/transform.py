"""From the raw reward to the number a caller asked for."""

from __future__ import annotations

import math


def sigmoid(score: float) -> float:
    """Return 1 / (1 + exp(-score)) without overflow."""
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    grown = math.exp(score)
    return grown / (1.0 + grown)


def standardize(score: float, *, mean: float, std: float) -> float:
    """Return the score in units of a fixed reference set's spread: (score − mean) / std."""
    return (score - mean) / std
