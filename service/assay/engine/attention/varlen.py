"""Attention on GPU by the variable-length flash attention that torch brings.

A run attends to the keys of its whole path, aligned at the end, as flash attention aligns unequal
lengths. Keys and values of a shared prefix are gathered for each run that continues it, by an index
that is made once a batch: memory traffic only. The rows that fill a batch up are one more run, so
that what flash attention returns is whole as it is.

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
        read = packed.on(device, read_rows=rows)["read_rows"][: len(rows)].long()
        whole = query.new_zeros(query.shape[0], key.shape[1], query.shape[2])
        whole[:, read] = query[:, : len(rows)]
        mixed = attend(whole, key, value, packed, pattern, layer)[read]
        return torch.nn.functional.pad(mixed, (0, 0, 0, 0, 0, query.shape[1] - len(rows)))
    if layer is not None and packed.held:
        key, value = layer.behind(key, value, packed)
    key, value = key.transpose(0, 1), value.transpose(0, 1)
    if packed.is_shared:
        there = packed.on(device, paths=_paths(packed))
        key, value = key[there["paths"]], value[there["paths"]]
    else:
        there = packed.on(device)
    reach = -1 if pattern.window is None else pattern.window - 1
    lengths = packed.lengths[packed.held :]
    out: torch.Tensor = _flash(
        query.transpose(0, 1),
        key,
        value,
        there["borders"],
        there["spans"],
        max(packed.fill, int(lengths.max())),
        max(packed.fill, int((packed.offsets[packed.held :] + lengths).max())),
        0.0,  # dropout
        pattern.causal and reach < 0,
        False,
        scale=pattern.scale,
        window_size_left=reach,
        window_size_right=0 if pattern.causal else reach,
    )[0]
    return out


def _paths(packed: PackedBatch) -> np.ndarray:
    """Return the rows of the keys that each run sees, run after run; made once a batch."""
    if _paths not in packed.made:
        paths = [packed.path(run) for run in range(packed.held, len(packed.lengths))]
        fill = np.arange(len(packed.ids) - packed.fill, len(packed.ids))
        packed.made[_paths] = np.concatenate([*paths, fill])
    made: np.ndarray = packed.made[_paths]
    return made
