"""The trunk's repeated blocks through torch.compile, and its linear layers prepacked.

Each block runs the same code over other weights, so one compiled program serves them all and the
start costs seconds, not minutes. What inductor would sum in another order than torch's own kernels
is left to those, and intermediate numbers are rounded where eager rounds them: a compiled trunk's
scores stay eager's.
"""

from __future__ import annotations

import os
import shutil

import torch

from assay.engine import operator

_mkldnn = torch.ops.mkldnn  # oneDNN's own layout of weights has no public name
_STEADY_ROWS = 64
_TRIED_ROWS = (16, 48, 80, 256)  # beside twice the last
_MOST_PROGRAMS = 64  # of all served models: kinds of blocks, dtypes
_SUMMED_BY_TORCH = (
    torch.ops.aten.mean.dim,
    torch.ops.aten.native_layer_norm.default,
    torch.ops.aten.gelu.default,
)


def is_available() -> bool:
    """Return whether there is a C++ compiler."""
    return shutil.which(os.environ.get("CXX", "c++")) is not None


def compile_blocks(trunk: torch.nn.Module) -> None:
    """Compile the repeated blocks of a trunk, in place; they are traced on their next call."""
    _configure()
    for blocks in repeated_blocks(trunk):
        for block in blocks:
            block.forward = torch.compile(block.forward, dynamic=True)


def restore_blocks(trunk: torch.nn.Module) -> None:
    """Undo `compile_blocks`."""
    for blocks in repeated_blocks(trunk):
        for block in blocks:
            del block.forward


def repeated_blocks(trunk: torch.nn.Module) -> list[torch.nn.ModuleList]:
    """Return the outermost lists of like modules."""
    blocks: list[torch.nn.ModuleList] = []
    for module in trunk.children():
        if isinstance(module, torch.nn.ModuleList) and len(set(map(type, module))) == 1:
            blocks.append(module)
        else:
            blocks.extend(repeated_blocks(module))
    return blocks


def _configure() -> None:
    from torch._dynamo import config as dynamo  # noqa: PLC0415  seconds to import
    from torch._inductor import config as inductor  # noqa: PLC0415
    from torch._inductor import lowering  # noqa: PLC0415

    inductor.emulate_precision_casts = True
    for summed in _SUMMED_BY_TORCH:
        lowering.make_fallback(summed, warn=False, override_decomp=True)  # type: ignore[no-untyped-call]
    dynamo.recompile_limit = _MOST_PROGRAMS
    dynamo.fail_on_recompile_limit_hit = True  # or blocks would run uncompiled, unnoticed


def prepack(trunk: torch.nn.Module) -> None:
    """Replace a CPU trunk's linear layers by ones whose weights are laid out once, in place."""
    for module in list(trunk.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and _can_prepack(child.weight.dtype):
                setattr(module, name, PrepackedLinear(child))


def _can_prepack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and _mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    )


def laid_out(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight, (out, in), as oneDNN reads it fastest; itself where it reads none such."""
    if weight.device.type != "cpu" or not weight.numel() or not _can_prepack(weight.dtype):
        return weight
    there: torch.Tensor = _mkldnn._reorder_linear_weight(weight)  # noqa: SLF001
    return there


class PrepackedLinear(torch.nn.Module):
    """A linear layer whose weights oneDNN laid out once, instead of on every call.

    It multiplies `rows` rows at a time, or all of them.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = laid_out(linear.weight.detach())
        self.bias = linear.bias
        self.rows = 0

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return state (…, in) @ weight.T + bias, (…, out)."""
        product: torch.Tensor = torch.ops.assay.linear(state, self.weight, self.bias, self.rows)
        return product


def depends_on_rows(trunk: torch.nn.Module) -> bool:
    """Return whether a row's bits depend on how many rows a layer multiplies, or on its place.

    oneDNN sums in another order for few rows than for many where it has AMX, in bfloat16.
    """
    layers = {
        (layer.in_features, layer.out_features): layer
        for layer in trunk.modules()
        if isinstance(layer, PrepackedLinear)
    }
    generator = torch.Generator().manual_seed(0)
    for layer in layers.values():
        state = torch.randn(2 * _TRIED_ROWS[-1], layer.in_features, generator=generator)
        state = state.to(layer.weight.dtype)
        whole = layer(state)
        if not all(torch.equal(layer(state[:rows]), whole[:rows]) for rows in _TRIED_ROWS):
            return True
        if not torch.equal(layer(state.roll(25, 0)), whole.roll(25, 0)):
            return True
    return False


def steady(trunk: torch.nn.Module) -> None:
    """Let a trunk's layers multiply equally many rows at a time, whatever the batch has."""
    for layer in trunk.modules():
        if isinstance(layer, PrepackedLinear):
            layer.rows = _STEADY_ROWS


def multiply(
    state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rows: int = 0
) -> torch.Tensor:
    """Multiply by a weight that is `laid_out`: opaque, since inductor would unpack it."""
    if not weight.is_mkldnn:
        return torch.nn.functional.linear(state, weight, bias)
    if rows:
        flat = state.reshape(-1, state.shape[-1])
        filled = torch.nn.functional.pad(flat, (0, 0, 0, -len(flat) % rows))
        parts = [multiply(part, weight, bias) for part in filled.view(-1, rows, state.shape[-1])]
        return torch.cat(parts)[: len(flat)].view(*state.shape[:-1], -1)
    product: torch.Tensor = _mkldnn._linear_pointwise(state, weight, bias, "none", [], "")  # noqa: SLF001
    return product


def _shape(
    state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rows: int = 0
) -> torch.Tensor:
    del bias, rows
    return state.new_empty(*state.shape[:-1], weight.shape[0])


operator.define(
    "linear(Tensor state, Tensor weight, Tensor? bias, int rows=0) -> Tensor", multiply, _shape
)
