"""Padding that clients left around texts and ids."""

import pytest

from assay.prompts.models import Padding

PADDING = Padding("<pad>", "</s>", 0, 2, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<pad><pad>ab<pad>", "ab"),
        ("ab", "ab"),
        ("a<pad>b", "a<pad>b"),
        ("<pad><pad>", ""),
        ("", ""),
        ("<pad", "<pad"),
    ],
)
def test_padding_is_taken_from_either_end(text, expected):
    """And from nowhere else."""
    assert PADDING.taken_off_text(text) == expected


class Watched(str):
    """A text that counts how many of its characters are looked at."""

    __slots__ = ("__dict__",)
    looked = 0

    def startswith(self, prefix, *bounds):
        self.looked += len(prefix)
        return super().startswith(prefix, *bounds)

    def endswith(self, suffix, *bounds):
        self.looked += len(suffix)
        return super().endswith(suffix, *bounds)

    def __getitem__(self, part):
        found = super().__getitem__(part)
        self.looked += len(found)
        return found


@pytest.mark.parametrize(
    ("form", "rest"),
    [
        ("{pads}ab", "ab"),
        ("ab{pads}", "ab"),
        ("{pads}ab{pads}", "ab"),
        ("{pads}a{pads}b", "a{pads}b"),
        ("{pads}", ""),
    ],
)
def test_padding_is_taken_off_in_time_that_is_linear_in_it(form, rest):
    """Old clients leave thousands of tokens of it: each is looked at once, and one more a run."""
    pads = 5_000 * "<pad>"
    text = Watched(form.format(pads=pads))

    kept = PADDING.taken_off_text(text)

    assert kept == rest.format(pads=pads)
    assert len(pads) <= text.looked <= len(text) + 2 * len("<pad>")
