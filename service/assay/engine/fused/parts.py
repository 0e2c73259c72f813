"""The kernels, called on torch's tensors: norms, rotations and gates of a layer's states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from assay.engine import gpu_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda state: torch.nn.functional.gelu(state, approximate="tanh"),
}
_TILE = 4096  # numbers that a program has at a time
_WIDE = 16  # rows of a tile at the most


@dataclass(frozen=True, slots=True)
class Scale:
    """How an RMSNorm weighs what it has normalized.

    With `has_offset` a weight of 0 is a factor of 1; with `rounds_first` numbers are rounded to
    their dtype before they are weighted.
    """

    has_offset: bool
    rounds_first: bool


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """One RMSNorm: its weight, (width,), and what is added to the mean square."""

    weight: torch.Tensor
    eps: float


def norm(
    state: torch.Tensor,
    scale: Scale,
    of: Norm,
    *,
    residual: torch.Tensor | None = None,
    first: Norm | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of a residual and a state, (…, width) each, and that sum normalized.

    The state goes through a norm of its own `first`, where there is one. Without a residual the sum
    is the state.
    """
    from assay.engine.fused import kernels  # noqa: PLC0415  needs Triton

    state = state.contiguous()
    out = torch.empty_like(state)
    total = state if residual is None else torch.empty_like(state)
    width = state.shape[-1]
    rows, filled = state.numel() // width, _power_of_two(width)
    at_once = min(_WIDE, max(1, _TILE // filled))
    gpu_kernels.launch(
        kernels.norm,
        (-(-rows // at_once),),
        *(state, state if residual is None else residual.contiguous()),
        *((first or of).weight, of.weight, total, out, (first or of).eps, of.eps, rows),
        WIDTH=width,
        WIDTH_FILLED=filled,
        ROWS=at_once,
        HAS_FIRST=first is not None,
        HAS_RESIDUAL=residual is not None,
        HAS_OFFSET=scale.has_offset,
        ROUNDS_FIRST=scale.rounds_first,
        num_warps=4 if filled <= _TILE else 8,
    )
    return total, out


def rotate(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    rounds_products: bool,
    norms: tuple[Norm, Norm] | None = None,
    scale: Scale | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries and keys, (1, heads, rows, width) each, turned by their positions' angles.

    These are (1, rows, rotated): of a width the first part is rotated. With `norms` each head is
    normalized before, by the first for queries, by the second for keys.

    Raises:
        ValueError: There is more than one row of sequences, or norms that can't be had in one call.
    """
    from assay.engine.fused import kernels  # noqa: PLC0415  needs Triton

    if query.shape[0] != 1 or (norms is not None and norms[0].eps != norms[1].eps):
        raise ValueError("one row of sequences at a time, and norms alike but for their weights")
    query, key = (heads if heads.stride(-1) == 1 else heads.contiguous() for heads in (query, key))
    _, heads, rows, width = query.shape
    kv_heads = key.shape[1]
    outs = [query.new_empty(1, rows, count, width) for count in (heads, kv_heads)]
    of_query, of_key = norms or (Norm(cos, 0.0), Norm(cos, 0.0))
    filled = _power_of_two(width)
    at_once = min(_WIDE, max(1, _TILE // filled // 2))
    gpu_kernels.launch(
        kernels.rotate,
        (-(-rows // at_once), heads + kv_heads),
        *(query, key, cos.contiguous(), sin.contiguous(), of_query.weight, of_key.weight, *outs),
        *(of_query.eps, query.stride(1), query.stride(2), key.stride(1), key.stride(2), rows),
        HEADS=heads,
        KV_HEADS=kv_heads,
        WIDTH=width,
        WIDTH_FILLED=filled,
        ROTATED=cos.shape[-1],
        ROWS=at_once,
        HAS_NORM=norms is not None,
        HAS_OFFSET=scale is not None and scale.has_offset,
        ROUNDS_FIRST=scale is not None and scale.rounds_first,
        ROUNDS_PRODUCTS=rounds_products,
        num_warps=4,
    )
    return outs[0].transpose(1, 2), outs[1].transpose(1, 2)


def gate(gated: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """Return activation(gated) * up, (…, width) each; rows may be parts of wider ones."""
    from assay.engine.fused import kernels  # noqa: PLC0415  needs Triton

    width = gated.shape[-1]
    out = torch.empty(gated.shape, dtype=gated.dtype, device=gated.device)
    gated, up = (part.flatten(0, -2) for part in (gated, up))
    columns = min(_TILE // 4, _power_of_two(width))
    at_once = min(_WIDE, _TILE // columns)
    gpu_kernels.launch(
        kernels.gate,
        (-(-len(gated) // at_once), -(-width // columns)),
        *(gated, up, out, gated.stride(0), up.stride(0), len(gated)),
        WIDTH=width,
        ROWS=at_once,
        COLUMNS=columns,
        ACTIVATION=activation,
        num_warps=4,
    )
    return out


def _power_of_two(width: int) -> int:
    return 1 << (width - 1).bit_length()
