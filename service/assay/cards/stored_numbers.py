"""The numbers of safetensors files, read where they stand and a piece at a time, without torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # of floats, as numpy has them
_PIECE = 1 << 24  # numbers that are read at a time
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes stand in its file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def places(file: Path) -> dict[str, Place]:
    """Return the places that the header of a whole safetensors file gives."""
    with file.open("rb") as opened:
        (length,) = _LENGTH.unpack(opened.read(_LENGTH.size))
        said = json.loads(opened.read(length))
    start = _LENGTH.size + length
    return {
        name: Place(
            file,
            entry["dtype"],
            tuple(entry["shape"]),
            start + entry["data_offsets"][0],
            start + entry["data_offsets"][1],
        )
        for name, entry in said.items()
        if name != "__metadata__"
    }


def header(file: Path) -> bytes:
    """Return what stands before the first tensor's bytes."""
    with file.open("rb") as opened:
        (length,) = _LENGTH.unpack(opened.read(_LENGTH.size))
        opened.seek(0)
        return opened.read(_LENGTH.size + length)


def pieces(place: Place, kind: str, most: int = _PIECE) -> Iterator[np.ndarray]:
    """Yield a tensor's elements as they stand in the file, at most so many at a time."""
    size = np.dtype(kind).itemsize
    count = (place.end - place.begin) // size
    with place.file.open("rb") as opened:
        opened.seek(place.begin)
        for begin in range(0, count, most):
            yield np.fromfile(opened, kind, min(most, count - begin))


def floats(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Return what stands in a file as floats."""
    return (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored


def rounded(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Return floats as a file of that type has them, rounded to nearest, ties to even."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return numbers.astype(KINDS[dtype])
    bits = numbers.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
