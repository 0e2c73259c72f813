"""Attention on GPU by torch's variable-length flash attention.

A run attends to the keys of its whole path, aligned at the end, as flash attention aligns unequal
lengths. Keys and values of a shared prefix are gathered for each run that continues it: memory
traffic only, next to nothing beside the linear layers that saw each token once.

`num_splits=1` keeps one order of sums whatever else is in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

varlen_attn: Callable[..., Any] | None
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay.engine.attention.pattern import Pattern
    from assay.engine.forest import Packed
    from assay.engine.pages import Layer


def is_at_hand(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether this torch has the kernel for a device and dtype."""
    return (
        varlen_attn is not None
        and device.type == "cuda"
        and dtype in {torch.bfloat16, torch.float16}
    )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: Packed,
    pattern: Pattern,
    layer: Layer | None = None,
) -> torch.Tensor:
    """Attend all runs in one call; see `pattern.Backend`.

    Raises:
        ValueError: The layer caps its products, which flash attention can't, or torch lacks it.
    """
    if varlen_attn is None or pattern.softcap is not None:
        raise ValueError("flash attention isn't at hand or can't cap products")
    device = query.device
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
    mixed = varlen_attn(
        query.transpose(0, 1)[:tokens],
        key,
        value,
        _borders(lengths, device),
        _borders(spans, device),
        int(lengths.max()),
        int(spans.max()),
        scale=pattern.scale,
        window_size=(reach, 0 if pattern.causal else reach),
        enable_gqa=query.shape[0] != key.shape[1],
        num_splits=1,
    )
    out = query.new_zeros(query.shape[1], query.shape[0], value.shape[-1])
    out[:tokens] = mixed
    return out


def _borders(lengths: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return where each length begins and the last one ends, (lengths + 1,) int32."""
    borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return torch.from_numpy(borders).to(device, non_blocking=True)
