"""A trunk's linear layers on a GPU with equal bits in any batch, by a kernel of our own.

The library's products choose a tile, and may split a sum, by the number of rows. On a CPU they are
steady as they are (`packing.ROWS`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from assay.engine import gpu_kernels, operator
from assay.engine.quantization import Fp8Linear


class Shape(NamedTuple):
    """What a program computes at a time; one shape for all batches of a dtype."""

    rows: int
    outs: int
    depth: int
    warps: int
    stages: int


_SHAPES = {2: Shape(128, 128, 64, 8, 3), 4: Shape(64, 64, 32, 4, 2)}  # by bytes of a number
_TOGETHER = 8


def obstacle(device: torch.device, dtype: torch.dtype) -> str:
    """Return why the kernel can't run here; nothing where it may."""
    return gpu_kernels.obstacle(device, dtype, "the kernel of invariant products")


def make_invariant(trunk: torch.nn.Module) -> list[str]:
    """Replace a trunk's linear layers, in place; return the names of what multiplies otherwise."""
    for module in list(trunk.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, InvariantLinear(child))
    return sorted({type(module).__name__ for module in trunk.modules() if _multiplies(module)})


def _multiplies(module: torch.nn.Module) -> bool:
    """Return whether a module has matrices of its own, which some product of torch's may take."""
    has_matrices = any(weight.dim() > 1 for weight in module.parameters(recurse=False))
    is_known = isinstance(module, (InvariantLinear, torch.nn.Embedding))
    return isinstance(module, Fp8Linear) or (has_matrices and not is_known)


class InvariantLinear(torch.nn.Module):
    """A linear layer of which a row's result depends on that row alone."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return state (…, in) @ weight.T + bias, (…, out)."""
        product: torch.Tensor = torch.ops.assay.invariant_linear(state, self.weight, self.bias)
        return product


def _multiply(state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Multiply in float32, and round once."""
    from assay.engine import product_kernel  # noqa: PLC0415  needs Triton

    out = _shape(state, weight, bias)
    outs, width = weight.shape
    rows = state.numel() // width
    shape = _SHAPES[state.element_size()]
    gpu_kernels.launch(
        product_kernel.multiply,
        (-(-rows // shape.rows) * -(-outs // shape.outs),),
        *(state.contiguous(), weight.contiguous(), weight if bias is None else bias, out, rows),
        WIDTH=width,
        OUTS=outs,
        HAS_BIAS=bias is not None,
        TILE_ROWS=shape.rows,
        TILE_OUTS=shape.outs,
        DEPTH=shape.depth,
        TOGETHER=_TOGETHER,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return out


def _shape(state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    del bias
    return state.new_empty(*state.shape[:-1], weight.shape[0])


operator.define(
    "invariant_linear(Tensor state, Tensor weight, Tensor? bias) -> Tensor", _multiply, _shape
)
