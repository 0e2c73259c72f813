import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward import ensemble

MEMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9)


def test_the_variance_divides_by_the_number_of_members():
    """Variance is the population's: (1 + 0 + 1) / 3 for 1, 2, 3."""
    assert ensemble.variance([1.0, 2.0, 3.0]) == 2 / 3


def test_the_standard_deviation_is_the_root_of_the_variance():
    """Members 1 and 5 are each 2 away from their mean."""
    assert ensemble.std([1.0, 5.0]) == 2.0


def test_the_mean_is_rounded_once():
    """Small members aren't lost beside a large one."""
    assert ensemble.mean([1e16, 1.0, -1e16, 1.0]) == 0.5


@pytest.mark.parametrize("statistic", [ensemble.variance, ensemble.std])
def test_a_single_member_has_no_spread(statistic):
    """One member agrees with itself."""
    assert statistic([3.7]) == 0.0


@given(MEMBERS)
def test_the_mean_lies_among_the_members(members):
    """min ≤ mean ≤ max, up to the last bit of the mean."""
    mean = ensemble.mean(members)
    slack = math.ulp(mean)
    assert min(members) - slack <= mean <= max(members) + slack


@given(MEMBERS, st.randoms(use_true_random=False))
def test_the_order_of_members_changes_nothing(members, random):
    """Mean and spread are bit-equal however the members are listed."""
    shuffled = random.sample(members, len(members))
    assert (ensemble.mean(shuffled), ensemble.std(shuffled)) == (
        ensemble.mean(members),
        ensemble.std(members),
    )


@given(st.floats(-1e6, 1e6), st.integers(1, 9))
def test_equal_members_have_no_spread(score, count):
    """The spread of n equal scores is zero, up to one rounding of their mean."""
    assert ensemble.std([score] * count) <= math.ulp(score)


# The objectives of tlc4418/llm_optimization, `src/bon/ensemble_rm.py`, in its own words.
COSTE = {
    "mean": lambda scores, _: np.mean(scores),
    "min": lambda scores, _: np.min(scores),
    "variance_penalty": lambda scores, penalty: np.mean(scores) - penalty * np.var(scores),
    "lower_bound": lambda scores, penalty: np.mean(scores) - penalty * np.std(scores),
    "median": lambda scores, _: np.median(scores),
}


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9), st.floats(0, 4))
@pytest.mark.parametrize("rule", COSTE)
def test_rules_are_those_of_coste_et_al(rule, members, penalty):
    """WCO is the lowest, UWO the mean less lambda times the population's variance."""
    given_penalty = penalty if rule in ensemble.DEFAULT_PENALTY else None
    found = ensemble.combined(members, rule, given_penalty)

    assert found == pytest.approx(COSTE[rule](members, penalty), rel=1e-9, abs=1e-9)


@given(MEMBERS)
def test_by_default_the_reward_is_the_mean_to_the_last_bit(members):
    """What was answered before there were rules doesn't move."""
    assert ensemble.combined(members) == ensemble.mean(members)


@pytest.mark.parametrize(
    ("rule", "reward"), [("lower_bound", 3.0 - 2.0), ("variance_penalty", 3.0 - 0.5 * 4.0)]
)
def test_one_model_may_say_itself_how_sure_it_is(rule, reward):
    """Its own variance stands in for its members'; the penalties are the same."""
    assert ensemble.combined([3.0], rule, own_variance=4.0) == reward
