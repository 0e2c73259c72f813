"""From margins and scores to fitted probabilities: exact symmetry, straight lines, Venn-Abers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward import calibration
from assay.reward.preference import compare
from assay.reward.transform import sigmoid

MARGINS = st.floats(-50, 50)
SLOPES = st.floats(0, 5)
RISING = st.lists(st.integers(-100, 100), min_size=1, max_size=8, unique=True).map(sorted)
# One product and one sum of numbers in [0, 1], in another order than numpy's.
ROUNDING = 4 * math.ulp(1.0)


@given(MARGINS, SLOPES, SLOPES)
def test_what_one_order_gets_the_other_lacks(margin, slope, intercept):
    """P(a ≻ b) = 1 − P(b ≻ a), bit by bit, and the higher reward is never the less probable."""

    def confidence(size):
        return sigmoid(slope * size + intercept)

    forth = calibration.symmetric(margin, confidence)
    back = calibration.symmetric(-margin, confidence)

    assert (forth, back) == (1 - back, 1 - forth)
    assert (forth >= 0.5) == (margin >= 0 or forth == 0.5)


def test_without_a_margin_neither_is_more_probable():
    """Whatever is fitted: 0.5."""
    assert calibration.symmetric(0.0, lambda _: 0.9) == 0.5


def test_a_confidence_below_a_toss_is_a_toss():
    """The higher reward is never fitted to be the worse one."""
    assert calibration.symmetric(-1.0, lambda _: 0.4) == 0.5


@given(RISING, st.floats(-200, 200), st.data())
def test_between_knots_are_straight_lines(places, x, data):
    """As numpy interpolates; beyond the knots their ends' values."""
    values = [data.draw(st.floats(0, 1)) for _ in places]

    found = calibration.interpolate(list(zip(map(float, places), values, strict=True)), x)

    assert found == pytest.approx(np.interp(x, places, values), abs=ROUNDING)


@given(RISING, st.floats(-200, 200), st.floats(0, 100), st.data())
def test_where_knots_rise_no_larger_x_gives_less(places, x, more, data):
    """Roundings included."""
    values = sorted(data.draw(st.floats(0, 1)) for _ in places)
    knots = list(zip(map(float, places), values, strict=True))

    assert calibration.interpolate(knots, x) <= calibration.interpolate(knots, x + more)


def test_a_knot_may_have_several_values():
    """The column says which is taken."""
    knots = [(0.0, 0.1, 0.3), (2.0, 0.3, 0.9)]

    assert calibration.interpolate(knots, 1.0, 2) == pytest.approx(0.6)


def test_an_interval_becomes_one_probability():
    """p1 / (1 − p0 + p1): by hand for (0.2, 0.4), and unmoved where both are one."""
    assert calibration.merged(0.2, 0.4) == pytest.approx(1 / 3)
    assert calibration.merged(0.7, 0.7) == pytest.approx(0.7)


def test_a_calibration_takes_the_margin_of_the_means():
    """Members of 3, 1 and −1 have a mean margin of 1; each probability is of a pair of means."""
    rewards = [[3.0, 0.0, 0.0], [5.0, 4.0, 0.0], [-1.0, 0.0, 0.0]]

    outcome = compare(rewards, calibration=lambda margin: 0.5 + margin / 100)

    assert outcome.probabilities[0][1] == 0.51
    assert outcome.probabilities[1][0] == 0.49
    assert [outcome.probabilities[i][i] for i in range(3)] == [0.5] * 3


@pytest.mark.parametrize(("threshold", "undecided"), [(0.9, False), (1.0, True), (None, True)])
def test_a_threshold_alone_decides_what_is_undecided(threshold, undecided):
    """Of a margin of 1 and members who differ by more: at the threshold it is undecided."""
    rewards = [[3.0, 0.0], [5.0, 4.0], [-1.0, 0.0]]

    outcome = compare(rewards, threshold=threshold)

    assert (outcome.undecided, outcome.winner) == (undecided, 0)
