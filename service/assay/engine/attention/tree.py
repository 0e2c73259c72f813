"""Attention by a kernel of our own in Triton, which reads keys and values where they are.

A launch a layer, whatever the batch shares or finds kept: `tree_tables` says which keys each tile
of queries meets. The arithmetic of a row depends on its own sequence alone, by construction.
"""

from __future__ import annotations

from math import e, log2
from typing import TYPE_CHECKING, NamedTuple

import torch

from assay.engine import gpu_kernels, transfer
from assay.engine.attention.tree_tables import Blocks, Tables

if TYPE_CHECKING:
    import numpy as np

    from assay.engine.attention.pattern import Pattern
    from assay.engine.block_cache import Layer
    from assay.engine.packing import PackedBatch


class Shape(NamedTuple):
    """What a program of the kernel computes at a time; one shape for all batches of a model."""

    rows: int  # of a tile, each a token's query of one head
    keys: int  # of a block
    warps: int


def obstacle(device: torch.device, dtype: torch.dtype) -> str:
    """Return why Triton can't run the kernel here; nothing where it may."""
    return gpu_kernels.obstacle(device, dtype, "the tree kernel")


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    pattern: Pattern,
    layer: Layer | None = None,
    rows: np.ndarray | None = None,
) -> torch.Tensor:
    """Attend all runs in one launch; see `pattern.AttentionBackend`.

    Raises:
        ValueError: More heads share keys than a tile has rows.
        RuntimeError: Triton can't compile the kernel, or the device is too small for it.
    """
    from assay.engine.attention import tree_kernel  # noqa: PLC0415  needs Triton

    heads, queries, width = query.shape
    kv_heads, _, value_width = value.shape
    filled, value_filled = _power_of_two(width), _power_of_two(value_width)
    shape = _shape(max(filled, value_filled), query.dtype)
    group = heads // kv_heads
    if group > shape.rows:
        raise ValueError(f"{group} heads share keys; a tile has {shape.rows} rows")
    tables = _tables(packed, pattern, shape, group, query, rows)
    query, key, value = (_in_rows(heads) for heads in (query, key, value))
    kept_keys, kept_values = (key, value) if layer is None else (layer.keys, layer.values)
    cap = pattern.softcap
    out = query.new_empty(queries, heads, value_width)
    gpu_kernels.launch(
        tree_kernel.attend,
        (tables.tiles.shape[0] * kv_heads,),
        *(query, key, value, kept_keys, kept_values, out, *tables),
        pattern.scale * log2(e),
        (cap or 0.0) * log2(e),
        -2.0 * log2(e) * pattern.scale / (cap or 1.0),
        0 if pattern.window is None else pattern.window - 1,
        *(query.stride(0), query.stride(1), key.stride(0), key.stride(1)),
        *(value.stride(0), value.stride(1), kept_keys.stride(0), kept_keys.stride(1)),
        *(kept_values.stride(0), kept_values.stride(1)),
        KV_HEADS=kv_heads,
        GROUP=group,
        ROWS=shape.rows,
        KEYS=shape.keys,
        WIDTH=width,
        VALUE_WIDTH=value_width,
        WIDTH_FILLED=filled,
        VALUE_WIDTH_FILLED=value_filled,
        IS_CAUSAL=pattern.causal,
        HAS_WINDOW=pattern.window is not None,
        HAS_CAP=cap is not None,
        num_warps=shape.warps,
        num_stages=2,
    )
    return out


def _shape(width: int, dtype: torch.dtype) -> Shape:
    """Return the largest shape that fits registers and shared memory, by what compilers say."""
    if width > 128:
        return Shape(32, 16, 4) if dtype == torch.float32 or width > 256 else Shape(64, 32, 8)
    return Shape(64, 32, 8) if dtype == torch.float32 else Shape(128, 64, 8)


def _in_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose last dimension lies together."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _power_of_two(width: int) -> int:
    """Return a width filled up to what the kernel's products take."""
    return max(16, 1 << (width - 1).bit_length())


def _tables(
    packed: PackedBatch,
    pattern: Pattern,
    shape: Shape,
    group: int,
    query: torch.Tensor,
    rows: np.ndarray | None,
) -> Tables:
    """Return a batch's tables beside its queries, made once for all layers of a pattern."""
    kind = (Tables, shape, group, pattern.causal, pattern.window, query.device)
    made: Tables | None = None if rows is not None else packed.made.get(kind)
    if made is not None:
        return made
    blocks = (Blocks, shape.keys)
    if blocks not in packed.made:
        packed.made[blocks] = Blocks(packed, shape.keys)
    tables = packed.made[blocks].tables(
        causal=pattern.causal,
        window=pattern.window,
        tokens=shape.rows // group,
        queries=query.shape[1],
        rows=rows,
    )
    there = Tables(*transfer.to_device(tables, query.device))
    if rows is None:
        packed.made[kind] = there
    return there
