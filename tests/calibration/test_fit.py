"""What is fitted, against other implementations of the same definitions."""

import math

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from statsmodels.nonparametric.smoothers_lowess import lowess

from assay.calibration import fit
from assay.errors import InvalidField

OPTIMUM = 1e-4  # relative, of a minimum that two optimizers look for
NINE_DIGITS = 1e-8  # what a file keeps of a number
ON_A_STEP = 1e-6  # what that of a knot's place makes of a value, where two knots are close


def pairs(seed, count, sharpness):
    """Return margins whose order is right with probability σ(sharpness · |margin|)."""
    chance = np.random.default_rng(seed)
    sizes = chance.exponential(1.0, count)
    right = chance.random(count) < 1 / (1 + np.exp(-sharpness * sizes))
    return np.where(right, sizes, -sizes)


def both_ways(margins):
    """Return each pair in both orders, as (margin, whether the first is chosen)."""
    return np.concatenate([margins, -margins]), np.repeat([1, 0], len(margins))


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 4.0])
def test_a_temperature_is_logistic_regression_without_intercept(sharpness):
    """On the pairs in both orders, which say the same."""
    margins = pairs(1, 2_000, sharpness)
    x, y = both_ways(margins)

    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(x[:, None], y)

    assert fit.temperature(margins).temperature == pytest.approx(1 / model.coef_[0, 0], rel=OPTIMUM)


def test_platt_is_logistic_regression_of_being_right_on_the_size():
    """Where that has a slope and an intercept above 0."""
    chance = np.random.default_rng(2)
    sizes = chance.exponential(1.0, 4_000)
    right = chance.random(4_000) < 1 / (1 + np.exp(-(0.5 * sizes + 0.7)))
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(sizes[:, None], right)

    found = fit.platt(np.where(right, sizes, -sizes))

    assert found.slope == pytest.approx(model.coef_[0, 0], rel=1e-3)
    assert found.intercept == pytest.approx(model.intercept_[0], rel=1e-3)


def test_platt_never_says_that_a_larger_margin_is_less_sure():
    """Margins that are wrong more often the larger they are have no slope, nor less than a toss."""
    margins = -pairs(3, 500, 2.0)

    found = fit.platt(margins)

    assert (found.slope, found.intercept) == (pytest.approx(0, abs=1e-6),) * 2


def test_isotonic_is_that_of_both_orders():
    """Regressed on signed margins it is symmetric by itself, and the same from 0.5 on.

    With one more pair that is wrong at the largest margin, in both orders.
    """
    margins = pairs(4, 400, 0.8)
    x, y = both_ways(np.append(margins, -np.abs(margins).max()))
    model = IsotonicRegression(out_of_bounds="clip").fit(x, y)

    found = fit.isotonic(margins)

    first = found.knots[1][0]
    asked = np.linspace(first, np.abs(margins).max(), 200)
    expected = np.maximum(model.predict(asked), 0.5)
    assert [found.probability(each) for each in asked] == pytest.approx(expected, abs=ON_A_STEP)
    assert [found.probability(-each) for each in asked] == [
        1 - found.probability(each) for each in asked
    ]
    assert found.knots[0] == (0.0, 0.5)
    assert found.knots[-1][1] < 1


def test_isotonic_has_few_knots():
    """However many pairs there are; it never falls."""
    margins = pairs(5, 50_000, 0.8)

    values = [value for _, value in fit.isotonic(margins).knots]

    assert len(values) <= 64
    assert values == sorted(values)


def pooled(y, weight=None):
    """Return the isotonic regression of values in order: neighbours that fall are pooled."""
    blocks = []
    for value in y:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (left, n), (right, m) = blocks[-2:]
            blocks[-2:] = [[(left * n + right * m) / (n + m), n + m]]
    return [value for value, count in blocks for _ in range(count)]


def test_acceptable_is_venn_abers_by_definition():
    """At each knot: the label pooled with the calibration labels, once as 0 and once as 1."""
    chance = np.random.default_rng(6)
    scores = chance.permutation(np.linspace(-2, 2, 60).round(3))
    labels = (chance.random(60) < 1 / (1 + np.exp(-scores))).astype(float)

    found = fit.acceptable(scores, labels)

    assert len(found.knots) == 60
    for score, *ends in found.knots:
        others, kept = scores[scores != score], labels[scores != score]
        own = labels[scores == score]
        place = int((others < score).sum())
        ranked = kept[np.argsort(others)]
        for label, end in zip((0.0, 1.0), ends, strict=True):
            middle = [(own.sum() + label) / 2] * 2  # two of one score are pooled at once
            pool = pooled([*ranked[:place], *middle, *ranked[place:]])
            assert end == pytest.approx(pool[place], abs=NINE_DIGITS)


