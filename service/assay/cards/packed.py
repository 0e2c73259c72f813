"""How a quantized weight lies in the files: its tensors, the shape it expands to, and what to know.

By names, shapes and a few small tensors: nothing is expanded here (`engine.expansion` does that),
and a tensor of another shape than its layout gives it is refused before memory is taken for it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

    from assay.cards.headers import Tensor

    Read = Callable[[str], np.ndarray]  # the numbers of a small tensor by its name

Strategy = Literal["tensor", "channel", "group", "block"]
PACKED = "pack-quantized"  # compressed-tensors' word for codes of 32-bit words
_FLOATS = ("F32", "BF16", "F16")
_EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
_WORD = 32  # bits
_LARGEST = 2**20  # of a group or a block
_STATES = ("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4")
_PER_ROW = 0  # bitsandbytes' `weight_format` of rows as they are
_MATRIX = 2
_MOST_OFFSET = 1e30
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


@dataclass(frozen=True, slots=True)
class Gptq:
    """Columns of codes packed along the inputs, with a scale and a zero for each group of inputs.

    `group` is that of inputs without a `g_idx`. Zeros are stored less one where `is_less_one`.
    """

    bits: int
    group: int
    is_less_one: bool


@dataclass(frozen=True, slots=True)
class Awq:
    """4-bit codes packed along the outputs, interleaved, with a scale and a zero for each group."""

    group: int


@dataclass(frozen=True, slots=True)
class Bnb4:
    """bitsandbytes' 4 bits: codes into a table of 16, in blocks, whose scales may be packed too.

    `dtype` is that of the numbers that were quantized; `nested` the block and offset of packed
    scales.
    """

    block: int
    dtype: Literal["float16", "bfloat16", "float32"]
    nested: tuple[int, float] | None


@dataclass(frozen=True, slots=True)
class Bnb8:
    """bitsandbytes' 8 bits: a scale for each row."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A layout of compressed-tensors, by that library's own words for its scheme."""

    form: str
    kind: Literal["int", "float"]
    bits: int
    strategy: Strategy
    group: int | None
    block: tuple[int, int] | None
    is_symmetric: bool


Scheme = Fp8 | Gptq | Awq | Bnb4 | Bnb8 | Compressed


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


def gptq(said: Mapping[str, Any], tensors: Mapping[str, Tensor], _: Read) -> dict[str, Packed]:
    """Return the weights in GPTQ's layout, as AutoGPTQ and GPTQModel write it.

    Raises:
        UnservedError: A tensor isn't as the layout has it, or the layout is another one.
    """
    bits = _integer(said, "bits", among=(2, 4, 8))
    form = said.get("checkpoint_format") or said.get("format") or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise UnservedError(
            f"its checkpoint_format is '{_shown(form)}'; gptq and gptq_v2 are served"
        )
    found = {}
    for module in _modules(tensors, "qweight"):
        packed = _tensor(tensors, f"{module}.qweight", ("I32",), dimensions=2)
        _tensor(tensors, f"{module}.scales", _FLOATS)
        inputs, outputs = packed.shape[0] * _WORD // bits, packed.shape[1]
        group = _group(said, inputs)
        groups = math.ceil(inputs / group)
        _check_shape(tensors, f"{module}.scales", (groups, outputs))
        zeros = (groups, math.ceil(outputs * bits / _WORD))
        _tensor(tensors, f"{module}.qzeros", ("I32",))
        _check_shape(tensors, f"{module}.qzeros", zeros)
        parts = ["qweight", "qzeros", "scales"]
        if f"{module}.g_idx" in tensors:
            _tensor(tensors, f"{module}.g_idx", ("I32", "I64"))
            _check_shape(tensors, f"{module}.g_idx", (inputs,))
            parts.append("g_idx")
        scheme = Gptq(bits, group, is_less_one=form == "gptq")
        named = {part: f"{module}.{part}" for part in parts}
        found[f"{module}.weight"] = Packed(scheme, (outputs, inputs), named)
    return found


def awq(said: Mapping[str, Any], tensors: Mapping[str, Tensor], _: Read) -> dict[str, Packed]:
    """Return the weights in AWQ's layout for matrix products, as AutoAWQ writes it.

    Raises:
        UnservedError: A tensor isn't as the layout has it, or the layout is another one.
    """
    bits = _integer(said, "bits", among=(4,))
    form = _shown(said.get("version") or said.get("format") or "gemm").lower()
    if form != "gemm":
        raise UnservedError(f"its version is '{form}'; gemm is served")
    found = {}
    for module in _modules(tensors, "qweight"):
        packed = _tensor(tensors, f"{module}.qweight", ("I32",), dimensions=2)
        inputs, outputs = packed.shape[0], packed.shape[1] * _WORD // bits
        group = _group(said, inputs)
        if inputs % group:
            raise UnservedError(f"its group_size {group} doesn't divide {inputs}, '{module}'s")
        groups = inputs // group
        _tensor(tensors, f"{module}.scales", _FLOATS)
        _check_shape(tensors, f"{module}.scales", (groups, outputs))
        _tensor(tensors, f"{module}.qzeros", ("I32",))
        _check_shape(tensors, f"{module}.qzeros", (groups, packed.shape[1]))
        parts = {part: f"{module}.{part}" for part in ("qweight", "qzeros", "scales")}
        found[f"{module}.weight"] = Packed(Awq(group), (outputs, inputs), parts)
    return found


def bitsandbytes(
    said: Mapping[str, Any], tensors: Mapping[str, Tensor], read: Read
) -> dict[str, Packed]:
    """Return the weights that bitsandbytes writes in 4 and in 8 bits: each tells which by its own.

    Raises:
        UnservedError: A tensor isn't as the layout has it.
    """
    del said
    found = {}
    for weight in _modules(tensors, "absmax"):
        found[weight] = _of_four_bits(weight, tensors, read)
    for module in _modules(tensors, "SCB"):
        weight = f"{module}.weight"
        stored = _tensor(tensors, weight, ("I8",), dimensions=2)
        _tensor(tensors, f"{module}.SCB", ("F32",))
        _check_shape(tensors, f"{module}.SCB", stored.shape[:1])
        parts = {"weight": weight, "SCB": f"{module}.SCB"}
        if (form := f"{module}.weight_format") in tensors:
            if read(form).tolist() != _PER_ROW:
                raise UnservedError(f"'{form}' isn't {_PER_ROW}: rows in another order")
            parts["weight_format"] = form
        found[weight] = Packed(Bnb8(), stored.shape, parts)
    return found


def compressed(
    said: Mapping[str, Any], tensors: Mapping[str, Tensor], read: Read
) -> dict[str, Packed]:
    """Return the weights that compressed-tensors wrote, each by the group whose words fit it.

    Raises:
        UnservedError: No group fits a weight, or the layout is another one.
    """
    schemes = [*_schemes(said)]
    found = {}
    for module in _modules(tensors, "weight_scale"):
        parts = {
            part: f"{module}.{part}"
            for part in (
                *("weight", "weight_packed", "weight_scale", "weight_shape"),
                "weight_zero_point",
            )
            if f"{module}.{part}" in tensors
        }
        shape = _compressed_shape(module, tensors, read)
        shapes = {part: tensors[name] for part, name in parts.items()}
        scheme = next((scheme for scheme in schemes if _fits(scheme, shape, shapes)), None)
        if scheme is None:
            raise UnservedError(
                f"none of its config_groups gives '{module}' the tensors that it has: "
                + ", ".join(f"{part} {one.dtype} {[*one.shape]}" for part, one in shapes.items())
            )
        found[f"{module}.weight"] = Packed(scheme, shape, parts)
    return found


# --- bitsandbytes -----------------------------------------------------------------------------


def _of_four_bits(weight: str, tensors: Mapping[str, Tensor], read: Read) -> Packed:
    state = next((f"{weight}.{key}" for key in _STATES if f"{weight}.{key}" in tensors), None)
    if state is None:
        raise UnservedError(f"'{weight}' has no quant_state beside it")
    _tensor(tensors, state, ("U8",))
    said = _state(read(state).tobytes(), state)
    shape = tuple(said["shape"])
    count, block = math.prod(shape), said["blocksize"]
    parts = {part: f"{weight}.{part}" for part in ("absmax", "quant_map")} | {"weight": weight}
    stored = _tensor(tensors, weight, ("U8", "I8", "BF16", "F16", "F32"))
    width = {"U8": 1, "I8": 1, "BF16": 2, "F16": 2, "F32": 4}[stored.dtype]
    if 2 * width * math.prod(stored.shape) != count + count % 2:
        raise UnservedError(f"'{weight}' doesn't hold the {count} numbers that '{state}' states")
    blocks = math.ceil(count / block)
    nested = None
    if f"{weight}.nested_absmax" in tensors:
        parts |= {part: f"{weight}.{part}" for part in ("nested_absmax", "nested_quant_map")}
        nested = (said["nested_blocksize"], said["nested_offset"])
        _tensor(tensors, parts["nested_absmax"], ("F32",))
        _check_shape(tensors, parts["nested_absmax"], (math.ceil(blocks / nested[0]),))
        _tensor(tensors, parts["nested_quant_map"], ("F32",))
        _check_shape(tensors, parts["nested_quant_map"], (256,))
    _tensor(tensors, parts["absmax"], ("U8",) if nested else ("F32",))
    _check_shape(tensors, parts["absmax"], (blocks,))
    _tensor(tensors, parts["quant_map"], ("F32",))
    _check_shape(tensors, parts["quant_map"], (16,))
    return Packed(Bnb4(block, said["dtype"], nested), shape, parts | {"state": state})


def _state(content: bytes, name: str) -> dict[str, Any]:
    """Return what bitsandbytes wrote of a weight as JSON; each field that is read is as it must."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnservedError(f"'{name}' isn't JSON") from error
    if not isinstance(said, dict):
        raise UnservedError(f"'{name}' isn't a JSON object")
    shape = said.get("shape")
    sizes = shape if isinstance(shape, list) else []
    if len(sizes) != _MATRIX or not all(_is_size(size, _LARGEST * 16) for size in sizes):
        raise UnservedError(f"'{name}' states no shape of a matrix")
    for key in ("blocksize", "nested_blocksize"):
        if key in said or key == "blocksize":
            _integer(said, key, most=_LARGEST)
    if said.get("dtype") not in ("float16", "bfloat16", "float32"):
        raise UnservedError(f"'{name}' states no dtype of float")
    offset = said.get("nested_offset", 0.0)
    if not isinstance(offset, float | int) or not abs(offset) < _MOST_OFFSET:  # nor is it NaN
        raise UnservedError(f"'{name}' states no nested_offset")
    return {"nested_blocksize": 256, **said, "nested_offset": float(offset)}


