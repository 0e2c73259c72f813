"""Rewards from a model that only compares: which pairs to run, and one number a response.

Responses are 0 to n − 1. A matrix is n × n with P(i ≻ j) at [i][j] and 0.5 on its diagonal.
"""

from __future__ import annotations

import math
from operator import mul
from typing import TYPE_CHECKING

from assay.reward.ensemble import mean
from assay.reward.transform import sigmoid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRIOR = 1e-4
_STEPS = 100
_SETTLED = 1e-9


def both_orders(p_ab: float, p_ba: float) -> float:
    """Return P(a ≻ b) with the position's effect averaged out: (p_ab + 1 − p_ba) / 2.

    `p_ab` is P(first ≻ second) with a read first, `p_ba` with b read first.
    """
    return (p_ab + (1.0 - p_ba)) / 2


def both_orders_logit(logit_ab: float, logit_ba: float) -> float:
    """Return the logit of a ≻ b with the position's effect averaged out: (AB − BA) / 2.

    It is on the scale of one reading, on which models are trained. LLM-Blender (Jiang et al.
    2306.02561) calls its own AB − BA, twice this, the average.
    """
    return (logit_ab - logit_ba) / 2


def schedule(n: int, limit: int) -> list[tuple[int, int]]:
    """Return at most `limit` pairs (first, second) to run, each response in equally many.

    All n(n − 1) / 2 pairs where they fit. Else rings: with stride s, every response meets the one s
    places on, which connects all by the first ring alone and puts each as often first as second
    (zELO, Pipitone et al. 2509.12541, draws such cycles at random). For k rings the strides are
    near n^(i / k), with which fitted strengths vary little more than with the best strides.

    Raises ValueError where not even one ring fits.
    """
    most = (n - 1) // 2
    if n * (n - 1) // 2 <= limit:
        strides = list(range(1, n // 2 + 1))
    elif limit < n:
        raise ValueError(f"{limit} pairs can't connect {n} responses equally: {n} can")
    else:
        rings = limit // n
        strides = [
            max(i + 1, min(int(n ** (i / rings) + 1e-9), most - (rings - 1 - i)))
            for i in range(rings)
        ]
        if n % 2 == 0 and limit - n * rings >= n // 2:
            strides.append(n // 2)
    return [
        (i, (i + stride) % n) for stride in strides for i in range(n // 2 if 2 * stride == n else n)
    ]


def bradley_terry(
    wins: Mapping[tuple[int, int], float], n: int, *, prior: float = PRIOR
) -> list[float]:
    """Return strengths s of mean 0 with P(i ≻ j) ≈ σ(s_i − s_j), fitted to the pairs run.

    `wins[i, j]` is P(i ≻ j); a pair given in both orders counts twice. Maximizes the likelihood
    Σ p log σ(s_i − s_j) + (1 − p) log σ(s_j − s_i), less prior / 2 · Σ s², which keeps strengths
    finite where a response always wins and where pairs don't connect all. Newton steps, damped as a
    logistic likelihood needs to rise at each of them (Sun and Tran-Dinh 1703.04599).

    Raises ValueError for a response outside 0 to n − 1, one compared with itself, p outside [0, 1]
    and a prior not above 0.
    """
    _check(wins, n)
    if not prior > 0:
        raise ValueError(f"the prior is {prior}, not above 0")
    strengths = [0.0] * n
    for _ in range(_STEPS):
        step = _newton(wins, strengths, prior)
        widest = max((abs(step[i] - step[j]) for i, j in wins), default=0.0)
        length = math.log1p(widest) / widest if widest > 0 else 1.0
        strengths = [s + length * d for s, d in zip(strengths, step, strict=True)]
        if widest <= _SETTLED:
            break
    centre = mean(strengths) if strengths else 0.0
    return [s - centre for s in strengths]


def matrix(
    wins: Mapping[tuple[int, int], float], n: int, *, prior: float = PRIOR
) -> list[list[float]]:
    """Return the matrix with the pairs run as they came out, the others from `bradley_terry`.

    A pair given in both orders is averaged. Raises ValueError as `bradley_terry` does.
    """
    _check(wins, n)
    every = all((i, j) in wins or (j, i) in wins for i in range(n) for j in range(i))
    strengths = [0.0] * n if every else bradley_terry(wins, n, prior=prior)
    filled = [[sigmoid(strength - other) for other in strengths] for strength in strengths]
    for (i, j), p in wins.items():
        filled[i][j] = both_orders(p, wins[j, i]) if (j, i) in wins else p
        filled[j][i] = 1.0 - filled[i][j]
    return filled


def bilinear(
    embeddings: Sequence[Sequence[float]],
    gate: Sequence[float] | None = None,
    *,
    temperature: float = 1.0,
) -> list[list[float]]:
    """Return the matrix of the General Preference Model (Zhang et al. 2410.02197).

    P(i ≻ j) = σ(Σ_b gate_b (v_i[2b] v_j[2b+1] − v_i[2b+1] v_j[2b]) / temperature), with one
    embedding v a response and the prompt's `gate` with one number a block of two, 1 where None.

    Raises ValueError where embeddings aren't of one even length, the gate isn't of half of it, or
    the temperature isn't above 0.
    """
    lengths = {len(embedding) for embedding in embeddings}
    if len(lengths) > 1 or any(length % 2 for length in lengths):
        raise ValueError(f"embeddings have {sorted(lengths)} numbers, not one even number of them")
    blocks = next(iter(lengths), 0) // 2
    if gate is None:
        gate = [1.0] * blocks
    elif embeddings and len(gate) != blocks:
        raise ValueError(f"the gate has {len(gate)} numbers for {blocks} blocks of two")
    if not temperature > 0:
        raise ValueError(f"the temperature is {temperature}, not above 0")
    return [[sigmoid(_form(v, w, gate) / temperature) for w in embeddings] for v in embeddings]


def scores(matrix: Sequence[Sequence[float]]) -> list[float]:
    """Return each response's mean probability of winning against the others; 0.5 for a lone one.

    Raises ValueError where the matrix isn't square.
    """
    n = len(matrix)
    if any(len(row) != n for row in matrix):
        raise ValueError(f"a matrix of {n} rows has rows of {sorted(map(len, matrix))}")
    if n == 1:
        return [0.5]
    return [mean([p for j, p in enumerate(row) if j != i]) for i, row in enumerate(matrix)]


def ranking(scores: Sequence[float]) -> list[int]:
    """Return the responses, best first; equal ones by lowest index."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def _check(wins: Mapping[tuple[int, int], float], n: int) -> None:
    for (i, j), p in wins.items():
        if not (0 <= i < n and 0 <= j < n) or i == j:
            raise ValueError(f"({i}, {j}) is no pair of {n} responses")
        if not 0 <= p <= 1:
            raise ValueError(f"P({i} ≻ {j}) is {p}, outside [0, 1]")


def _form(v: Sequence[float], w: Sequence[float], gate: Sequence[float]) -> float:
    """Return Σ_b gate_b (v[2b] w[2b+1] − v[2b+1] w[2b]), exactly skew-symmetric."""
    return math.fsum(
        factor * (v[2 * b] * w[2 * b + 1] - v[2 * b + 1] * w[2 * b])
        for b, factor in enumerate(gate)
    )


def _dot(v: Sequence[float], w: Sequence[float]) -> float:
    return math.fsum(map(mul, v, w))


def _newton(
    wins: Mapping[tuple[int, int], float], strengths: Sequence[float], prior: float
) -> list[float]:
    """Return the step d with H d = g, H the curvature and g the gradient at these strengths.

    By conjugate gradients: H has an entry a pair only, and any of its iterates is an ascent.
    """
    residual = [-prior * s for s in strengths]
    weights = {}
    for (i, j), p in wins.items():
        expected = sigmoid(strengths[i] - strengths[j])
        weights[i, j] = expected * sigmoid(strengths[j] - strengths[i])
        residual[i] += p - expected
        residual[j] -= p - expected
    step = [0.0] * len(strengths)
    direction = list(residual)
    square = _dot(residual, residual)
    enough = 1e-20 * square
    for _ in range(10 * len(strengths)):
        if square <= enough:
            break
        bent = [prior * d for d in direction]
        for (i, j), weight in weights.items():
            pull = weight * (direction[i] - direction[j])
            bent[i] += pull
            bent[j] -= pull
        along = square / _dot(direction, bent)
        step = [s + along * d for s, d in zip(step, direction, strict=True)]
        residual = [r - along * b for r, b in zip(residual, bent, strict=True)]
        before, square = square, _dot(residual, residual)
        direction = [r + square / before * d for r, d in zip(residual, direction, strict=True)]
    return step
