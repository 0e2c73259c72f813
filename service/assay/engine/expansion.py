"""Quantized weights, expanded one by one as they are read: nothing is in memory twice.

Each is multiplied as its format's own library does it, in the dtype in which that does it, so that
a model has the numbers of that library's dequantized one. On the CPU, wherever a model goes: the
parts of a hostile file index nothing on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from assay.cards import packed
from assay.engine import faults
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from assay.cards.packed import Packed
    from assay.cards.quantized import Contents

    Parts = Mapping[str, torch.Tensor]

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class Reader:
    """The tensors of a checkpoint by name, read and expanded when they are asked for.

    May be called by several threads.
    """

    def __init__(self, folder: Path, contents: Contents) -> None:
        """Take where tensors are; nothing is read yet."""
        self._folder = folder
        self.contents = contents
        self._opened: dict[Path, Any] = {}

    def __call__(self, name: str) -> torch.Tensor:
        """Return a tensor, in the dtype of the file or, of a quantized one, of its library.

        Raises:
            CheckpointError: A quantized one has numbers that can't be.
        """
        how = self.contents.packed.get(name)
        if how is None:
            return self._stored(name)
        parts = {part: self._stored(stored) for part, stored in how.parts.items()}
        try:
            return _expanded(how, parts).reshape(how.shape).contiguous()
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            if faults.is_fault(error):
                raise
            raise CheckpointError(f"{self._folder}: '{name}' can't be expanded: {error}") from error

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


def _fp8(scheme: packed.Fp8, parts: Parts) -> torch.Tensor:
    """Return numbers times the scale of their block, in float32 as transformers has it.

    A block may end at the weight's edge: transformers' own loader takes only blocks that divide.
    """
    weight, scale = parts["weight"].float(), parts["scale"]
    scale = (scale.float() - 127).exp2() if scale.dtype == torch.uint8 else scale.float()
    if scheme.block is None or scale.ndim < weight.ndim:
        return weight.mul_(scale)
    rows, columns = scheme.block
    scale = scale.repeat_interleave(rows, -2)[..., : weight.shape[-2], :]
    count = weight.shape[-1] // columns
    whole = weight[..., : count * columns]  # a scale for each number would take as much again
    whole.view(*weight.shape[:-1], count, columns).mul_(scale[..., :count, None])
    weight[..., count * columns :] *= scale[..., count:]
    return weight
