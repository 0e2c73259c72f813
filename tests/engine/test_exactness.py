"""A way to attend, held against float64: what is right passes, and each small fault shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.engine.attention import blocks, exactness, interface, native
from assay.engine.attention.pattern import LayerKind, Pattern

CPU = torch.device("cpu")
PLAIN = LayerKind(Pattern(0.25, causal=True), 4, 2, 16, 16)
WINDOWED = replace(PLAIN, pattern=Pattern(0.25, causal=True, window=200))
CAPPED = replace(PLAIN, pattern=Pattern(0.25, causal=True, softcap=3.0))
BOTH_SIDES = replace(PLAIN, pattern=Pattern(0.25, causal=False, window=50))
LONG_WINDOW = replace(PLAIN, pattern=Pattern(0.25, causal=True, window=2500))
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [PLAIN, WINDOWED, CAPPED, BOTH_SIDES, LONG_WINDOW])
def test_what_is_right_is_within_rounding(kind, dtype):
    """Of every kind of layer, alone, behind a shared prefix and behind a kept one."""
    assert interface.inexactness("assay-blocks", [kind], CPU, dtype, 10_000) == ""
    if native.is_available(CPU, dtype):
        assert interface.inexactness("assay-native", [kind], CPU, dtype, 10_000) == ""


def short_window(query, key, value, packed, pattern, layer=None, rows=None):
    """Lose the last key of a window."""
    pattern = replace(pattern, window=pattern.window - 1)
    return blocks.attend(query, key, value, packed, pattern, layer, rows)


def long_window(query, key, value, packed, pattern, layer=None, rows=None):
    """See one key too many."""
    pattern = replace(pattern, window=pattern.window + 1)
    return blocks.attend(query, key, value, packed, pattern, layer, rows)


def lost_prefix_key(query, key, value, packed, pattern, layer=None, rows=None):
    """Read another key in the place of a prefix' last one."""
    if packed.is_shared and not packed.held:
        key = key.clone()
        key[:, packed.lengths[0] - 1] = 0
    return blocks.attend(query, key, value, packed, pattern, layer, rows)


def stale_block(query, key, value, packed, pattern, layer=None, rows=None):
    """Read a kept block in another's place."""
    if packed.held:
        slots = packed.cached_slots.copy()
        slots[-8:] = slots[:8]
        packed = replace(packed, cached_slots=slots)
    return blocks.attend(query, key, value, packed, pattern, layer, rows)


def without_cap(query, key, value, packed, pattern, layer=None, rows=None):
    """Pass over the cap."""
    pattern = replace(pattern, softcap=None)
    return blocks.attend(query, key, value, packed, pattern, layer, rows)


def sees_what_follows(query, key, value, packed, pattern, layer=None, rows=None):
    """Attend to both sides."""
    pattern = replace(pattern, causal=packed.is_shared)
    return blocks.attend(query, key, value, packed, pattern, layer, rows)


def other_rows(query, key, value, packed, pattern, layer=None, rows=None):
    """Take the queries of a few rows for their neighbours'."""
    rows = None if rows is None else np.maximum(rows - 1, 0)
    return blocks.attend(query, key, value, packed, pattern, layer, rows)


def nothing(query, key, value, packed, pattern, layer=None, rows=None):
    """Give no numbers."""
    return torch.full((query.shape[1], query.shape[0], value.shape[2]), float("nan"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (short_window, WINDOWED),
        (long_window, WINDOWED),
        (short_window, LONG_WINDOW),
        (lost_prefix_key, PLAIN),
        (stale_block, PLAIN),
        (without_cap, CAPPED),
        (sees_what_follows, PLAIN),
        (other_rows, PLAIN),
        (nothing, PLAIN),
    ],
)
def test_a_fault_that_a_score_would_hardly_show_does(fault, kind, dtype):
    """Far above the limit of plain products in bfloat16, the widest."""
    error = exactness.largest_error(fault, kind, CPU, dtype)

    assert error > 2 * interface.limit("assay-blocks", torch.bfloat16)


def test_what_is_wrong_is_told_with_the_layers_kind(monkeypatch):
    """An operator can look for it."""
    monkeypatch.setitem(interface._BACKENDS, "blocks", short_window)

    said = interface.inexactness("assay-blocks", [WINDOWED], CPU, torch.float32, 10_000)

    assert "its attention is off by" in said
    assert "window=200" in said
