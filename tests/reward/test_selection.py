import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward.selection import expected_best, kl_bound, select

RULES = ["mean", "median", "min", "lower_bound", "variance_penalty", "vote"]
SCORES = st.floats(-100, 100)
GROUPS = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(SCORES, min_size=n, max_size=n), min_size=1, max_size=5)
)
# Response 0: mean 2, spread 4; response 1: mean 1, no spread; response 2: mean 5/3, median 2.
MEMBERS = [[6.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("rule", "selection_scores", "ranking"),
    [
        ("mean", [2.0, 1.0, 5 / 3], [0, 2, 1]),
        ("median", [0.0, 1.0, 2.0], [2, 1, 0]),
        ("min", [0.0, 1.0, 1.0], [2, 1, 0]),
        ("lower_bound", [2 - math.sqrt(8), 1.0, 5 / 3 - math.sqrt(2 / 9)], [2, 1, 0]),
        ("variance_penalty", [2 - 0.5 * 8, 1.0, 5 / 3 - 0.5 * 2 / 9], [2, 1, 0]),
        ("vote", [1 / 3, 1 / 3, 1 / 3], [0, 2, 1]),
    ],
)
def test_each_rule_by_hand(rule, selection_scores, ranking):
    """Every rule ranks by its own value, then by mean score."""
    selection = select(MEMBERS, rule=rule)
    assert selection.selection_scores == pytest.approx(selection_scores, rel=1e-14)
    assert selection.ranking == ranking


def test_the_scores_are_means_whatever_the_rule():
    """`scores` reports the reward; `selection_scores` what the rule made of it."""
    assert select(MEMBERS, rule="min").scores == [2.0, 1.0, 5 / 3]


def test_a_given_penalty_replaces_the_default():
    """lower_bound is mean − penalty · std: members 1 and 5 have mean 3 and std 2."""
    assert select([[1.0], [5.0]], rule="lower_bound", penalty=0.25).selection_scores == [2.5]


def test_a_members_tied_vote_goes_to_the_lowest_index():
    """A member that likes two responses equally votes for the first of them."""
    assert select([[1.0, 3.0, 3.0]], rule="vote").selection_scores == [0.0, 1.0, 0.0]


def test_equal_responses_are_ranked_by_index_and_listed_as_ties():
    """Ties break by lowest index, and all of them are named."""
    selection = select([[1.0, 4.0, 4.0, 0.0, 4.0]])
    assert (selection.ranking, selection.ties) == ([1, 2, 4, 0, 3], [1, 2, 4])


def test_a_clear_best_has_no_ties():
    """`ties` is empty where the best stands alone."""
    assert select([[1.0, 4.0, 3.0]]).ties == []


def test_equal_votes_of_unequal_means_are_no_tie():
    """The mean decides between equal rule values, so nothing is tied."""
    selection = select(MEMBERS, rule="vote")
    assert (selection.ranking[0], selection.ties) == (0, [])


def test_the_confidence_is_the_share_of_members_that_pick_the_best():
    """Two of three members put response 1 first."""
    assert select([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]).confidence == 2 / 3


def test_one_member_has_neither_confidence_nor_spread():
    """What needs several members is null for one."""
    selection = select([[0.0, 1.0]])
    assert (selection.confidence, selection.stds) == (None, None)


@given(GROUPS, st.sampled_from(RULES))
def test_every_rule_ranks_each_response_once_by_falling_value(rewards, rule):
    """The ranking is a permutation along which the rule's value never rises."""
    selection = select(rewards, rule=rule)
    assert sorted(selection.ranking) == list(range(len(rewards[0])))
    values = [selection.selection_scores[i] for i in selection.ranking]
    assert values == sorted(values, reverse=True)


@given(GROUPS)
def test_the_minimum_never_exceeds_the_mean(rewards):
    """The worst case is at most the average, up to the mean's last bit."""
    worst, average = (select(rewards, rule=rule).selection_scores for rule in ("min", "mean"))
    assert all(low <= mid + math.ulp(mid) for low, mid in zip(worst, average, strict=True))


@given(
    GROUPS, st.floats(0, 10), st.floats(0, 10), st.sampled_from(["lower_bound", "variance_penalty"])
)
def test_a_higher_penalty_never_raises_a_value(rewards, one, other, rule):
    """Penalized rules fall monotonically with the penalty."""
    low, high = sorted((one, other))
    mild, severe = (select(rewards, rule=rule, penalty=by).selection_scores for by in (low, high))
    assert all(b <= a for a, b in zip(mild, severe, strict=True))


@given(GROUPS, st.sampled_from(["lower_bound", "variance_penalty"]))
def test_no_penalty_is_the_mean(rewards, rule):
    """λ = 0 leaves the mean."""
    assert select(rewards, rule=rule, penalty=0.0).selection_scores == select(rewards).scores


@given(st.lists(SCORES, min_size=1, max_size=6), st.sampled_from(["mean", "median", "min"]))
def test_for_one_member_the_rules_agree(scores, rule):
    """Without a spread, mean, median, minimum and lower bound are the score itself."""
    assert select([scores], rule=rule).selection_scores == scores


@given(GROUPS)
def test_all_votes_are_counted(rewards):
    """Each member votes once: the shares add up to one."""
    shares = select(rewards, rule="vote").selection_scores
    assert math.fsum(shares) == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize(
    ("n", "nats"), [(1, 0.0), (2, math.log(2) - 0.5), (16, math.log(16) - 15 / 16)]
)
def test_the_divergence_of_best_of_n(n, nats):
    """The bound is ln n − (n − 1) / n; best-of-1 is the policy itself."""
    assert kl_bound(n) == nats


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])]
)
def test_the_best_of_k_is_estimated_for_powers_of_two_and_n(n, sizes):
    """k = 1, 2, 4, ... ≤ n, and n itself."""
    assert list(expected_best([0.0] * n)) == sizes


