"""Tensors of KServe's inference: in JSON, or binary behind a JSON head whose length is stated."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from pydantic_core import from_json

from assay.api.body import TAILED
from assay.api.contracts.codec import JSON, Form

HEADER = TAILED
MEDIA_TYPE = "application/octet-stream"
INTEGERS = {
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
}
_SIZE = "binary_data_size"


def headed(length: str) -> Form:
    """Return the form of a body whose JSON is so many bytes long, its tensors behind them."""

    def read(body: bytes) -> Any:
        if not length.isdecimal() or int(length) > len(body):
            raise ValueError("'Inference-Header-Content-Length' isn't the length of its JSON")
        head = from_json(body[: int(length)])
        return _filled(head, body[int(length) :])

    return replace(BINARY, read=read)


def _filled(head: Any, tail: bytes) -> Any:
    """Give each tensor that has a binary size its part of the tail."""
    begin = 0
    inputs = head.get("inputs") if isinstance(head, dict) else None
    for tensor in inputs if isinstance(inputs, list) else []:
        said = tensor.get("parameters") if isinstance(tensor, dict) else None
        size = said.get(_SIZE) if isinstance(said, dict) else None
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - begin:
            raise ValueError(f"'{_SIZE}' is more than what is left behind the JSON")
        tensor["data"] = tail[begin : begin + size]
        begin += size
    if begin != len(tail):
        raise ValueError(f"{len(tail) - begin} bytes behind the JSON belong to no input")
    return head


def rows(data: object, shape: list[int], datatype: str) -> list[list[Any]]:
    """Return a tensor's rows; one without a second dimension has rows of one element.

    Raises:
        ValueError: It hasn't as many elements as its shape, or isn't of its type.
    """
    if not 1 <= len(shape) <= 2 or min(shape) < 0:
        raise ValueError("the shape is [items, elements]")
    count, width = shape[0], prod(shape[1:])
    if count and not width:  # any number of items of nothing
        raise ValueError("an item has at least one element")
    binary = _texts if datatype == "BYTES" else _numbers
    flat = binary(data, datatype) if isinstance(data, bytes) else _flat(data, datatype)
    if len(flat) != count * width:
        raise ValueError(f"{len(flat)} elements, where the shape has {count * width}")
    return [flat[place * width : (place + 1) * width] for place in range(count)]


def _flat(data: object, datatype: str) -> list[Any]:
    """Return the elements of JSON's, which may be nested once."""
    if not isinstance(data, list):
        raise ValueError("'data' is a list")  # noqa: TRY004  of a caller's
    is_nested = bool(data) and isinstance(data[0], list)
    flat = [element for row in data for element in row] if is_nested else data
    kind = str if datatype == "BYTES" else int
    if any(type(element) is not kind for element in flat):
        raise ValueError("'data' has strings" if kind is str else "'data' has whole numbers")
    return flat


def _numbers(data: bytes, datatype: str) -> list[int]:
    dtype = INTEGERS[datatype]
    if len(data) % dtype.itemsize:
        raise ValueError(f"{len(data)} bytes are no whole number of elements")
    numbers: list[int] = np.frombuffer(data, dtype).tolist()
    return numbers


def _texts(data: bytes, datatype: str) -> list[str]:
    """Return texts, each behind its length in four bytes."""
    del datatype
    texts, begin = [], 0
    while begin < len(data):
        end = begin + 4 + int.from_bytes(data[begin : begin + 4], "little")
        if begin + 4 > len(data) or end > len(data):
            raise ValueError("a text's length is more than what is left")
        texts.append(data[begin + 4 : end].decode())
        begin = end
    return texts


BINARY = Form("JSON with binary tensors", JSON.media_type, frozenset(), JSON.read, JSON.write)
