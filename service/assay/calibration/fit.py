"""Labelled margins and scores to the tables of `calibration.toml`.

A margin here is that of the target's scores, chosen − rejected: above 0 where the order is right. A
pair says as much the other way round, so only a margin's size and whether it is right are fitted,
and P(a ≻ b) = 1 − P(b ≻ a).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from assay.calibration.extra import library
from assay.cards import calibration as cards
from assay.errors import InvalidField
from assay.reward.covariates import COVARIATES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from assay.reward.covariates import Covariate

_KNOTS = 64
_FRACTION = 0.5  # of the responses, in each of LOWESS' regressions (Huang et al. 2409.17407)
_SPAN = 7.0  # a temperature is looked for within e**±7 of the median margin


def rounded(number: float) -> float:
    """Return a number as the file has it: nine digits."""
    return float(f"{number:.9g}")


def temperature(margins: np.ndarray) -> cards.Temperature:
    """Return the temperature with the lowest mean −log σ(margin / T)."""
    scale = _scale(margins)

    def nll(log_t: float) -> float:
        return float(np.logaddexp(0.0, -margins / (scale * math.exp(log_t))).mean())

    best = library("scipy.optimize").minimize_scalar(
        nll, bounds=(-_SPAN, _SPAN), method="bounded", options={"xatol": 1e-8}
    )
    return cards.Temperature(temperature=rounded(scale * math.exp(best.x)))


def platt(margins: np.ndarray) -> cards.Platt:
    """Return slope and intercept of the logistic regression of being right on |margin|.

    Neither is below 0: a larger margin never makes an order less sure, nor any less than a toss.
    """
    scale = _scale(margins)
    sizes, right = np.abs(margins) / scale, _right(margins)

    def nll(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = weights[0] * sizes + weights[1]
        wrong = 1.0 / (1.0 + np.exp(-logits)) - right
        value = np.logaddexp(0.0, logits) - right * logits
        return value.mean(), np.array([(wrong * sizes).mean(), wrong.mean()])

    best = library("scipy.optimize").minimize(
        nll, [1.0, 0.0], jac=True, bounds=[(0, 1e3), (0, 1e3)], method="L-BFGS-B"
    )
    slope, intercept = best.x
    return cards.Platt(slope=rounded(slope / scale), intercept=rounded(intercept))


def isotonic(margins: np.ndarray) -> cards.Isotonic:
    """Return the isotonic regression of being right on |margin|, from 0.5 at 0.

    One more pair is wrong at the largest margin: what was never wrong here isn't certain.
    """
    sizes, right = np.abs(margins), _right(margins)
    sizes, right = np.append(sizes, sizes.max()), np.append(right, 0.0)
    model = library("sklearn.isotonic").IsotonicRegression(y_min=0.5, y_max=1.0)
    model.fit(sizes, right)
    knots = list(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))
    if knots[0][0] > 0:
        knots.insert(0, (0.0, 0.5))
    # Margins that are one as the file has them have the higher probability.
    by_margin = {rounded(x): rounded(y) for x, y in _thinned(knots)}
    return cards.Isotonic(knots=list(by_margin.items()))


def plain(_margins: np.ndarray) -> cards.Plain:
    """Return that nothing is changed."""
    return cards.Plain()


METHODS: Mapping[str, Callable[[np.ndarray], cards.Preference]] = {
    "none": plain,
    "temperature": temperature,
    "platt": platt,
    "isotonic": isotonic,
}


def acceptable(scores: np.ndarray, labels: np.ndarray) -> cards.Acceptable:
    """Return Venn-Abers probabilities of label 1, at quantiles of the scores.

    At each, isotonic regressions of the labels with one more response of that score: labelled 0
    for the lower probability, 1 for the upper one (Vovk and Petej 1211.0025).

    Raises:
        InvalidField: The scores are all alike.
    """
    isotonic_module = library("sklearn.isotonic")
    scores = np.array([rounded(score) for score in scores])
    if scores.min() == scores.max():
        raise InvalidField("all labelled responses have one score, which tells none from another")
    knots = []
    for score in _quantiles(scores):
        ends = []
        for label in (0.0, 1.0):
            model = isotonic_module.IsotonicRegression(y_min=0.0, y_max=1.0)
            model.fit(np.append(scores, score), np.append(labels, label))
            ends.append(rounded(model.predict([score])[0]))
        knots.append((rounded(score), ends[0], ends[1]))
    return cards.Acceptable(knots=knots)


def abstention(margins: np.ndarray, error_rates: Sequence[float]) -> cards.Abstention:
    """Return split-conformal thresholds on |margin| by error rate.

    The set of orders that conform holds the right one for at least 1 − rate of new pairs that are
    exchangeable with these; a comparison is decided where the set has one order.

    Raises:
        InvalidField: There are too few pairs for a rate.
    """
    check_rates(len(margins), error_rates)
    ranked = np.sort(-margins)
    thresholds = []
    for rate in error_rates:
        margin = max(0.0, rounded(ranked[_rank(len(ranked), rate) - 1]))
        thresholds.append(cards.Threshold(error_rate=rate, margin=margin))
    return cards.Abstention(thresholds=thresholds)


def check_rates(count: int, error_rates: Sequence[float]) -> None:
    """Refuse error rates that need more pairs to be fitted on than there are.

    Raises:
        InvalidField: One does.
    """
    for rate in error_rates:
        if _rank(count, rate) > count:
            raise InvalidField(
                f"an error rate of {rate:g} needs {math.ceil(1 / rate) - 1} pairs to be fitted on, "
                f"and there are {count}; give more, or a higher --alpha"
            )


def _rank(count: int, rate: float) -> int:
    """Return which of so many sorted nonconformity scores is the threshold, from 1."""
    return math.ceil((count + 1) * (1 - rate) - 1e-9)


def length(texts: Sequence[str], scores: np.ndarray, covariate: Covariate) -> cards.LengthControl:
    """Return LOWESS of the scores on a covariate of the responses, at quantiles of it."""
    values = np.array([COVARIATES[covariate](text) for text in texts])
    grid = _quantiles(values)
    lowess = library("statsmodels.nonparametric.smoothers_lowess").lowess
    with np.errstate(invalid="ignore"):
        smooth = lowess(scores, values, frac=_FRACTION, xvals=grid)
    # Where more than that fraction has one value there is no line; their mean stands for it.
    means = np.array(
        [scores[np.abs(values - x).argsort()[: len(values) // 2]].mean() for x in grid]
    )
    smooth = np.where(np.isfinite(smooth), smooth, means)
    knots = [(rounded(x), rounded(y)) for x, y in zip(grid, smooth, strict=True)]
    mean = float(np.interp(values, grid, smooth).mean())
    return cards.LengthControl(covariate=covariate, mean=rounded(mean), knots=knots)


def _right(margins: np.ndarray) -> np.ndarray:
    """Return 1 where the order is right, 0 where it is wrong, 0.5 for a tie."""
    return np.asarray((np.sign(margins) + 1.0) / 2.0)


def _scale(margins: np.ndarray) -> float:
    """Return what a margin typically is: its unit while something is fitted."""
    return float(np.median(np.abs(margins))) or 1.0


def _quantiles(values: np.ndarray) -> np.ndarray:
    """Return at most so many different values from the lowest to the highest."""
    unique = np.unique(values)
    if len(unique) > _KNOTS:
        unique = np.unique(np.quantile(values, np.linspace(0, 1, _KNOTS)))
    return np.unique([rounded(value) for value in unique])


def _thinned(knots: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most so many knots; some of a rising line's rise, too."""
    if len(knots) <= _KNOTS:
        return knots
    places = np.unique(np.linspace(0, len(knots) - 1, _KNOTS).round().astype(int))
    return [knots[place] for place in places]