# --- compressed-tensors -----------------------------------------------------------------------


def _schemes(said: Mapping[str, Any]) -> Iterator[Compressed]:
    """Yield what each group of a config says of weights."""
    if said.get("transform_config"):
        raise UnservedError("it rotates activations (transform_config)")
    sparsity = said.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format") not in (None, "dense"):
        raise UnservedError(f"its weights are sparse ({_shown(sparsity.get('format'))})")
    groups = said.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise UnservedError("it has no config_groups")
    for name, group in groups.items():
        if not isinstance(group, dict):
            raise UnservedError(f"its group '{name}' is named, not told")
        weights = group.get("weights")
        if weights is None:
            continue
        if not isinstance(weights, dict):
            raise UnservedError(f"its group '{name}' says nothing of weights")
        form = group.get("format") or said.get("format")
        yield _scheme(name, _shown(form), weights)


def _scheme(name: str, form: str, weights: Mapping[str, Any]) -> Compressed:
    kind: Any = weights.get("type", "int")
    strategy: Any = weights.get("strategy")
    plain = ("int-quantized", "float-quantized", "naive-quantized")
    if form not in (*plain, PACKED):
        raise UnservedError(f"its format is '{form}'; {', '.join((*plain, PACKED))} are served")
    bits = _integer(weights, "num_bits", most=8)
    if kind not in ("int", "float") or (kind == "float" and bits != 8):
        raise UnservedError(f"its group '{name}' has weights of {bits} bits, '{_shown(kind)}'")
    if weights.get("actorder") in ("group", "dynamic"):
        raise UnservedError(f"its group '{name}' orders inputs by activation (actorder)")
    group = weights.get("group_size")
    if strategy is None:  # as the library reads it
        strategy = "tensor" if group is None else "channel" if group == -1 else "group"
    if strategy not in get_args(Strategy):
        raise UnservedError(f"its group '{name}' has the strategy '{_shown(strategy)}'")
    size = _integer(weights, "group_size", most=_LARGEST) if strategy == "group" else None
    block = None
    if strategy == "block":
        block = _pair(weights.get("block_structure"), "block_structure")
    is_symmetric = weights.get("symmetric", True) is not False
    return Compressed(form, kind, bits, strategy, size, block, is_symmetric)


