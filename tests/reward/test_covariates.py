"""What a response's text has beside its merit."""

import pytest

from assay.reward.covariates import COVARIATES

LIST = "Do this:\n- one\n- two\n\n1. three\n2) four\nThat is all."


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("characters", "", 0),
        ("characters", "naïve 👍", 7),
        ("list_items", LIST, 4),
        ("list_items", "a - b\n-c\n1.5 is a number", 0),
        ("markdown", LIST, 4 / 6),
        ("markdown", "# Head\n\nplain\n**bold** and `code`\nplain", 0.5),
        ("markdown", "", 0),
    ],
)
def test_a_covariate_is_a_number_of_the_text(name, text, value):
    """Characters, lines that are items of a list, the share of lines with marks of Markdown."""
    assert COVARIATES[name](text) == pytest.approx(value)
