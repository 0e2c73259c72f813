import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward.preference import compare

SCORES = st.floats(-50, 50)
# Scores on a grid of 1/8 with integer shifts: sums and differences are exact in binary.
EXACT = st.integers(-400, 400).map(lambda eighths: eighths / 8)
# A probability is a mean of sigmoids: a few roundings of a number in (0, 1).
ROUNDING = 8 * math.ulp(1.0)


def ensembles(scores, *, most=5):
    """Return rows of scores, one a member, of the same two or more responses."""
    return st.integers(2, most).flatmap(
        lambda n: st.lists(st.lists(scores, min_size=n, max_size=n), min_size=1, max_size=5)
    )


def test_two_responses_of_one_model_by_hand():
    """r = (2, 2 − ln 3) gives a margin of ln 3 and a probability of 3/4."""
    outcome = compare([[2.0, 2.0 - math.log(3)]])
    assert outcome.margin == pytest.approx(math.log(3), rel=1e-15)
    assert outcome.probability == pytest.approx(0.75, rel=1e-15)
    assert (outcome.winner, outcome.ranking, outcome.undecided) == (0, [0, 1], False)


def test_a_single_model_has_no_agreement_and_no_spread():
    """What needs several members is null for one."""
    outcome = compare([[1.0, 0.0]])
    assert (outcome.agreement, outcome.margin_std) == (None, None)


def test_three_members_by_hand():
    """Margins 3, 1, −1: mean 1, population std √(8/3), two of three on the winner's side."""
    outcome = compare([[3.0, 0.0], [5.0, 4.0], [-1.0, 0.0]])
    assert outcome.margin == 1.0
    assert outcome.margin_std == pytest.approx(math.sqrt(8 / 3), rel=1e-15)
    assert outcome.agreement == 2 / 3
    assert outcome.winner == 0
    assert outcome.undecided is True


def test_a_member_that_sees_no_difference_is_on_nobodys_side():
    """Margins 2 and 0: one of two members agrees with the winner."""
    assert compare([[2.0, 0.0], [1.0, 1.0]]).agreement == 0.5


def test_a_spread_below_the_margin_decides():
    """A comparison is decided where |margin| > margin_std: margins 3 and 1 here."""
    assert compare([[3.0, 0.0], [1.0, 0.0]]).undecided is False


def test_the_probability_is_averaged_over_members():
    """P = mean of the members' own Bradley-Terry probabilities: (3/4 + 1/4) / 2."""
    outcome = compare([[math.log(3), 0.0], [0.0, math.log(3)]])
    assert outcome.probability == pytest.approx(0.5, rel=1e-15)


def test_the_temperature_divides_the_margin():
    """σ(2 ln 3 / 2) = 3/4."""
    outcome = compare([[2 * math.log(3), 0.0]], temperature=2.0)
    assert outcome.probability == pytest.approx(0.75, rel=1e-15)


def test_the_second_response_can_win():
    """Margin and probability stay those of (0, 1) when 1 wins."""
    outcome = compare([[0.0, 1.0], [0.0, 3.0]])
    assert (outcome.winner, outcome.margin, outcome.agreement) == (1, -2.0, 1.0)
    assert outcome.probability < 0.5


def test_equal_rewards_are_a_tie():
    """A tie has no winner, no agreement, and is undecided; the ranking goes by index."""
    outcome = compare([[1.0, 1.0], [2.0, 2.0]])
    assert (outcome.winner, outcome.agreement, outcome.undecided) == (None, None, True)
    assert outcome.ranking == [0, 1]


@pytest.mark.parametrize(("tie_margin", "winner"), [(0.49, 0), (0.5, None), (0.51, None)])
def test_a_margin_up_to_the_tie_margin_is_a_tie(tie_margin, winner):
    """|margin| ≤ tie_margin has no winner."""
    assert compare([[1.5, 1.0]], tie_margin=tie_margin).winner == winner


def test_several_responses_compare_the_first_of_the_ranking_with_the_second():
    """For more than two responses margin and probability are of the two best."""
    outcome = compare([[0.0, 5.0, 3.0]])
    assert (outcome.ranking, outcome.winner, outcome.margin) == ([1, 2, 0], 1, 2.0)
    assert outcome.probability == outcome.probabilities[1][2]


@given(ensembles(SCORES), st.floats(0.1, 10))
def test_opposite_probabilities_add_up_to_one(rewards, temperature):
    """P(a ≻ b) + P(b ≻ a) = 1, and P(a ≻ a) = 1/2."""
    matrix = compare(rewards, temperature=temperature).probabilities
    count = len(matrix)
    assert all(matrix[i][i] == 0.5 for i in range(count))
    assert all(
        abs(matrix[i][j] + matrix[j][i] - 1.0) <= ROUNDING
        for i in range(count)
        for j in range(count)
    )


@given(ensembles(EXACT), st.data())
def test_a_members_shift_of_a_whole_prompt_cancels(rewards, data):
    """Adding a constant to all of one member's scores changes no margin and no probability."""
    shifts = data.draw(
        st.lists(st.integers(-100, 100), min_size=len(rewards), max_size=len(rewards))
    )
    shifted = [[score + by for score in row] for row, by in zip(rewards, shifts, strict=True)]
    before, after = compare(rewards, tie_margin=1e-9), compare(shifted, tie_margin=1e-9)
    assert after.probabilities == before.probabilities
    assert abs(after.margin) == pytest.approx(abs(before.margin), abs=1e-12)


@given(ensembles(EXACT, most=2))
def test_exchanging_two_responses_exchanges_the_outcome(rewards):
    """The order in which two responses are sent doesn't favour either."""
    one, other = compare(rewards), compare([row[::-1] for row in rewards])
    assert other.margin == -one.margin
    assert other.margin_std == one.margin_std
    assert other.agreement == one.agreement
    assert other.winner == (None if one.winner is None else 1 - one.winner)


@given(ensembles(SCORES))
def test_the_ranking_is_a_permutation_headed_by_the_winner(rewards):
    """Every response is ranked once; a winner is ranked first."""
    outcome = compare(rewards)
    assert sorted(outcome.ranking) == list(range(len(rewards[0])))
    assert outcome.winner in {None, outcome.ranking[0]}


@given(ensembles(SCORES, most=2))
def test_the_agreement_is_a_share_of_the_members(rewards):
    """Agreement is None or k / members with 1 ≤ k: someone saw the winner ahead."""
    agreement = compare(rewards).agreement
    shares = [k / len(rewards) for k in range(1, len(rewards) + 1)]
    assert agreement is None or agreement in shares


def test_another_rule_decides_the_winner_and_the_margin():
    """By the lower bound the second wins, though members like the first better on average."""
    outcome = compare([[4.0, 1.0], [0.0, 1.0]], combined=[0.0, 1.0])
    assert (outcome.winner, outcome.ranking, outcome.margin) == (1, [1, 0], -1.0)
    assert (outcome.margin_std, outcome.agreement) == (2.0, 0.5)


@pytest.mark.parametrize(("variances", "undecided"), [([9.0, 16.0], True), ([0.5, 0.5], False)])
def test_one_model_that_says_how_sure_it_is_leaves_close_ones_undecided(variances, undecided):
    """The margin has the sum of both variances, as of independent scores."""
    outcome = compare([[3.0, 1.0]], own_variances=variances)
    assert outcome.margin_std == math.sqrt(sum(variances))
    assert (outcome.winner, outcome.undecided) == (0, undecided)