def _compressed_shape(module: str, tensors: Mapping[str, Tensor], read: Read) -> tuple[int, int]:
    """Return the shape of a weight, which a packed one has in a tensor beside it."""
    if f"{module}.weight_packed" not in tensors:
        rows, columns = _tensor(tensors, f"{module}.weight", None, dimensions=2).shape
        return rows, columns
    stated = _tensor(tensors, f"{module}.weight_shape", ("I64", "I32"))
    sizes = read(f"{module}.weight_shape").tolist() if stated.shape == (_MATRIX,) else []
    if len(sizes) != _MATRIX or not all(_is_size(size, _LARGEST * 16) for size in sizes):
        raise UnservedError(f"'{module}.weight_shape' states no shape of a matrix")
    return sizes[0], sizes[1]


def _fits(scheme: Compressed, shape: tuple[int, int], parts: Mapping[str, Tensor]) -> bool:
    """Whether a weight's tensors are those that a scheme gives it."""
    rows, columns = shape
    is_packed = scheme.form == PACKED
    stored = parts.get("weight_packed" if is_packed else "weight")
    if stored is None or ("weight_packed" in parts and "weight" in parts):
        return False
    if is_packed:
        packed = (rows, math.ceil(columns * scheme.bits / _WORD))
        is_stored_so = stored.dtype == "I32" and stored.shape == packed and scheme.kind == "int"
    else:
        is_stored_so = stored.dtype == ("I8" if scheme.kind == "int" else "F8_E4M3")
    scale, zero = parts["weight_scale"], parts.get("weight_zero_point")
    grid = _grid(scheme, shape)
    is_scaled_so = scale.dtype in _FLOATS and (
        scale.shape == grid or (scheme.strategy == "tensor" and math.prod(scale.shape) == 1)
    )
    if zero is None:
        return is_stored_so and is_scaled_so and scheme.is_symmetric
    if is_packed:
        zeros = (math.ceil(rows * scheme.bits / _WORD), grid[1])
        has_zeros = not scheme.is_symmetric and scheme.strategy in ("group", "channel")
        has_zeros = has_zeros and zero.dtype == "I32" and zero.shape == zeros
    else:
        has_zeros = zero.shape == scale.shape
    return is_stored_so and is_scaled_so and has_zeros


