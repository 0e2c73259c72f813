"""Linear layers in eight bits, where the operator or a card asks for it: int8 or FP8.

A weight has a scale for each output. What goes in is rounded when it comes, with a scale for each
row (token): by a scale of the whole batch a score would depend on its company. int8's products are
summed in int32, whose order doesn't matter; FP8's by the GPU. Embeddings, norms, routers and heads
are left as they are.

Not here: checkpoints whose files are quantized (`cards.quantized`, `engine.expansion`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from assay.cards import quantized
from assay.engine import checkpoint, compilation, expansion, operator
from assay.engine.expansion import Reader
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    Kind = Literal["int8", "fp8"]

_onednn = torch.ops.onednn  # int8 products by oneDNN have no public name
_MOST = {"int8": 127.0, "fp8": 448.0}
_ZERO = 128  # oneDNN's fast kernels take rows without a sign; with one it falls to a loop in C++
_ROUNDING = 2.0**-7  # of a weight's largest number: what expanding may have cut
_LEAST_SCALE = 2.0**-100  # of a row of zeros
_ROUTERS = ("gate", "router", "shared_expert_gate")  # whose outputs choose
_MULTIPLE = 16  # of inputs and outputs, as torch._scaled_mm and torch._int_mm take them
_FEWEST_ROWS = 32  # as torch._int_mm takes them on CUDA: more than 16
_CAPABILITY = {"int8": (8, 0), "fp8": (8, 9)}  # of CUDA


@dataclass(frozen=True, slots=True)
class Change:
    """By how much scores moved when layers were quantized, over some sequences of random ids.

    `flipped` is the part of all pairs of them whose order changed; `spread` the scores' standard
    deviation.
    """

    kind: Kind
    sequences: int
    mean: float
    largest: float
    spread: float
    flipped: float

    @classmethod
    def between(cls, kind: Kind, before: torch.Tensor, after: torch.Tensor) -> Change:
        """Return how scores moved, (sequences, outputs) each."""
        moved = (after - before).abs()
        order, now = (torch.sign(scores[:, None] - scores) for scores in (before, after))
        pairs = max(1, len(before) * (len(before) - 1) * before.shape[1])
        return cls(
            kind=kind,
            sequences=len(before),
            mean=float(moved.mean()),
            largest=float(moved.max()),
            spread=float(before.std(0).mean()),
            flipped=float((order != now).sum()) / pairs,
        )

    def __str__(self) -> str:
        return (
            f"its linear layers are rounded to {self.kind}: on {self.sequences} sequences of "
            f"random ids a score moves by {self.mean:.2g} on average and {self.largest:.2g} at "
            f"most, where scores have a standard deviation of {self.spread:.2g}; "
            f"{self.flipped:.1%} of pairs change their order"
        )


@dataclass(frozen=True, slots=True)
class StoredFp8:
    """A checkpoint's FP8 weights as they lie in its files; `note` is said of it when expanded."""

    reader: Reader
    note: str

    def __call__(self, path: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the codes (out, in) and scales (out, 1) of a layer by its path in the trunk.

        None where no tensor is its weight: it isn't FP8 there, or made of several.
        """
        names = [name for name in self.reader.contents.packed if f".{name}".endswith(f".{path}")]
        if len(names) != 1:
            return None
        parts = self.reader.parts(names[0])
        scale = expansion.fp8_scale(parts["scale" if "scale" in parts else "weight_scale"])
        codes = parts["weight"].to(weight.device)
        if codes.shape != weight.shape:
            return None
        scales = scale.to(weight.device).reshape(-1, 1).expand(len(weight), 1).contiguous()
        gap = (codes.float() * scales - weight.float()).abs().max()
        return (codes, scales) if gap <= weight.abs().max() * _ROUNDING else None


@dataclass(frozen=True, slots=True)
class Quantizer:
    """What linear layers are rounded to; `stored` where their weights already are in the files."""

    kind: Kind
    stored: StoredFp8 | None = None

    def apply(self, trunk: torch.nn.Module) -> int:
        """Replace the linear layers of a trunk's repeated blocks, in place; return how many."""
        count = 0
        for path, parent, name in list(_linear_layers(trunk)):
            linear = getattr(parent, name)
            weight = _dense(linear.weight)
            layer: torch.nn.Module
            if self.kind == "int8":
                layer = Int8Linear(weight, linear.bias)
            else:
                stored = self.stored(f"{path}.weight", weight) if self.stored else None
                layer = Fp8Linear(weight, linear.bias, stored)
            setattr(parent, name, layer)
            count += 1
        return count


def quantizer(kind: Kind, device: torch.device, folder: Path, base: Path | None) -> Quantizer:
    """Return what quantizes a checkpoint on a device; no weight is read yet.

    `base` is that of an adapter. FP8 weights with a scale for the tensor or for each row stay what
    they are.

    Raises:
        CheckpointError: It is quantized otherwise, or the device doesn't multiply such numbers.
    """
    if why := obstacle(kind, device):
        raise CheckpointError(f"quantize = '{kind}' can't be had: {why}")
    weights = checkpoint.weights_folder(folder, base)
    found = quantized.contents(weights)
    if found.packed and kind == "fp8" and weights == folder and found.has_fp8_rows:
        return Quantizer(kind, StoredFp8(Reader(weights, found), quantized.note(weights)))
    if found.packed:
        raise CheckpointError(
            f"{weights} is quantized already ({found.method}), and quantize = '{kind}' would round "
            "it a second time; leave quantize out, or give the checkpoint that it was made from"
        )
    return Quantizer(kind)


def obstacle(kind: Kind, device: torch.device) -> str:
    """Return why a device can't multiply such numbers; empty where it can."""
    if device.type == "cpu":
        exact = kind != "int8" or _is_exact()
        return "" if exact else "this CPU's products of int8 aren't exact"
    if device.type != "cuda" or torch.version.hip is not None:
        return "it is written for CPUs and NVIDIA's GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY[kind]:
        needed, there = (".".join(map(str, one)) for one in (_CAPABILITY[kind], capability))
        return f"it takes a GPU of compute capability {needed}, and {device} has {there}"
    return ""


def _linear_layers(trunk: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, str]]:
    """Yield each layer to quantize: its path, the module that has it, and its name there."""
    inside = {
        id(module) for blocks in compilation.repeated_blocks(trunk) for module in blocks.modules()
    }
    for path, parent in trunk.named_modules():
        for name, child in parent.named_children() if id(parent) in inside else ():
            if type(child) not in (torch.nn.Linear, compilation.PrepackedLinear):
                continue
            fits = child.in_features % _MULTIPLE == child.out_features % _MULTIPLE == 0
            if fits and name not in _ROUTERS:
                yield f"{path}.{name}", parent, name


