"""How a quantized weight lies in the files: its tensors, the shape it expands to, and what to know.

By names, shapes and a few small tensors: nothing is expanded here (`engine.expansion` does that),
and a tensor of another shape than its layout gives it is refused before memory is taken for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from assay.cards.headers import Tensor

    Read = Callable[[str], np.ndarray]  # the numbers of a small tensor by its name

_FLOATS = ("F32", "BF16", "F16")
_EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
_LARGEST = 2**20  # of a group or a block
_MATRIX = 2
# What tensors say of activations and of the cache of keys and values: both are as computed here.
UNREAD = (
    *(".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point"),
    *(".activation_scale", ".q_scale", ".k_scale", ".v_scale", ".k_zero_point", ".v_zero_point"),
)


class UnservedError(Exception):
    """A quantized checkpoint can't be served; the text says why, as a clause."""


@dataclass(frozen=True, slots=True)
class Fp8:
    """Numbers of 8 bits, with a scale for each `block` of rows and columns, or for the tensor."""

    block: tuple[int, int] | None


Scheme = Fp8


@dataclass(frozen=True, slots=True)
class Packed:
    """One quantized weight: the shape that it expands to, and its tensors' names by their parts."""

    scheme: Scheme
    shape: tuple[int, ...]
    parts: Mapping[str, str]


# --- each layout ------------------------------------------------------------------------------


def fp8(said: Mapping[str, Any], tensors: Mapping[str, Tensor], _: Read) -> dict[str, Packed]:
    """Return the weights that transformers' FineGrainedFP8 writes, as DeepSeek and Qwen publish.

    Raises:
        UnservedError: A tensor isn't as the layout has it.
    """
    block = said.get("weight_block_size", [128, 128])  # transformers' own default
    size = None if block is None else _pair(block, "weight_block_size")
    found = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in _EIGHT_BITS:
            continue
        scale = f"{name}_scale_inv"
        stored = _tensor(tensors, scale, (*_FLOATS, "F8_E8M0", "U8"))
        if len(tensor.shape) < _MATRIX:
            raise UnservedError(f"'{name}' isn't a matrix")
        *outer, rows, columns = tensor.shape
        grid = [*outer, 1, 1]
        if size is not None:
            grid = [*outer, math.ceil(rows / size[0]), math.ceil(columns / size[1])]
        if stored.shape != tuple(grid) and math.prod(grid) * math.prod(stored.shape) != 1:
            raise _misshapen(scale, stored, tuple(grid))
        found[name] = Packed(Fp8(size), tensor.shape, {"weight": name, "scale": scale})
    return found


# --- what a layout asks for -------------------------------------------------------------------


def _tensor(
    tensors: Mapping[str, Tensor],
    name: str,
    dtypes: tuple[str, ...] | None,
    *,
    dimensions: int | None = None,
) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise UnservedError(f"'{name}' is missing")
    if dtypes is not None and tensor.dtype not in dtypes:
        raise UnservedError(f"'{name}' is of {tensor.dtype}, not {' or '.join(dtypes)}")
    if dimensions is not None and len(tensor.shape) != dimensions:
        raise UnservedError(f"'{name}' has the shape {[*tensor.shape]}, not {dimensions} sizes")
    return tensor


def _misshapen(name: str, tensor: Tensor, shape: tuple[int, ...]) -> UnservedError:
    return UnservedError(f"'{name}' has the shape {[*tensor.shape]}, and its weight {[*shape]}")


def _pair(value: Any, key: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != _MATRIX:
        raise UnservedError(f"its {key} is {_shown(value)}, not two sizes")
    if not all(_is_size(size, _LARGEST) for size in value):
        sizes = " by ".join(map(_shown, value))
        raise UnservedError(f"its {key} is {sizes}; each is from 1 to {_LARGEST}")
    return value[0], value[1]


def _is_size(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _shown(value: Any) -> str:
    """Return a value of config.json to be told: what is nested isn't written out."""
    is_plain = value is None or isinstance(value, str | int | float)
    return str(value)[:40] if is_plain else f"a {type(value).__name__}"
