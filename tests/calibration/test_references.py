"""What is fitted and reported, against packages for it: venn-abers, crepes and netcal."""

import numpy as np
import pytest
from crepes import ConformalClassifier
from sklearn.datasets import load_breast_cancer
from venn_abers import VennAbers

from assay.calibration import fit, report

NINE_DIGITS = 1e-8  # what a file keeps of a number
ROUNDING = 1e-12  # sums in another order
# By netcal 1.4.0, which needs far more than the rest of the tests, in an environment of its own:
# ECE(bins=bins, equal_intervals=False).measure(p, benign), with p and benign as below.
NETCAL = {5: 0.11126279954215765, 10: 0.13039307192018673, 15: 0.11805526025319667}


def chances(scores):
    """Return both probabilities of each score, as the packages take them."""
    p = 1 / (1 + np.exp(-scores))
    return np.column_stack([1 - p, p])


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")  # inside of it
@pytest.mark.parametrize("count", [60, 1_000])
def test_acceptable_is_what_venn_abers_says(count):
    """Both ends at each knot, and the one probability that is made of them."""
    chance = np.random.default_rng(count)
    scores = chance.normal(size=count).round(3)
    labels = (chance.random(count) < 1 / (1 + np.exp(-scores))).astype(float)
    reference = VennAbers()
    reference.fit(chances(scores), labels)

    found = fit.acceptable(scores, labels)

    places, lows, highs = np.array(found.knots).T
    probabilities, ends = reference.predict_proba(chances(places))
    assert np.column_stack([lows, highs]) == pytest.approx(ends, abs=NINE_DIGITS)
    assert [found.probability(place) for place in places] == pytest.approx(
        probabilities[:, 1], abs=NINE_DIGITS
    )


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_a_comparison_is_undecided_where_both_orders_conform(rate):
    """crepes' sets of the orders that aren't rejected, without its random ties."""
    chance = np.random.default_rng(1)
    margins, new = (chance.normal(0.5, 1.0, size) for size in (300, 2_000))
    reference = ConformalClassifier().fit(-margins)

    (threshold,) = fit.abstention(margins, [rate]).thresholds

    sets = reference.predict_set(np.column_stack([-new, new]), confidence=1 - rate, smoothing=False)
    undecided = np.abs(new) <= threshold.margin
    assert 0 < undecided.sum() < len(new)
    assert (sets.sum(axis=1) == 2).tolist() == undecided.tolist()


@pytest.mark.parametrize("bins", NETCAL)
def test_the_calibration_error_is_netcals(bins):
    """Over bins of equally many: how probable it is by a tumour's mean radius that it is benign."""
    data, benign = load_breast_cancer(return_X_y=True)
    radius = data[:, 0]
    p = 1 / (1 + np.exp((radius - radius.mean()) / radius.std() * 2))

    assert report.ece(p, benign.astype(float), bins) == pytest.approx(NETCAL[bins], abs=ROUNDING)