def _dense(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.detach()
    return weight.to_dense() if weight.is_mkldnn else weight


class _EightBits(torch.nn.Module):
    """A linear layer whose weight and inputs are rounded; computed in float32 from there on."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else bias.detach().float()

    def _finish(self, product: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        if self.bias is not None:
            product = product + self.bias
        return product.to(state.dtype)


class Int8Linear(_EightBits):
    """A linear layer in int8, by `torch.ops.onednn` or, on a GPU, `torch._int_mm`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take a weight, (out, in), and a bias, (out,)."""
        super().__init__(weight, bias)
        quotients, scale = _scaled(weight, _MOST["int8"])
        codes = quotients.round().to(torch.int8)
        on_cpu = weight.device.type == "cpu"
        self.codes = _onednn.qlinear_prepack(codes, None) if on_cpu else codes.t()
        self.scale = scale.flatten()

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return state (…, in) @ weight.T + bias, (…, out), in the state's dtype."""
        rows, scales = _rounded_int8(state)
        product = torch.ops.assay.int8_product(rows, self.codes, self.scale)
        return self._finish(product * scales, state)


class Fp8Linear(_EightBits):
    """A linear layer in FP8 (e4m3), by `torch._scaled_mm`.

    A CPU multiplies the same rounded numbers in the weight's own dtype: scores are about those of a
    GPU, and nothing is saved.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stored: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """Take a weight, (out, in), a bias, (out,), and codes and scales where there are some."""
        super().__init__(weight, bias)
        codes, scale = stored or _rounded_fp8(weight)
        self.scale = scale.T  # (1, out)
        if weight.device.type == "cpu":
            wide = torch.float32 if weight.dtype == torch.float32 else torch.bfloat16
            self.codes = compilation.laid_out(codes.to(wide))
        else:
            self.codes = codes.t()

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return state (…, in) @ weight.T + bias, (…, out), in the state's dtype."""
        rows, scales = _rounded_fp8(state)
        product = torch.ops.assay.fp8_product(rows, scales, self.codes, self.scale)
        return self._finish(product, state)


def _rounded_int8(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    quotients, scales = _scaled(state, _MOST["int8"])
    if state.device.type == "cpu":
        return (quotients.round() + _ZERO).to(torch.uint8), scales
    return quotients.round().to(torch.int8), scales


def _rounded_fp8(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    quotients, scales = _scaled(state, _MOST["fp8"])
    return quotients.to(torch.float8_e4m3fn), scales


def _scaled(state: torch.Tensor, most: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows (…, in) whose largest number is `most`, and their scales (…, 1), in float32."""
    scales = (state.abs().amax(-1, keepdim=True).float() / most).clamp_min(_LEAST_SCALE)
    return state.float() * scales.reciprocal(), scales


def _int8_product(rows: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return rows (…, in) times int8 weights times their scales (out,): (…, out) float32."""
    if rows.device.type == "cpu":
        product: torch.Tensor = _onednn.qlinear_pointwise(
            *(rows, 1.0, _ZERO, codes, scale, None, None, 1.0, 0, torch.float32, "none", [], "")
        )
        return product
    flat = rows.reshape(-1, rows.shape[-1]).contiguous()
    missing = max(0, _FEWEST_ROWS - len(flat))
    padded = torch.nn.functional.pad(flat, (0, 0, 0, missing))
    sums = torch._int_mm(padded, codes)[: len(flat)]  # noqa: SLF001  has no public name
    return (sums * scale).view(*rows.shape[:-1], -1)


def _fp8_product(
    rows: torch.Tensor, scales: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return FP8 (…, in) times FP8 weights times both scales: (…, out) float32."""
    if rows.device.type == "cpu":
        product: torch.Tensor = torch.ops.assay.linear(rows.to(codes.dtype), codes, None)
        return product.float().mul_(scales).mul_(scale)
    product = torch._scaled_mm(  # noqa: SLF001  has no public name before torch 2.10
        rows.reshape(-1, rows.shape[-1]).contiguous(),
        codes,
        scale_a=scales.reshape(-1, 1),
        scale_b=scale,
        out_dtype=torch.bfloat16,  # the one that scales of rows go with
    )
    return product.float().view(*rows.shape[:-1], -1)


@functools.cache
def _is_exact() -> bool:
    """Return whether this CPU multiplies int8 without saturating on the way."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    numbers = torch.full((16, 256), 127.0)
    numbers[1::2, 1::2] = -127.0
    codes = _onednn.qlinear_prepack(numbers.to(torch.int8), None)
    product = _int8_product((numbers + _ZERO).to(torch.uint8), codes, torch.ones(16))
    return torch.equal(product, numbers @ numbers.T)


def _like_product(rows: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    return rows.new_empty((*rows.shape[:-1], rest[-1].shape[-1]), dtype=torch.float32)


operator.define(
    "int8_product(Tensor rows, Tensor codes, Tensor scale) -> Tensor", _int8_product, _like_product
)
operator.define(
    "fp8_product(Tensor rows, Tensor scales, Tensor codes, Tensor scale) -> Tensor",
    _fp8_product,
    _like_product,
)
