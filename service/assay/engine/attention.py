"""Attention over packed sequences, behind transformers' attention interface.

A batch is one row of tokens with no padding; each token attends within its own sequence. Queries go
in blocks of `BLOCK` rows at absolute positions (block p // BLOCK), so an item's arithmetic depends
on the item alone: its score has the same bits in any batch. The products are those of the eager
implementation (scores in the model's dtype, softmax in float32): bfloat16 stays close to it.

Not here: which tokens form a batch (`forest`), and everything of the model but attention (`trunk`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 128


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence's place in the packed row."""

    start: int
    length: int


class UnsupportedAttention(Exception):
    """The trunk asks for something packed attention doesn't know; it must run padded."""


class PackedAttention:
    """The attention of one trunk: told the segments before a forward pass, called by each layer.

    transformers finds it by `name`; registering one a trunk keeps the segments out of globals.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.segments: Sequence[Segment] = ()
        AttentionInterface.register(name, self)
        AttentionMaskInterface.register(name, _no_mask)

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,  # (1, heads, tokens, head_dim)
        key: torch.Tensor,  # (1, kv_heads, tokens, head_dim)
        value: torch.Tensor,  # (1, kv_heads, tokens, head_dim)
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        s_aux: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the attention's output, (1, tokens, heads, head_dim), and no weights."""
        if attention_mask is not None or s_aux is not None or position_bias is not None:
            raise UnsupportedAttention
        if query.shape[0] != 1 or key.shape[2] != query.shape[2]:
            raise UnsupportedAttention
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = query.new_zeros(query.shape[2], query.shape[1], value.shape[-1])
        for segment in self.segments:
            rows = slice(segment.start, segment.start + segment.length)
            _attend(
                query[0, :, rows],
                key[0, :, rows],
                value[0, :, rows],
                out[rows],
                scale=scale,
                causal=bool(causal),
                window=sliding_window,
                softcap=softcap,
            )
        return out[None], None


def _attend(
    query: torch.Tensor,  # (heads, length, head_dim)
    key: torch.Tensor,  # (kv_heads, length, head_dim)
    value: torch.Tensor,  # (kv_heads, length, head_dim)
    out: torch.Tensor,  # (length, heads, head_dim), written
    *,
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
) -> None:
    """Attend within one sequence, `BLOCK` query rows at a time."""
    heads, length, width = query.shape
    kv_heads = key.shape[0]
    shared = heads // kv_heads  # query heads that share a key-value head
    keys = key.transpose(1, 2)
    ahead = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=query.device).triu(1)
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        rows = end - begin
        # Keys before the window or after the causal edge of the whole block are never touched.
        first = 0 if window is None else max(0, begin - window + 1) // BLOCK * BLOCK
        last = end if causal else length
        if not causal and window is not None:
            last = min(length, (end + window - 1 + BLOCK - 1) // BLOCK * BLOCK)
        block = query[:, begin:end].reshape(kv_heads, shared * rows, width)
        scores = torch.bmm(block, keys[:, :, first:last]).mul_(scale)
        if softcap is not None:
            scores = torch.tanh(scores.div_(softcap)).mul_(softcap)
        blocked = scores.view(heads, rows, last - first)
        if causal and window is None:  # only the block's own keys can lie ahead of its rows
            blocked[:, :, -rows:].masked_fill_(ahead[:rows, :rows], float("-inf"))
        elif window is not None:
            hidden = _hidden(begin, end, first, last, window, causal=causal, device=query.device)
            blocked.masked_fill_(hidden, float("-inf"))
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        mixed = torch.bmm(weights, value[:, first:last])  # (kv_heads, shared * rows, head_dim)
        out[begin:end] = mixed.view(heads, rows, -1).transpose(0, 1)


def _hidden(
    begin: int,
    end: int,
    first: int,
    last: int,
    window: int,
    *,
    causal: bool,
    device: torch.device,
) -> torch.Tensor:
    """Return which keys (first … last) are outside the window of the rows (begin … end)."""
    distance = (
        torch.arange(begin, end, device=device)[:, None]
        - torch.arange(first, last, device=device)[None, :]
    )
    too_far = distance.abs() >= window
    return (distance < 0) | too_far if causal else too_far


def _no_mask(*_: Any, **__: Any) -> None:
    """Tell transformers to build no mask: segments say who sees whom."""
