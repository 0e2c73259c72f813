"""Attention on GPU by the variable-length flash attention that torch brings.

A run attends to the keys of its whole path, aligned at the end, as flash attention aligns unequal
lengths. Keys and values of a shared prefix are gathered for each run that continues it: memory
traffic only, next to nothing beside the linear layers that saw each token once.

It calls the operator below `torch.nn.attention.varlen`: these arguments of it are the same from
torch 2.10 to 2.13, where the function's own are not. Grouped heads it knows by itself, and it never
splits a row's keys here: that takes pages of keys, or one query a run and no window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from assay.engine.attention.pattern import Pattern
    from assay.engine.block_cache import Layer
    from assay.engine.packing import PackedBatch

_DTYPES = {torch.bfloat16, torch.float16}
_flash = torch.ops.aten._flash_attention_forward  # noqa: SLF001  the operator has no public name


def is_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether torch has the kernel for a device and dtype."""
    return device.type == "cuda" and dtype in _DTYPES


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    pattern: Pattern,
    layer: Layer | None = None,
    rows: np.ndarray | None = None,
) -> torch.Tensor:
    """Attend all runs in one call; see `pattern.AttentionBackend`.

    Raises:
        ValueError: The layer caps its products, which flash attention can't.
    """
    if pattern.softcap is not None:
        raise ValueError("flash attention can't cap products")
    device = query.device
    if rows is not None:
        # All rows, of which most are zero: flash attention splits the keys of a query that is
        # alone in its run, and sums in another order then.
        read = torch.from_numpy(rows).to(device, non_blocking=True).long()
        whole = query.new_zeros(query.shape[0], key.shape[1], query.shape[2])
        whole[:, read] = query[:, : len(rows)]
        mixed = attend(whole, key, value, packed, pattern, layer)[read]
        return torch.nn.functional.pad(mixed, (0, 0, 0, 0, 0, query.shape[1] - len(rows)))
    if layer is not None and packed.held:
        key, value = layer.behind(key, value, packed)
    key, value = key.transpose(0, 1), value.transpose(0, 1)
    lengths = packed.lengths[packed.held :]
    tokens = int(lengths.sum())
    spans = packed.offsets[packed.held :] + lengths  # keys each run sees
    if packed.is_shared:
        runs = range(packed.held, len(packed.lengths))
        rows = np.concatenate([packed.path(run) for run in runs])
        rows_there = torch.from_numpy(rows).to(device, non_blocking=True)
        key, value = key[rows_there], value[rows_there]
    else:
        key, value = key[:tokens], value[:tokens]
    reach = -1 if pattern.window is None else pattern.window - 1
    mixed = _flash(
        query.transpose(0, 1)[:tokens],
        key,
        value,
        _borders(lengths, device),
        _borders(spans, device),
        int(lengths.max()),
        int(spans.max()),
        0.0,  # dropout
        pattern.causal and reach < 0,
        False,
        scale=pattern.scale,
        window_size_left=reach,
        window_size_right=0 if pattern.causal else reach,
    )[0]
    out = query.new_zeros(query.shape[1], query.shape[0], value.shape[-1])
    out[:tokens] = mixed
    return out


def _borders(lengths: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return where each length begins and the last one ends, (lengths + 1,) int32."""
    borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return torch.from_numpy(borders).to(device, non_blocking=True)