def test_the_expected_best_of_two_out_of_three_by_hand():
    """Of 3, 2, 1 the pairs' maxima are 3, 3 and 2."""
    assert expected_best([3.0, 2.0, 1.0])[2] == pytest.approx(8 / 3, rel=1e-15)


@given(st.lists(SCORES, min_size=1, max_size=9))
def test_the_expected_best_is_the_mean_over_all_subsets(scores):
    """The estimate equals brute force: the mean, over all k-subsets, of the first selected."""
    for k, expected in expected_best(scores).items():
        firsts = [subset[0] for subset in combinations(scores, k)]
        assert expected == pytest.approx(math.fsum(firsts) / len(firsts), rel=1e-12, abs=1e-12)


@given(st.lists(SCORES, min_size=1, max_size=64).map(lambda scores: sorted(scores, reverse=True)))
def test_the_expected_best_runs_from_the_mean_to_the_best(scores):
    """k = 1 is the mean, k = n the best, and more samples never do worse."""
    expected = list(expected_best(scores).values())
    assert expected[0] == pytest.approx(math.fsum(scores) / len(scores), rel=1e-12, abs=1e-12)
    assert expected[-1] == scores[0]
    slack = 1e-12 * max(map(abs, scores))
    assert all(a <= b + slack for a, b in pairwise(expected))


def test_the_expected_best_of_very_many_is_as_quick_as_exact():
    """Each weight comes from the one before; binomials of 20,000 took minutes."""
    for expected in expected_best([0.5] * 20_000).values():
        assert expected == pytest.approx(0.5, rel=1e-9)


def test_one_model_that_says_how_sure_it_is_is_held_to_its_lower_bound():
    """The best by mean is too unsure: 3 − 2 < 2 − 0.5."""
    selection = select([[3.0, 2.0]], rule="lower_bound", own_variances=[4.0, 0.25])
    assert (selection.ranking, selection.selection_scores) == ([1, 0], [1.0, 1.5])
    assert (selection.stds, selection.confidence) == ([2.0, 0.5], None)
