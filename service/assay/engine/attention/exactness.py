"""How far a way to attend is from float64 on this device, in the shapes of a model's layers.

A model's scores say little of it: one key lost of a thousand moves them by less than rounding does.
Here most queries are aimed at one key each, which has all the weight if it is seen: any of the
path, the first one inside the window, the last one outside. The others' products are spread so far
that a few keys have all the weight. So a window that ends one token too early, or a prefix without
its last key, is off by as much as values differ.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay.engine import packing
from assay.engine.block_cache import BlockCache
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.engine.attention.pattern import AttentionBackend, LayerKind
    from assay.engine.block_cache import Layer
    from assay.engine.packing import PackedBatch

# Of a difference over what is exact, where that is above 1. Weights and results are rounded once
# each to the dtype.
LIMITS = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
_SPREAD = 4.0  # standard deviation of a row's products
_LENGTHS = (1, 2, 63, 64, 65, 130)
_LONG = 1100  # tokens, where there is no window
_BEHIND_WINDOW = 77
_HELD = 16  # blocks that an earlier batch kept
_MOST_ROWS = 256  # of a run, that are looked at


def largest_error(
    attend: AttentionBackend,
    kind: LayerKind,
    device: torch.device,
    dtype: torch.dtype,
    most_tokens: int | None = None,
) -> float:
    """Return the largest error over sequences alone, behind a shared and behind a kept prefix.

    A sequence is a little longer than the layer's window, but alone no longer than `most_tokens`.
    An error is relative where the number is above 1.
    """
    window = kind.pattern.window
    longest = _LONG if window is None else window + _BEHIND_WINDOW
    longest = min(longest, most_tokens or longest)
    generator = torch.Generator(device=device).manual_seed(0)

    def normal(*shape: int, spread: float = 1.0) -> torch.Tensor:
        numbers = torch.randn(*shape, generator=generator, device=device)
        return (numbers * spread).to(dtype)

    errors = [0.0]
    for batch in _batches(longest, causal=kind.pattern.causal):
        packed = packing.pack(batch)
        rows = len(packed.ids)
        # As a model has them: a row's heads lie side by side.
        query = normal(rows, kind.heads, kind.width, spread=_factor(kind)).transpose(0, 1)
        key = normal(rows, kind.kv_heads, kind.width).transpose(0, 1)
        value = normal(rows, kind.kv_heads, kind.value_width).transpose(0, 1)
        layer = None
        if packed.held:
            layer = BlockCache(_HELD).layer(0, key, value)
            layer.keys.copy_(normal(*layer.keys.shape))
            layer.values.copy_(normal(*layer.values.shape))
        _aim(query, key if layer is None else layer.behind(key, value, packed)[0], packed, kind)
        out = attend(query, key, value, packed, kind.pattern, layer)
        errors += _errors(out, query, key, value, packed, kind, layer)
        read = packed.last_rows.astype(np.int32)
        ends = torch.from_numpy(packing.filled(read)).to(device)
        few = attend(query[:, ends], key, value, packed, kind.pattern, layer, read)
        errors.append(_largest(few[: len(read)], out[ends[: len(read)]].double()))
    return max(errors)


def _batches(longest: int, *, causal: bool) -> Iterator[PrefixBatch]:
    """Yield sequences with nothing in common; a tree of prefixes; and what continues kept ones."""
    lengths = [length for length in _LENGTHS if length < longest] + [longest]
    yield _batch(lengths, [-1] * len(lengths))
    if not causal:
        return
    root = min(longest, 65)
    tail = min(longest, 150)
    yield _batch([root, 1, tail, tail, 1], [-1, 0, 0, 2, 3])
    held = _HELD * BLOCK_TOKENS
    tree = _batch([held, tail, 1, longest], [-1, 0, 0, 1])
    yield PrefixBatch(
        ids=tree.ids[held:],
        lengths=tree.lengths,
        parents=tree.parents,
        reads=tree.reads[1:],
        held=1,
        cached_blocks=np.random.default_rng(0).permutation(_HELD).astype(np.int32),
    )


def _batch(lengths: list[int], parents: list[int]) -> PrefixBatch:
    return PrefixBatch(
        ids=np.zeros(sum(lengths), np.int32),
        lengths=np.array(lengths, np.int32),
        parents=np.array(parents, np.int32),
        reads=np.arange(len(lengths), dtype=np.int32),
    )


def _factor(kind: LayerKind) -> float:
    """Return what a query of unit normals is to be multiplied by."""
    return _SPREAD / (math.sqrt(kind.width) * kind.pattern.scale)


def _aim(query: torch.Tensor, key: torch.Tensor, packed: PackedBatch, kind: LayerKind) -> None:
    """Aim three of four queries at a key of their path; `key` has those of held runs behind."""
    random = np.random.default_rng(0)
    for run in range(packed.held, len(packed.lengths)):
        path = packed.path(run)
        position = np.arange(packed.offsets[run], len(path))
        target = random.integers(0, len(path), len(position))
        if (window := kind.pattern.window) is not None:
            edge = position - window + position % 2  # outside, inside
            target = np.where(position % 4 < 2, edge, target)
        aimed = (position % 4 < 3) & (target >= 0)
        rows = torch.from_numpy(path[position[aimed]]).to(query.device)
        there = torch.from_numpy(path[target[aimed]]).to(query.device)
        keys = key[:, there].repeat_interleave(kind.heads // kind.kv_heads, dim=0)
        query[:, rows] = keys * _factor(kind)


def _errors(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    kind: LayerKind,
    layer: Layer | None,
) -> Iterator[float]:
    """Yield each run's largest error: in its last rows, and in others spread over it."""
    if layer is not None:
        key, value = layer.behind(key, value, packed)
    for run in range(packed.held, len(packed.lengths)):
        length, offset = int(packed.lengths[run]), int(packed.offsets[run])
        within = np.arange(length)
        within = within[(within % -(-length // _MOST_ROWS) == 0) | (within >= length - _MOST_ROWS)]
        rows = torch.from_numpy(within + packed.starts[run]).to(out.device)
        path = torch.from_numpy(packed.path(run)).to(out.device)
        is_seen = _is_seen(within + offset, offset + length, kind).to(out.device)
        group = kind.heads // kind.kv_heads
        for head in range(kind.kv_heads):  # one at a time: all at once are gigabytes
            heads = slice(head * group, (head + 1) * group)
            products = query[heads, rows].double() @ key[head, path].double().T
            products *= kind.pattern.scale
            if (cap := kind.pattern.softcap) is not None:
                products = cap * torch.tanh(products / cap)
            weights = products.masked_fill(~is_seen, float("-inf")).softmax(-1)
            exact = (weights @ value[head, path].double()).transpose(0, 1)
            yield _largest(out[rows, heads], exact)


def _is_seen(positions: np.ndarray, keys: int, kind: LayerKind) -> torch.Tensor:
    """Return whether each position sees each of so many keys, (positions, keys)."""
    back = torch.from_numpy(positions)[:, None] - torch.arange(keys)[None]
    is_seen = back >= 0 if kind.pattern.causal else torch.ones_like(back, dtype=torch.bool)
    window = kind.pattern.window
    return is_seen if window is None else is_seen & (back.abs() < window)


def _largest(out: torch.Tensor, exact: torch.Tensor) -> float:
    error = ((out.double() - exact).abs() / exact.abs().clamp(min=1.0)).max()
    return float(error) if error.isfinite() else float("inf")
