"""Attention on CPU by `native.cpp`, whose `library` is shipped or compiled on first use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay.engine.attention import library
from assay.engine.attention.pattern import Pattern
from assay.engine.packing import pack
from assay.worker_protocol import PrefixBatch

if TYPE_CHECKING:
    from assay.engine.block_cache import Layer
    from assay.engine.packing import PackedBatch

_DTYPES = {torch.float32, torch.bfloat16}


def is_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the kernel runs here; the first call compiles it, for ten seconds or so."""
    return device.type == "cpu" and dtype in _DTYPES and _load() and _multiplies(dtype)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    pattern: Pattern,
    layer: Layer | None = None,
    rows: np.ndarray | None = None,
) -> torch.Tensor:
    """Attend all runs in one call; see `pattern.AttentionBackend`."""
    mixed: torch.Tensor = torch.ops.assay.forest_attention(
        query,
        key,
        value,
        layer.keys if layer else None,
        layer.values if layer else None,
        torch.from_numpy(packed.cached_slots),
        torch.from_numpy(packed.lengths),
        torch.from_numpy(packed.parents),
        None if rows is None else torch.from_numpy(rows),
        packed.held,
        pattern.scale,
        pattern.window or 0,
        pattern.softcap or 0.0,
        pattern.causal,
    )
    return mixed


@cache
def _load() -> bool:
    return library.load()


@cache
def _multiplies(dtype: torch.dtype) -> bool:
    """Return whether this processor has the kernel's products: those of bfloat16 want AVX-512."""
    row = torch.zeros(1, 16, 16, dtype=dtype)
    token = pack(PrefixBatch.unshared([np.zeros(1, np.int32)]))
    try:
        attend(row, row, row, token, Pattern(scale=1.0, causal=True))
    except RuntimeError:
        return False
    return True
