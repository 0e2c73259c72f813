import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward import spread

NUMBERS = st.floats(-10, 10)
CLOSE = {"rel": 1e-9, "abs": 1e-9}


@given(st.lists(st.tuples(NUMBERS, st.floats(0, 10)), min_size=1, max_size=6))
def test_independent_numbers_add_their_variances(pairs):
    """Each times its weight squared: the diagonal of a covariance, on both sides the weights."""
    weights, deviations = map(np.array, zip(*pairs, strict=True))

    expected = weights @ np.diag(deviations**2) @ weights
    assert spread.of_deviations(deviations, weights) == pytest.approx(expected, **CLOSE)


def test_a_number_that_does_not_count_may_be_as_unsure_as_it_likes():
    """Not even infinity times 0 is asked."""
    assert spread.of_deviations([2.0, float("inf")], [3.0, 0.0]) == 36.0


@given(
    st.integers(1, 4).flatmap(
        lambda count: st.tuples(
            st.lists(NUMBERS, min_size=count, max_size=count),
            st.lists(NUMBERS, min_size=3 * count, max_size=3 * count),
        )
    )
)
def test_quantiles_of_a_sum_are_sums_of_quantiles(given_numbers):
    """Of one level each; their spread is the population's."""
    weights, quantiles = map(np.array, given_numbers)

    expected = np.var(weights @ quantiles.reshape(len(weights), 3))
    assert spread.of_quantiles(quantiles, weights) == pytest.approx(expected, **CLOSE)


def test_quantiles_are_as_many_of_each_number():
    """Five of two numbers are a mistake."""
    with pytest.raises(ValueError, match="5 quantiles are no multiple of 2"):
        spread.of_quantiles([1.0] * 5, [1.0, 1.0])
