"""Token ids that share prefixes of all lengths, around the shortest run that is worth one."""

import numpy as np
from hypothesis import strategies as st

# Stretches of equal tokens: two items that begin with the same stretches share their tokens.
STRETCHES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([1, 3, 15, 16, 17, 30, 50])),
    min_size=1,
    max_size=5,
)


def spell(stretches):
    """Return the ids of a list of (token, how often)."""
    return np.concatenate([np.full(length, token, np.int32) for token, length in stretches])


IDS = STRETCHES.map(spell)


def ids(*lengths):
    """Return stretches of these lengths, each of a new token: 1, 1, 1, 2, 2, ..."""
    return spell([(token, length) for token, length in enumerate(lengths, 1)])


def response(prompt, token, length=20):
    """Return a prompt's ids and then a token, `length` times."""
    return np.concatenate([prompt, np.full(length, token, np.int32)])


def in_common(one, other):
    """Count the tokens that two sequences begin with, the slow way."""
    pairs = zip(one.tolist(), other.tolist(), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
