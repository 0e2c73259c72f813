import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward import choice, preference, selection, tournament

REWARDS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12)
DISTRIBUTIONS = st.lists(st.floats(0, 1), min_size=2, max_size=10).filter(any)
SUM = 1e-12  # a dozen quotients, each rounded once
PRIOR = 1e-7  # what keeps strengths finite moves a probability by less


def test_two_options_are_chosen_between_as_bradley_terry_has_it():
    """P(0) = σ(r_0 − r_1)."""
    found = choice.by_rewards([1.5, -0.25])

    assert found.best == 0
    assert found.probabilities[0] == pytest.approx(1 / (1 + math.exp(-1.75)), rel=1e-15)


@given(REWARDS)
def test_probabilities_add_up_to_one_and_are_ordered_as_the_rewards(rewards):
    """Whoever has a higher reward is never less likely."""
    found = choice.by_rewards(rewards).probabilities

    assert math.fsum(found) == pytest.approx(1.0, abs=SUM)
    ranked = sorted(zip(rewards, found, strict=True))
    assert [p for _, p in ranked] == sorted(found)


@given(REWARDS)
def test_the_best_is_who_is_best_of_n(rewards):
    """Of equal ones the first; nobody is likelier."""
    found = choice.by_rewards(rewards)

    assert found.best == selection.select([rewards]).ranking[0]
    assert found.probabilities[found.best] == max(found.probabilities)


def test_rewards_far_apart_neither_overflow_nor_vanish_together():
    """The highest reward stands for exp(0)."""
    assert choice.by_rewards([1e5, -1e5]).probabilities == [1.0, 0.0]
    assert choice.by_rewards([-1e5, -1e5]).probabilities == [0.5, 0.5]


def test_a_temperature_divides_the_rewards():
    """Half the temperature is twice the distance."""
    assert choice.by_rewards([1.0, 0.0], temperature=0.5) == choice.by_rewards([2.0, 0.0])


@given(st.floats(1e-6, 1 - 1e-6))
def test_a_preference_between_two_is_its_own_probability(p):
    """Nothing is fitted that isn't there."""
    found = choice.by_preferences([[0.5, p], [1 - p, 0.5]])

    assert found.probabilities == pytest.approx([p, 1 - p], abs=PRIOR)


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=6))
def test_preferences_of_rewards_give_the_choice_by_rewards(rewards):
    """Luce's choice is the one that agrees with Bradley-Terry on every pair."""
    matrix = preference.compare([rewards]).probabilities

    found = choice.by_preferences(matrix)

    expected = choice.by_rewards(rewards).probabilities
    assert found.probabilities == pytest.approx(expected, abs=PRIOR)


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.floats(0, 1), min_size=n * n, max_size=n * n).map(
            lambda drawn: [drawn[i * n : (i + 1) * n] for i in range(n)]
        )
    )
)
def test_who_wins_most_is_the_likeliest_even_where_preferences_go_in_circles(drawn):
    """Strengths over all pairs are in the order of the mean probabilities of winning."""
    n = len(drawn)
    matrix = tournament.matrix({(i, j): drawn[i][j] for i in range(n) for j in range(i + 1, n)}, n)

    found = choice.by_preferences(matrix)

    assert found.best == tournament.ranking(tournament.scores(matrix))[0]
    assert found.probabilities[found.best] == pytest.approx(max(found.probabilities), abs=PRIOR)


def test_a_lone_option_is_certain():
    """By rewards and by preferences, on either scale of confidence."""
    assert choice.by_rewards([-3.0]) == choice.by_preferences([[0.5]]) == choice.Choice(0, [1.0])
    assert choice.confidence([1.0]) == choice.level_confidence([1.0]) == 1.0
    assert choice.level([1.0]) == 0.0


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([1.0, 0.0], 1.0), ([0.25] * 4, 0.0), ([0.75, 0.25], 0.5), ([0.5, 0.25, 0.25], 0.25)],
)
def test_confidence_by_hand(probabilities, expected):
    """(n · peak − 1) / (n − 1)."""
    assert choice.confidence(probabilities) == expected


@pytest.mark.parametrize(
    ("probabilities", "expected", "confidence"),
    [
        ([0.0, 0.0, 1.0], 2.0, 1.0),
        ([0.5, 0.5], 0.5, 0.0),
        ([0.5, 0.0, 0.5], 1.0, 0.0),
        ([0.25, 0.5, 0.25], 1.0, 0.25),
    ],
)
def test_levels_by_hand(probabilities, expected, confidence):
    """Σ p · place, and one less the spread around the peak over a uniform guess's."""
    assert choice.level(probabilities) == expected
    assert choice.level_confidence(probabilities) == pytest.approx(confidence, abs=1e-15)


@given(DISTRIBUTIONS)
def test_confidences_are_from_zero_to_one(weights):
    """Whatever the distribution."""
    total = math.fsum(weights)
    probabilities = [one / total for one in weights]

    assert 0 <= choice.confidence(probabilities) <= 1
    assert 0 <= choice.level_confidence(probabilities) <= 1
