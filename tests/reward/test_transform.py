import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward.transform import sigmoid, standardize

SCORES = st.floats(-1e6, 1e6)
# Two roundings of a number in (0, 1): the quotient's and the sum's.
ROUNDING = 2 * math.ulp(1.0)


@pytest.mark.parametrize(
    ("score", "probability"),
    [(0.0, 0.5), (math.log(3), 0.75), (-math.log(3), 0.25), (1000.0, 1.0), (-1000.0, 0.0)],
)
def test_sigmoid_of_known_scores(score, probability):
    """The sigmoid is 1 / (1 + exp(-score)), also where exp would overflow."""
    assert sigmoid(score) == pytest.approx(probability, rel=1e-15, abs=0.0)


@given(SCORES)
def test_sigmoids_of_opposite_scores_add_up_to_one(score):
    """σ(x) + σ(−x) = 1."""
    assert abs(sigmoid(score) + sigmoid(-score) - 1.0) <= ROUNDING


@given(SCORES, SCORES)
def test_sigmoid_never_falls(one, other):
    """A higher score never has a lower sigmoid."""
    low, high = sorted((one, other))
    assert sigmoid(low) <= sigmoid(high)


def test_a_standardized_score_counts_the_references_standard_deviations():
    """A score is reported as (score − mean) / std."""
    assert standardize(7.0, mean=3.0, std=2.0) == 2.0


@given(st.floats(-100, 100), st.floats(1e-3, 100))
def test_the_references_mean_standardizes_to_zero(mean, std):
    """A score equal to the reference mean is 0 in its units."""
    assert standardize(mean, mean=mean, std=std) == 0.0
