"""Whether two sets of safetensors files hold the same numbers, without torch.

Headers are compared first. Only where these agree are the tensors' bytes read, a piece at a time.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PIECE = 1 << 24  # numbers that are compared at a time
_LENGTH = struct.Struct("<Q")
_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's bytes stand in its file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def are_equal(
    first: Mapping[str, Path], other: Mapping[str, Path], *, rounded: bool = False
) -> bool:
    """Return whether tensors, each given with its file, are the same in both sets, bit for bit.

    With `rounded` the other set may also be the first one's numbers in a shorter float.
    """
    if first.keys() != other.keys():
        return False
    ours, others = _places(first), _places(other)
    pairs = [(ours[name], others[name]) for name in first]
    if any(a.shape != b.shape or not _may_be_equal(a, b, rounded=rounded) for a, b in pairs):
        return False
    return all(_have_equal_numbers(a, b) for a, b in pairs)


def _places(files: Mapping[str, Path]) -> dict[str, _Place]:
    """Return where each tensor stands."""
    headers = {file: _header(file) for file in set(files.values())}
    return {name: headers[file][name] for name, file in files.items()}


def _header(file: Path) -> dict[str, _Place]:
    """Return the places that the header of a whole safetensors file gives."""
    with file.open("rb") as opened:
        (length,) = _LENGTH.unpack(opened.read(_LENGTH.size))
        said = json.loads(opened.read(length))
    start = _LENGTH.size + length
    return {
        name: _Place(
            file,
            entry["dtype"],
            tuple(entry["shape"]),
            start + entry["data_offsets"][0],
            start + entry["data_offsets"][1],
        )
        for name, entry in said.items()
        if name != "__metadata__"
    }


def _may_be_equal(first: _Place, other: _Place, *, rounded: bool) -> bool:
    if first.dtype == other.dtype:
        return True
    return rounded and first.dtype in _KINDS and other.dtype in _KINDS


def _have_equal_numbers(first: _Place, other: _Place) -> bool:
    """Compare two tensors of one shape, those of unlike types by the other's precision."""
    if first.dtype == other.dtype:
        pairs = zip(_pieces(first, "u1"), _pieces(other, "u1"), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)
    pieces = zip(
        _pieces(first, _KINDS[first.dtype]), _pieces(other, _KINDS[other.dtype]), strict=True
    )
    return all(
        np.array_equal(_rounded(_numbers(a, first.dtype), other.dtype), b) for a, b in pieces
    )


def _pieces(place: _Place, kind: str) -> Iterator[np.ndarray]:
    """Yield a tensor's elements as they stand in the file, a piece at a time."""
    size = np.dtype(kind).itemsize
    count = (place.end - place.begin) // size
    with place.file.open("rb") as opened:
        opened.seek(place.begin)
        for begin in range(0, count, _PIECE):
            yield np.fromfile(opened, kind, min(_PIECE, count - begin))


def _numbers(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Return what stands in a file as floats."""
    return (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored


def _rounded(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Return floats as a file of that type has them, rounded to nearest, ties to even."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return numbers.astype(_KINDS[dtype])
    bits = numbers.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
