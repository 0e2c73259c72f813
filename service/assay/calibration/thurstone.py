"""Several responses to a prompt, compared in pairs, as absolute targets of their scores: zELO.

By Thurstone's model P(i ≻ j) = ½ (1 + erf(e_i − e_j)) (Pipitone et al. 2509.12541) each response
has an e; a straight line from the target's score to it puts rewards of all prompts on one scale.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from assay.calibration import fit, pairs, report
from assay.calibration.extra import library
from assay.cards import calibration as cards

if TYPE_CHECKING:
    from assay.calibration.measured import Pairs

_PRECISION = 0.1  # of the prior of each e, normal around 0: what always wins stays finite
_FEWEST = pairs.FEWEST // 2  # responses on either side
_LEAST = 3  # responses that comparisons connect: two alone have a target that is always the same
_STEPS = 100  # of Newton's method, which takes about ten
_CLOSE = 1e-12


class Targets(NamedTuple):
    """Responses with their scores and what these are fitted to, an element for each."""

    groups: list[str]
    scores: np.ndarray
    targets: np.ndarray


def absolute(
    fitted_on: Pairs, held_out: Pairs, seed: int
) -> tuple[cards.Absolute, dict[str, Any]] | None:
    """Return the line from scores to targets, and its report; None where few are in graphs.

    The line is that of least squares, of a slope of at least 0. Where any response is a reference
    answer these are at 0 on average, and prompts without one don't count; else each prompt's
    responses are.
    """
    zero: cards.Zero = "prompt"
    if any(any(both) for compared in (fitted_on, held_out) for both in compared.references):
        zero = "reference"
    fitted, out = (targets(compared, zero) for compared in (fitted_on, held_out))
    if min(len(fitted.groups), len(out.groups)) < _FEWEST:
        return None
    spread, mean = fitted.scores - fitted.scores.mean(), fitted.targets.mean()
    slope = max(0.0, float(spread @ fitted.targets) / (float(spread @ spread) or 1.0))
    intercept = mean - slope * fitted.scores.mean()
    errors = out.targets - (slope * out.scores + intercept)
    draws = report.Resampled(out.groups, seed)
    table = cards.Absolute(
        slope=fit.rounded(slope),
        intercept=fit.rounded(intercept),
        zero=zero,
        fitted=len(fitted.groups),
        held_out=len(out.groups),
        prompts=draws.prompts,
        constant=report.rmse(out.targets - mean, draws),
        rmse=report.rmse(errors, draws),
        spearman=report.resampled_spearman(out.scores, out.targets, draws),
    )
    return table, table.model_dump()


def targets(compared: Pairs, zero: cards.Zero = "prompt") -> Targets:
    """Return the e of each response that comparisons connect with at least two others."""
    places: dict[tuple[str, str], int] = {}
    groups: list[str] = []
    scores: list[float] = []
    references: list[bool] = []
    ends = np.empty(compared.scores.shape, dtype=int)
    for row, (prompt, texts) in enumerate(zip(compared.prompts, compared.texts, strict=True)):
        for side, text in enumerate(texts):
            ends[row, side] = places.setdefault((prompt, text), len(places))
            if len(places) > len(groups):
                groups.append(compared.groups[row])
                scores.append(compared.scores[row, side])
                references.append(compared.references[row][side])
    count = len(groups)
    graph = library("scipy.sparse").coo_array((np.ones(len(ends)), ends.T), shape=(count, count))
    _, parts = library("scipy.sparse.csgraph").connected_components(graph, directed=False)
    e = np.full(count, np.nan)
    order = np.argsort(parts[ends[:, 0]], kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(parts[ends[order, 0]])) + 1):
        members, numbers = np.unique(ends[rows], return_inverse=True)
        anchors = [place for place in members if references[place]]
        if len(members) < _LEAST or (zero == "reference" and not anchors):
            continue
        better, worse = numbers.reshape(-1, 2).T
        e[members] = strengths(better, worse, len(members))
        if zero == "reference":
            e[members] -= e[anchors].mean()
    kept = np.flatnonzero(np.isfinite(e))
    return Targets([groups[place] for place in kept], np.array(scores)[kept], e[kept])


def strengths(better: np.ndarray, worse: np.ndarray, count: int) -> np.ndarray:
    """Return the e that are most probable after comparisons of so many responses, by Newton.

    `better` and `worse` are places of responses, an element for each comparison. Each e is normal
    around 0 beforehand, with a precision of 0.1; so their sum is 0.
    """
    log_ndtr = library("scipy.special").log_ndtr
    e = np.zeros(count)
    for _ in range(_STEPS):
        z = math.sqrt(2) * (e[better] - e[worse])  # ½ (1 + erf(d)) = Φ(√2 d)
        ratio = np.exp(-z * z / 2 - log_ndtr(z)) / math.sqrt(2 * math.pi)
        pull = math.sqrt(2) * ratio  # of a comparison on its two e, and how it falls with them
        bend = 2 * ratio * (z + ratio)
        gradient = np.bincount(better, pull, count) - np.bincount(worse, pull, count)
        hessian = np.zeros((count, count))
        np.add.at(hessian, (better, worse), -bend)
        hessian += hessian.T
        np.fill_diagonal(hessian, _PRECISION - hessian.sum(axis=1))
        step = np.linalg.solve(hessian, gradient - _PRECISION * e)
        e += step
        if np.abs(step).max() < _CLOSE:
            break
    return e