def _grid(scheme: Compressed, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of a weight's scales; none has it where a group doesn't divide."""
    rows, columns = shape
    match scheme.strategy:
        case "tensor":
            return 1, 1
        case "channel":
            return rows, 1
        case "group":
            group = scheme.group or columns
            return rows, -1 if columns % group else columns // group
        case "block":
            height, width = scheme.block or shape
            return math.ceil(rows / height), math.ceil(columns / width)


# --- what a layout asks for -------------------------------------------------------------------


def _modules(tensors: Mapping[str, Tensor], part: str) -> Iterator[str]:
    """Yield the modules, or weights, that have such a part."""
    suffix = f".{part}"
    return (name.removesuffix(suffix) for name in tensors if name.endswith(suffix))


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


def _check_shape(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    if tensors[name].shape != shape:
        raise _misshapen(name, tensors[name], shape)


def _misshapen(name: str, tensor: Tensor, shape: tuple[int, ...]) -> UnservedError:
    return UnservedError(f"'{name}' has the shape {[*tensor.shape]}, and its weight {[*shape]}")


def _integer(
    said: Mapping[str, Any], key: str, *, most: int = _LARGEST, among: tuple[int, ...] | None = None
) -> int:
    value = said.get(key)
    if not _is_size(value, most) or (among is not None and value not in among):
        allowed = " or ".join(map(str, among)) if among else f"1 to {most}"
        raise UnservedError(f"its {key} is {_shown(value)}; {allowed} is served")
    return int(value)  # type: ignore[arg-type]  # a size is one


def _group(said: Mapping[str, Any], inputs: int) -> int:
    """Return a group's size; -1 stands for all inputs."""
    whole = said.get("group_size") in (-1, None) and type(said.get("group_size")) is not bool
    return max(1, inputs) if whole else _integer(said, "group_size")


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
