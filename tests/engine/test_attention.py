"""Packed attention against dense attention written out."""

from types import SimpleNamespace

import pytest
import torch

from assay.engine.attention import BLOCK, PackedAttention, Segment, UnsupportedAttention

HEADS, KV_HEADS, WIDTH = 4, 2, 16
LENGTHS = (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 37, 5)


def inputs(total):
    """Return random query, key and value of one packed row."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, heads, total, WIDTH, generator=generator)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def dense(query, key, value, *, causal, window, softcap):
    """Attend within one sequence with a full mask: (heads, length, width) each."""
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, dim=0) for x in (key, value))
    scores = query.double() @ key.double().transpose(1, 2) * WIDTH**-0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    length = query.shape[1]
    distance = torch.arange(length)[:, None] - torch.arange(length)[None]
    seen = torch.ones(length, length, dtype=torch.bool)
    if causal:
        seen &= distance >= 0
    if window:
        seen &= distance.abs() < window
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value.double()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 50, BLOCK, 300])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_packed_attention_equals_dense_attention_within_each_sequence(causal, window, softcap):
    """Causal and bidirectional, with windows and soft caps, at lengths around the block size."""
    segments, start = [], 0
    for length in LENGTHS:
        segments.append(Segment(start, length))
        start += length
    query, key, value = inputs(start + 3)  # three rows nobody reads
    attention = PackedAttention("test-dense")
    attention.segments = segments

    out, _ = attention(
        SimpleNamespace(is_causal=causal),
        query,
        key,
        value,
        None,
        sliding_window=window,
        softcap=softcap,
    )

    for segment in segments:
        rows = slice(segment.start, segment.start + segment.length)
        expected = dense(
            query[0, :, rows],
            key[0, :, rows],
            value[0, :, rows],
            causal=causal,
            window=window,
            softcap=softcap,
        )
        assert (out[0, rows].transpose(0, 1) - expected).abs().max() < 2e-6


def test_rows_outside_every_segment_are_zero():
    """Rows that fill the batch up carry nothing into later layers."""
    attention = PackedAttention("test-zero")
    attention.segments = [Segment(0, 5)]

    out, _ = attention(SimpleNamespace(is_causal=True), *inputs(16), None)

    assert out[0, 5:].abs().max() == 0


@pytest.mark.parametrize("foreign", ["attention_mask", "s_aux", "position_bias"])
def test_what_packed_attention_does_not_know_is_refused(foreign):
    """A mask, a sink or a bias that it would ignore makes the trunk run padded instead."""
    attention = PackedAttention("test-foreign")
    attention.segments = [Segment(0, 16)]
    options = {"attention_mask": None, foreign: torch.zeros(1)}

    with pytest.raises(UnsupportedAttention):
        attention(SimpleNamespace(is_causal=True), *inputs(16), **options)
