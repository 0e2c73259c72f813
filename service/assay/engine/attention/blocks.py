"""Attention as plain products over blocks of queries: any device, no compiler.

Blocks of `BLOCK` rows stand at absolute positions (block p // BLOCK) and see keys up to the
block's end. A run that begins or ends within a block is filled up to the whole of it, since a
product's sums depend on how many rows it has: a row's arithmetic is the same whether its prefix is
shared, kept or neither. The products are those of transformers' eager attention: scores in the
model's dtype, softmax in float32.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from assay.engine import transfer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.engine.attention.pattern import Pattern
    from assay.engine.block_cache import Layer
    from assay.engine.packing import PackedBatch

BLOCK = 128


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    pattern: Pattern,
    layer: Layer | None = None,
    rows: np.ndarray | None = None,
) -> torch.Tensor:
    """Attend run by run; see `pattern.AttentionBackend`."""
    out = query.new_zeros(query.shape[1], query.shape[0], value.shape[-1])
    if layer is not None and packed.held:
        key, value = layer.behind(key, value, packed)
    for run in _runs(packed, query.device, rows, causal=pattern.causal):
        keys, values = key[:, run.path].transpose(1, 2), value[:, run.path]
        for block, at, place in run.blocks:
            queries = query.new_zeros(query.shape[0], BLOCK, query.shape[-1])
            queries[:, place] = query[:, at]
            mixed = _attend(queries, keys, values, block, run.length, pattern)
            out[at] = mixed[:, place].transpose(0, 1)
    return out


class _Run(NamedTuple):
    """What one run's queries meet."""

    length: int  # of its sequence
    path: Any  # (keys,): the rows of these, filled up to whole blocks if the layer is causal
    blocks: list[tuple[int, Any, Any]]  # a position, its queries, and where each stands behind it


def _runs(
    packed: PackedBatch, device: torch.device, rows: np.ndarray | None, *, causal: bool
) -> list[_Run]:
    """Return the runs that queries are of, indexed on a device; made once for a batch's layers."""
    kind = (_runs, device, causal)
    if rows is None and kind in packed.made:
        made: list[_Run] = packed.made[kind]
        return made
    runs = list(_runs_met(packed, rows, causal=causal))
    arrays = [array for run in runs for array in (run.path, *chain(*(b[1:] for b in run.blocks)))]
    there = iter(transfer.to_device(arrays, device))
    runs = [
        _Run(run.length, next(there), [(b[0], next(there), next(there)) for b in run.blocks])
        for run in runs
    ]
    if rows is None:
        packed.made[kind] = runs
    return runs


def _runs_met(packed: PackedBatch, rows: np.ndarray | None, *, causal: bool) -> Iterator[_Run]:
    for run in range(packed.held, len(packed.lengths)):
        start, offset = int(packed.starts[run]), int(packed.offsets[run])
        length = offset + int(packed.lengths[run])
        run_rows = np.arange(start, start + length - offset)
        read = run_rows if rows is None else np.flatnonzero(np.isin(rows, run_rows))
        if not len(read):
            continue
        positions = (read if rows is None else rows[read]) - start + offset
        path = packed.path(run)
        if causal:  # whole blocks of keys; what fills the last one up is masked
            path = np.pad(path, (0, -length % BLOCK), mode="edge")
        blocks = []
        for block in np.unique(positions // BLOCK * BLOCK).tolist():
            inside = (positions >= block) & (positions < block + BLOCK)
            blocks.append((block, read[inside], positions[inside] - block))
        yield _Run(length, path, blocks)


def _attend(
    queries: torch.Tensor,  # (heads, BLOCK, width)
    keys: torch.Tensor,  # (kv_heads, width, keys), keys >= length
    values: torch.Tensor,  # (kv_heads, keys, value width)
    block: int,
    length: int,
    pattern: Pattern,
) -> torch.Tensor:
    """Return what a block of rows makes of one sequence, (heads, BLOCK, value width)."""
    heads, _, width = queries.shape
    first, last = _seen(block, length, pattern)
    # Heads that share keys stand side by side.
    scores = torch.bmm(queries.view(keys.shape[0], -1, width), keys[:, :, first:last])
    scores.mul_(pattern.scale)
    if pattern.softcap is not None:
        scores = torch.tanh(scores.div_(pattern.softcap)).mul_(pattern.softcap)
    hidden = _hidden((block, block + BLOCK), (first, last), pattern, queries.device)
    if hidden is not None:
        scores.view(heads, BLOCK, -1).masked_fill_(hidden, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(queries.dtype)
    return torch.bmm(weights, values[:, first:last]).view(heads, BLOCK, -1)


def _seen(block: int, length: int, pattern: Pattern) -> tuple[int, int]:
    """Return the keys that some row of a block can see: first, and one past the last."""
    window = pattern.window
    first = 0 if window is None else max(0, block - window + 1) // BLOCK * BLOCK
    if pattern.causal:
        return first, block + BLOCK
    if window is None:
        return first, length
    return first, min(length, (block + BLOCK + window - 1 + BLOCK - 1) // BLOCK * BLOCK)


def _hidden(
    rows: tuple[int, int], keys: tuple[int, int], pattern: Pattern, device: torch.device
) -> torch.Tensor | None:
    """Return which keys each row doesn't see, (rows, keys); None where it sees all of them."""
    if not pattern.causal and pattern.window is None:
        return None
    distance = (
        torch.arange(*rows, device=device)[:, None] - torch.arange(*keys, device=device)[None, :]
    )
    hidden = distance < 0 if pattern.causal else torch.zeros_like(distance, dtype=torch.bool)
    return hidden if pattern.window is None else hidden | (distance.abs() >= pattern.window)
