"""Whether two sets of safetensors files hold the same numbers, without torch.

Headers are compared first. Only where these agree are the tensors' bytes read, a piece at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assay.cards import stored_numbers
from assay.cards.stored_numbers import KINDS, Place, floats, pieces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def are_equal(
    first: Mapping[str, Path], other: Mapping[str, Path], *, rounded: bool = False
) -> bool:
    """Return whether tensors, each given with its file, are the same in both sets, bit for bit.

    With `rounded` the other set may also be the first one's numbers in a shorter float.
    """
    if first.keys() != other.keys():
        return False
    ours, others = _places(first), _places(other)
    pairs = [(ours[name], others[name]) for name in first]
    if any(a.shape != b.shape or not _may_be_equal(a, b, rounded=rounded) for a, b in pairs):
        return False
    return all(_have_equal_numbers(a, b) for a, b in pairs)


def _places(files: Mapping[str, Path]) -> dict[str, Place]:
    """Return where each tensor stands."""
    by_file = {file: stored_numbers.places(file) for file in set(files.values())}
    return {name: by_file[file][name] for name, file in files.items()}


def _may_be_equal(first: Place, other: Place, *, rounded: bool) -> bool:
    if first.dtype == other.dtype:
        return True
    return rounded and first.dtype in KINDS and other.dtype in KINDS


def _have_equal_numbers(first: Place, other: Place) -> bool:
    """Compare two tensors of one shape, those of unlike types by the other's precision."""
    if first.dtype == other.dtype:
        pairs = zip(pieces(first, "u1"), pieces(other, "u1"), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)
    stored = zip(pieces(first, KINDS[first.dtype]), pieces(other, KINDS[other.dtype]), strict=True)
    return all(
        np.array_equal(stored_numbers.rounded(floats(a, first.dtype), other.dtype), b)
        for a, b in stored
    )
