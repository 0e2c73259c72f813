import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward import tournament
from assay.reward.composite import (
    gated,
    preferences,
    ranks,
    shares,
    smallest,
    standardised,
    weighted,
)

PARTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(-100, 100), min_size=1)


def test_weights_are_taken_as_they_are():
    """2 · 3 − 0.5 · 4: nothing is normalized, and a negative weight is a cost."""
    parts = {"helpful": 3.0, "verbose": 4.0}
    assert weighted(parts, {"verbose": -0.5, "helpful": 2.0}) == 4.0


@given(PARTS, st.floats(-10, 10))
def test_equal_weights_are_the_weighted_sum(parts, weight):
    """One weight for all is that weight times the sum."""
    expected = weight * math.fsum(parts.values())
    reward = weighted(parts, dict.fromkeys(parts, weight))
    assert reward == pytest.approx(expected, rel=1e-12, abs=1e-9)


@given(PARTS, st.randoms(use_true_random=False))
def test_the_order_of_parts_changes_nothing(parts, random):
    """The reward is bit-equal however parts and weights are listed."""
    weights = {name: random.uniform(-2, 2) for name in parts}
    names = random.sample(sorted(parts), len(parts))
    assert weighted({name: parts[name] for name in names}, weights) == weighted(parts, weights)


def test_the_reference_standardises_each_part():
    """Each part is counted in its own reference's standard deviations."""
    parts = {"helpful": 7.0, "safe": -1.0}
    references = {"safe": (0.0, 0.5), "helpful": (3.0, 2.0)}
    assert standardised(parts, references) == {"helpful": 2.0, "safe": -2.0}


@pytest.mark.parametrize(
    ("function", "what", "value"),
    [(weighted, "weight", 1.0), (standardised, "reference", (0.0, 1.0))],
)
def test_names_must_match(function, what, value):
    """A weight or reference of no part, and a part with none, are errors that name it."""
    with pytest.raises(ValueError, match=rf"a {what} is given for \['safe', 'terse'\]"):
        function({"helpful": 1.0}, dict.fromkeys(["helpful", "terse", "safe"], value))
    with pytest.raises(ValueError, match=rf"no {what} is given for \['helpful', 'safe'\]"):
        function({"helpful": 1.0, "safe": 1.0}, {})


def test_a_reference_without_spread_is_an_error():
    """Dividing by a standard deviation of 0 means nothing."""
    with pytest.raises(ValueError, match=r"std of \['a', 'c'\]"):
        standardised(
            {"a": 1.0, "b": 1.0, "c": 1.0}, {"c": (0.0, math.nan), "b": (0.0, 1.0), "a": (0.0, 0.0)}
        )


@pytest.mark.parametrize(("safety", "reward"), [(0.6, 3.0), (0.5, 3.0), (0.4, -9.0)])
def test_an_unsafe_response_gets_the_other_reward(safety, reward):
    """The reward stands where safety is at least the threshold."""
    assert gated(3.0, safety, at_least=0.5, otherwise=-9.0) == reward


def test_an_unknown_safety_does_not_pass():
    """NaN is no evidence of safety."""
    assert gated(3.0, math.nan, at_least=0.5, otherwise=-9.0) == -9.0


def test_the_smallest_counts_each_part_times_its_weight():
    """A cost has a negative weight; weight 0 leaves a part out, and no part leaves 0."""
    parts = {"helpful": 3.0, "safe": 1.0, "long": 4.0, "unweighed": -9.0}
    weights = {"helpful": 0.25, "safe": 1.0, "long": -0.5, "unweighed": 0.0}

    assert smallest(parts, weights) == -2.0
    assert smallest(parts, weights | {"long": 0.0}) == 0.75
    assert smallest(parts, dict.fromkeys(parts, 0.0)) == 0.0


ROWS = st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=8)
TOLERANCES = st.tuples(*[st.integers(0, 3)] * 3)


def picked(rows, tolerances):
    """Return the responses that are as good as any, by the words of the rule."""
    left = list(range(len(rows)))
    for part, tolerance in enumerate(tolerances):
        best = max(rows[i][part] for i in left)
        left = [i for i in left if rows[i][part] >= best - tolerance]
    return left


@given(ROWS, TOLERANCES)
def test_the_first_are_those_that_no_part_puts_aside(rows, tolerances):
    """Part by part, whoever is more than the tolerance below the best of those left is out."""
    found = ranks(rows, tolerances)

    assert [i for i, rank in enumerate(found) if rank == 0] == picked(rows, tolerances)


@given(ROWS, TOLERANCES)
def test_ranks_are_those_of_picking_again_and_again(rows, tolerances):
    """A part's bands are fixed from the best down, the next part orders within each of them."""

    def bands(band, part):
        if part == len(tolerances):
            return [band]
        left, found = list(band), []
        while left:
            best = max(rows[i][part] for i in left)
            alike = [i for i in left if rows[i][part] >= best - tolerances[part]]
            found += bands(alike, part + 1)
            left = [i for i in left if i not in alike]
        return found

    expected = bands(list(range(len(rows))), 0)

    found = ranks(rows, tolerances)

    assert [sorted(band) for band in expected] == [
        [i for i, rank in enumerate(found) if rank == each] for each in sorted(set(found))
    ]


@given(ROWS)
def test_without_tolerances_it_is_the_order_of_tuples(rows):
    """As Python compares them, the larger first."""
    found = ranks(rows, (0, 0, 0))

    assert found == [sum(other > own for other in rows) for own in rows]


@given(ROWS, TOLERANCES)
def test_shares_are_the_mean_probability_of_winning(rows, tolerances):
    """As those of a model that only compares."""
    found = ranks(rows, tolerances)

    assert shares(found) == pytest.approx(tournament.scores(preferences(found)), abs=1e-12)


def test_alike_within_a_tolerance_has_no_circles():
    """Pairs alone would go around: b before a, c before b, and a before c."""
    a, b, c = (2.0, 0.0), (1.5, 1.0), (1.0, 2.0)

    assert [ranks(pair, (0.6, 0.0)) for pair in ([a, b], [b, c], [c, a])] == [[1, 0]] * 3
    assert ranks([a, b, c], (0.6, 0.0)) == [1, 0, 2]