def test_a_probability_of_being_acceptable_lies_in_its_interval():
    """And rises with the score."""
    chance = np.random.default_rng(7)
    scores = chance.normal(size=500)
    found = fit.acceptable(scores, (chance.random(500) < 0.5).astype(float))

    asked = np.linspace(-4, 4, 200)
    probabilities = [found.probability(each) for each in asked]

    assert probabilities == sorted(probabilities)
    for each, probability in zip(asked, probabilities, strict=True):
        low, high = found.interval(each)
        assert low <= probability <= high


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_a_threshold_covers_as_conformal_prediction_promises(rate):
    """Over many draws: of pairs like those fitted on, decided wrongly are at most the rate.

    A draw's wrong decisions are ⌊(n + 1) · rate⌋ / (n + 1) on average, where there is one at all.
    """
    fitted, draws = 99, 2_000
    wrong = 0
    for seed in range(draws):
        margins = pairs(seed, fitted + 1, 0.6)
        (threshold,) = fit.abstention(margins[:-1], [rate]).thresholds
        wrong += margins[-1] < -threshold.margin

    expected = math.floor((fitted + 1) * rate + 1e-9) / (fitted + 1)
    assert binom.ppf(0.0005, draws, expected) <= wrong <= binom.ppf(0.9995, draws, expected)


def test_a_threshold_is_the_rank_that_conformal_prediction_takes():
    """By hand: of 9 pairs and a rate of 0.3, the 7th of the sorted −margins, at least 0."""
    margins = np.array([3.0, 2.0, 1.0, 0.5, -0.25, -0.5, -1.0, 2.5, 1.5])

    thresholds = fit.abstention(margins, [0.3, 0.6]).thresholds

    assert [one.margin for one in thresholds] == [0.25, 0.0]


def test_too_few_pairs_for_a_rate_are_refused():
    """5 % of 18 pairs is none; 19 are enough."""
    with pytest.raises(InvalidField, match=r"0\.05 needs 19 pairs"):
        fit.abstention(np.ones(18), [0.05])
    assert fit.abstention(np.ones(19), [0.05]).thresholds[0].margin == 0


def test_length_is_controlled_by_lowess():
    """At each knot what statsmodels says of the same points; the mean score stays."""
    chance = np.random.default_rng(8)
    texts = ["a" * length for length in chance.integers(1, 2_000, 300)]
    lengths = np.array([len(text) for text in texts], dtype=float)
    scores = 0.002 * lengths + chance.normal(size=300)

    found = fit.length(texts, scores, "characters")

    places = np.array([place for place, _ in found.knots])
    expected = lowess(scores, lengths, frac=0.5, xvals=places)
    assert [value for _, value in found.knots] == pytest.approx(expected, rel=NINE_DIGITS)
    controlled = scores + np.array([found.offset(text) for text in texts])
    assert np.corrcoef(lengths, controlled)[0, 1] == pytest.approx(0, abs=0.05)
    assert controlled.mean() == pytest.approx(scores.mean(), abs=0.05)


def test_a_covariate_that_mostly_has_one_value_is_controlled_too():
    """No line goes through points of one place: their mean stands for it."""
    chance = np.random.default_rng(9)
    texts = ["plain"] * 150 + ["- one\n- two"] * 50
    scores = np.where(np.arange(200) < 150, 0.0, 2.0) + chance.normal(size=200) / 10

    found = fit.length(texts, scores, "list_items")

    assert all(math.isfinite(value) for _, value in found.knots)
    assert found.offset("plain") > found.offset("- one\n- two")


@pytest.mark.parametrize("method", fit.METHODS.values())
def test_margins_that_are_all_alike_are_fitted(method):
    """Nothing divides by zero where all are right, wrong or tied."""
    for margins in (np.ones(60), -np.ones(60), np.zeros(60)):
        found = method(margins)
        assert 0.5 <= found.probability(1.0) <= 1


def test_margins_that_are_one_in_the_file_are_one_knot():
    """Isotonic steps nearer than nine digits, as of standardized scores."""
    margins = np.concatenate([1.0 + np.arange(60) * 1e-12, -0.5 - np.arange(60) * 1e-12])

    found = fit.isotonic(margins)

    assert found.probability(2.0) > 0.5
