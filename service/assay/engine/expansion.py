"""Quantized weights, expanded one by one as they are read: nothing is in memory twice.

Each is multiplied as its format's own library does it, in the dtype in which that does it, so that
a model has the numbers of that library's dequantized one. On the CPU, wherever a model goes: the
parts of a hostile file index nothing on a GPU.

compressed-tensors is expanded by its own library. The others' packages must be compiled, or bring
120 MB of code for GPUs, and what they multiply is a few lines. So it is written here, after
ModelCloud/GPTQModel (`nn_modules/qlinear/torch.py`, `quantization/awq/utils/packing_utils.py`) and
bitsandbytes-foundation/bitsandbytes (`functional.py`, `backends/default/ops.py`).
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch.nn import functional

from assay.cards import packed
from assay.engine import faults
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from assay.cards.packed import Packed
    from assay.cards.quantized import Contents

    Parts = Mapping[str, torch.Tensor]

_WORD = 32  # bits
_INTERLEAVED = (0, 4, 1, 5, 2, 6, 3, 7)  # where AWQ keeps the codes of a word
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_AT_A_TIME = 2**20  # numbers
_127TH = 7.874015718698502e-3  # as bitsandbytes writes it


class Reader:
    """The tensors of a checkpoint by name, read and expanded when they are asked for.

    May be called by several threads.
    """

    def __init__(self, folder: Path, contents: Contents) -> None:
        """Take where tensors are; nothing is read yet.

        Raises:
            CheckpointError: The library of their format is missing.
        """
        self._folder = folder
        self.contents = contents
        self._opened: dict[Path, Any] = {}
        schemes = (one.scheme for one in contents.packed.values())
        if any(isinstance(scheme, packed.Compressed) for scheme in schemes):
            _library(folder)

    def __call__(self, name: str) -> torch.Tensor:
        """Return a tensor, in the dtype of the file or, of a quantized one, of its library.

        Raises:
            CheckpointError: A quantized one has numbers that can't be.
        """
        how = self.contents.packed.get(name)
        if how is None:
            return self._stored(name)
        try:
            return _expanded(how, self.parts(name)).reshape(how.shape).contiguous()
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            if faults.is_fault(error):
                raise
            raise CheckpointError(f"{self._folder}: '{name}' can't be expanded: {error}") from error

    def parts(self, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a quantized one by their parts, as they lie in the files."""
        return {
            part: self._stored(stored) for part, stored in self.contents.packed[name].parts.items()
        }

    def each(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every tensor, one after another."""
        for name in self.contents.tensors:
            yield name, self(name)

    def deferred(self) -> dict[str, Deferred]:
        """Return every tensor as what transformers reads when its place is there."""
        stored = self.contents.weights.tensors
        dtypes = {name: _DTYPES.get(tensor.dtype) for name, tensor in stored.items()}
        return {name: Deferred(self, name, dtypes.get(name)) for name in self.contents.tensors}

    def _stored(self, name: str) -> torch.Tensor:
        file = self.contents.weights.tensors[name].file
        if file not in self._opened:
            self._opened[file] = safe_open(file, framework="pt")
        tensor: torch.Tensor = self._opened[file].get_tensor(name)
        return tensor


class Deferred:
    """A tensor that is read by `[...]`, as transformers reads a slice of safetensors."""

    def __init__(self, reader: Reader, name: str, dtype: torch.dtype | None) -> None:
        self._reader = reader
        self._name = name
        self._dtype = dtype

    def __getitem__(self, place: object) -> torch.Tensor:
        """Return the whole of it."""
        return self._reader(self._name)[place]  # type: ignore[index]  # as transformers asks

    @property
    def dtype(self) -> torch.dtype:
        """The file's dtype: what a model is made of whose config.json names none."""
        return self._dtype or torch.float32

    def is_floating_point(self) -> bool:
        """Whether it lies in the file as numbers of 16 bits or more."""
        return self._dtype is not None


def _expanded(how: Packed, parts: Parts) -> torch.Tensor:
    match how.scheme:
        case packed.Fp8():
            return _fp8(how.scheme, parts)
        case packed.Gptq():
            return _gptq(how.scheme, parts)
        case packed.Awq():
            return _awq(how.scheme, parts)
        case packed.Bnb4():
            return _bnb4(how.scheme, parts, math.prod(how.shape))
        case packed.Bnb8():
            return (parts["weight"] * parts["SCB"][:, None]).mul_(_127TH)
        case packed.Compressed():
            return _compressed(how.scheme, parts, how.shape)


def _fp8(scheme: packed.Fp8, parts: Parts) -> torch.Tensor:
    """Return numbers times the scale of their block, in float32 as transformers has it.

    A block may end at the weight's edge: transformers' own loader takes only blocks that divide.
    """
    weight, scale = parts["weight"].float(), fp8_scale(parts["scale"])
    if scheme.block is None or scale.ndim < weight.ndim:
        return weight.mul_(scale)
    rows, columns = scheme.block
    scale = scale.repeat_interleave(rows, -2)[..., : weight.shape[-2], :]
    count = weight.shape[-1] // columns
    whole = weight[..., : count * columns]  # a scale for each number would take as much again
    whole.view(*weight.shape[:-1], count, columns).mul_(scale[..., :count, None])
    weight[..., count * columns :] *= scale[..., count:]
    return weight


def fp8_scale(scale: torch.Tensor) -> torch.Tensor:
    """Return scales in float32; bytes are exponents."""
    return (scale.float() - 127).exp2() if scale.dtype == torch.uint8 else scale.float()


def _gptq(scheme: packed.Gptq, parts: Parts) -> torch.Tensor:
    words, scales = parts["qweight"], parts["scales"]
    in_word = _WORD // scheme.bits
    zeros = _unpacked(parts["qzeros"], scheme.bits).flatten(1)[:, : scales.shape[1]]
    if scheme.is_less_one:
        zeros = (zeros + 1) & (2**scheme.bits - 1)
    groups = parts.get("g_idx")
    if groups is None:
        groups = torch.arange(len(words) * in_word) // scheme.group
    elif groups.numel() and not (0 <= int(groups.min()) <= int(groups.max()) < len(scales)):
        raise ValueError("its g_idx names a group that isn't there")

    def codes(outputs: slice) -> torch.Tensor:
        return _unpacked(words[:, outputs], scheme.bits, dim=1).flatten(0, 1)

    return _of_groups(codes, zeros, scales, groups.long())


def _awq(scheme: packed.Awq, parts: Parts) -> torch.Tensor:
    words, in_word = parts["qweight"], len(_INTERLEAVED)

    def in_order(part: torch.Tensor) -> torch.Tensor:
        return _unpacked(part, 4)[..., _INTERLEAVED].flatten(1)

    groups = torch.arange(len(words)) // scheme.group
    zeros = in_order(parts["qzeros"])

    def codes(outputs: slice) -> torch.Tensor:
        return in_order(words[:, outputs.start // in_word : outputs.stop // in_word])

    return _of_groups(codes, zeros, parts["scales"], groups)


def _of_groups(
    codes: Callable[[slice], torch.Tensor],
    zeros: torch.Tensor,
    scales: torch.Tensor,
    groups: torch.Tensor,
) -> torch.Tensor:
    """Return a weight, (outputs, inputs), of the codes of some outputs and what each group has.

    `codes` are (inputs, outputs), `zeros` and `scales` (groups, outputs), `groups` (inputs,). A
    product in float32 that is rounded once has the bits of one in 16.
    """
    count = scales.shape[1]
    weight = scales.new_empty((count, len(groups)))
    for rows in _slices(count, len(groups)):
        part = (codes(rows) - zeros[:, rows][groups]).float() * scales[:, rows][groups].float()
        weight[rows] = part.to(scales.dtype).T
    return weight


def _unpacked(words: torch.Tensor, bits: int, dim: int = 2) -> torch.Tensor:
    """Return the codes of (rows, words) int32, from the lowest bits up, along a new dimension."""
    shape = [*words.shape]
    shape.insert(dim, _WORD // bits)
    codes = words.new_empty(shape, dtype=torch.int16)
    for place in range(_WORD // bits):
        codes.select(dim, place).copy_((words >> (bits * place)) & (2**bits - 1))
    return codes


def _bnb4(scheme: packed.Bnb4, parts: Parts, count: int) -> torch.Tensor:
    scales = parts["absmax"]
    if scheme.nested is not None:
        block, offset = scheme.nested
        table, outer = parts["nested_quant_map"], parts["nested_absmax"]
        scales = _in_blocks(table.index_select(0, scales.int()), outer, block) + offset
    words = parts["weight"].reshape(-1).view(torch.uint8)
    numbers = torch.empty(count, dtype=getattr(torch, scheme.dtype))
    # Two blocks are a whole number of bytes.
    for pairs in _slices(-(-count // (2 * scheme.block)), 2 * scheme.block):
        part = words[pairs.start * scheme.block : pairs.stop * scheme.block]
        codes = torch.stack((part >> 4, part & 15), dim=1).flatten().int()
        place = slice(2 * pairs.start * scheme.block, 2 * pairs.stop * scheme.block)
        found = parts["quant_map"].index_select(0, codes)[: count - place.start]
        own = scales[2 * pairs.start : 2 * pairs.stop]
        numbers[place] = _in_blocks(found, own, scheme.block).to(numbers.dtype)
    return numbers


def _in_blocks(numbers: torch.Tensor, scales: torch.Tensor, block: int) -> torch.Tensor:
    """Return numbers times the scale of their block; the last one may be short."""
    count = len(numbers)
    whole = functional.pad(numbers, (0, -count % block)).view(-1, block)
    return (whole * scales[:, None]).flatten()[:count]


def _compressed(scheme: packed.Compressed, parts: Parts, shape: tuple[int, ...]) -> torch.Tensor:
    """Return what the library makes of a weight, some rows after others."""
    compressors, quantization = _modules()
    arguments = quantization.QuantizationArgs(
        num_bits=scheme.bits,
        type=scheme.kind,
        symmetric=scheme.is_symmetric,
        strategy=scheme.strategy,
        group_size=scheme.group,
        block_structure=None if scheme.block is None else [*scheme.block],
    )
    told = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    compressor = compressors.BaseCompressor.get_value_from_registry(scheme.form)
    weight = parts["weight_scale"].new_empty(shape)
    height = 1 if scheme.block is None else scheme.block[0]
    for blocks in _slices(-(-shape[0] // height), height * shape[1]):
        rows = slice(blocks.start * height, min(blocks.stop * height, shape[0]))
        part = {
            name: _rows(scheme, name, tensor, rows)
            for name, tensor in parts.items()
            if name != "weight_shape"
        }
        part["weight_shape"] = torch.tensor([rows.stop - rows.start, shape[1]])
        weight[rows] = compressor.decompress(part, told)["weight"]
    return weight


def _rows(scheme: packed.Compressed, name: str, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
    """Return what of a part belongs to rows of a weight, which begin at a multiple of 32."""
    if tensor.numel() == 1:
        return tensor
    codes, height = 1, 1  # in a row of the part, of so many rows of the weight
    if name != "weight" and scheme.block is not None:
        height = scheme.block[0]
    elif name == "weight_zero_point" and scheme.form == packed.PACKED:
        codes, height = scheme.bits, _WORD
    return tensor[rows.start * codes // height : -(-rows.stop * codes // height)]


def _slices(count: int, width: int) -> Iterator[slice]:
    """Yield slices of rows of a width: what expanding one takes beside the weight is small."""
    step = _WORD * max(1, _AT_A_TIME // max(1, width * _WORD))
    return (slice(begin, min(begin + step, count)) for begin in range(0, count, step))


def _library(folder: Path) -> None:
    """Refuse a checkpoint whose library isn't there."""
    try:
        _modules()
    except ImportError as error:
        raise CheckpointError(
            f"{folder} is quantized by compressed-tensors, and the package compressed-tensors is "
            "missing; install 'assay-rm[serve,quantised]'"
        ) from error


def _modules() -> tuple[Any, Any]:
    return (
        importlib.import_module("compressed_tensors.compressors"),
        importlib.import_module("compressed_tensors.quantization"),
    )
