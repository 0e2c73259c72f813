"""What is reported, against other implementations of the same definitions."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from assay.calibration import report
from assay.cards import calibration as cards

ROUNDING = 1e-5  # figures have six digits
CHANCE = np.random.default_rng(0)
P = CHANCE.random(500)
Y = (CHANCE.random(500) < P**2).astype(float)
GROUPS = [f"prompt {place // 2}" for place in range(500)]


def naive_ece(probabilities, outcomes, bins):
    """Return the expected calibration error, from its definition in plain Python."""
    ranked = sorted(zip(probabilities, outcomes, strict=True))
    total = 0.0
    for number in range(bins):
        part = ranked[number * len(ranked) // bins : (number + 1) * len(ranked) // bins]
        said = sum(p for p, _ in part) / len(part)
        came = sum(y for _, y in part) / len(part)
        total += len(part) / len(ranked) * abs(said - came)
    return total


def test_figures_are_those_of_scikit_learn():
    """NLL and Brier score; ECE by its definition over bins of equally many."""
    figures, _ = report.figures(P, Y, report.Resampled(GROUPS, 0))

    assert figures.nll.value == pytest.approx(log_loss(Y, P), rel=ROUNDING)
    assert figures.brier.value == pytest.approx(brier_score_loss(Y, P), rel=ROUNDING)
    assert figures.ece.value == pytest.approx(naive_ece(P, Y, 10), rel=ROUNDING)
    for figure in (figures.nll, figures.brier):
        assert figure.interval[0] < figure.value < figure.interval[1]


def test_figures_dont_depend_on_the_order_of_pairs():
    """Nor do their intervals depend on anything but prompts and seed."""
    order = np.random.default_rng(1).permutation(500)
    groups = [GROUPS[place] for place in order]

    one, _ = report.figures(P, Y, report.Resampled(GROUPS, 7))
    other, _ = report.figures(P[order], Y[order], report.Resampled(groups, 7))

    assert other.nll.value == pytest.approx(one.nll.value, rel=ROUNDING)
    assert other.nll.interval == pytest.approx(one.nll.interval, rel=ROUNDING)
    assert other.ece.value == pytest.approx(one.ece.value, rel=ROUNDING)


def test_equal_probabilities_share_a_bin():
    """Whatever order they stand in: here three bins are two, which are right as often as said."""
    probabilities = np.repeat([0.5, 0.75], [40, 20])
    outcomes = np.concatenate([np.repeat([0.0, 1.0], 20), np.repeat([0.0, 1.0], [5, 15])])

    assert report.ece(probabilities, outcomes) == 0
    assert report.ece(probabilities[::-1], outcomes[::-1]) == 0
    assert [one["count"] for one in report.reliability(probabilities, outcomes)] == [40, 20]


def test_intervals_are_of_prompts():
    """Pairs that only repeat a prompt's make nothing surer: the interval is as with one each."""
    values = np.random.default_rng(2).normal(size=100)
    once = report.Resampled([str(place) for place in range(100)], 0)
    often = report.Resampled([str(place) for place in range(100) for _ in range(9)], 0)

    assert often.means(np.repeat(values, 9)) == pytest.approx(once.means(values))


def test_auroc_is_that_of_scikit_learn():
    """Ties count half; what is tied itself isn't asked."""
    right = np.append(Y, [0.5, 0.5])
    uncertainty = np.append(P.round(1), [0.0, 1.0])

    found = report.auroc(uncertainty, right, [*GROUPS, "a", "b"], 0)

    assert found["value"] == pytest.approx(roc_auc_score(Y == 0, P.round(1)))
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert report.auroc(P, np.ones(500), GROUPS, 0) is None


def test_risk_is_of_the_surest():
    """The risk of a tenth is that of the most confident tenth, of all that of all."""
    curve = report.risk_coverage(P, Y)

    surest = Y[np.argsort(-P)[:50]]
    assert curve[0] == {"coverage": 0.1, "risk": pytest.approx(1 - surest.mean())}
    assert curve[-1] == {"coverage": 1.0, "risk": pytest.approx(1 - Y.mean())}


def test_coverage_counts_what_is_decided_wrongly():
    """By hand: at a threshold of 1 one of five is decided wrongly, and two are undecided."""
    margins = np.array([3.0, -2.0, 1.0, -0.5, 2.0])

    found = report.covered(cards.Threshold(error_rate=0.2, margin=1.0), margins)

    assert (found.coverage, found.decided) == (pytest.approx(0.8), pytest.approx(0.6))
    assert found.wrong == pytest.approx(1 / 3)


def test_length_figures_by_hand():
    """How often the longer wins leaves out equal ones; the balanced accuracy weighs both halves."""
    differences = np.array([10, 5, -3, 0, 7])
    margins = np.array([1.0, -1.0, 2.0, 5.0, 0.0])
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.5])

    assert report.higher_wins(differences, margins) == (1 + 0 + 0 + 0.5) / 4
    assert report.balanced(differences, right) == pytest.approx((0.5 + 1.0) / 2)


def test_the_interval_of_a_rank_correlation_draws_prompts():
    """Of two prompts one of four draws is the first alone, one the second; ties have mean ranks."""
    values = np.array([1.0, 2.0, 2.0, 5.0, 3.0, 1.0, 4.0, 4.0])
    scores = np.array([0.5, 0.1, 0.9, 0.9, 2.0, 3.0, 1.0, 0.0])
    groups = ["one"] * 4 + ["two"] * 4
    alone = [spearmanr(values[part], scores[part]).statistic for part in (slice(4), slice(4, 8))]

    found = report.resampled_spearman(values, scores, report.Resampled(groups, 0))

    assert found.value == pytest.approx(spearmanr(values, scores).statistic, abs=ROUNDING)
    assert found.interval == pytest.approx((min(alone), max(alone)), abs=ROUNDING)


def test_sharpness_is_the_spread_from_a_toss():
    """0 where nothing is said, a quarter where all is certain."""
    assert report.sharpness(np.full(4, 0.5)) == 0
    assert report.sharpness(np.array([0.0, 1.0])) == 0.25
