"""Quantized layouts by names and shapes: what doesn't fit is refused before memory is taken."""

from pathlib import Path

import pytest

from assay.cards import packed
from assay.cards.headers import Tensor

FILE = Path("model.safetensors")
NAME = "model.layers.0.mlp.up_proj"


def tensors(**parts):
    """Return a module's tensors of (dtype, size, …)."""
    named = {f"{NAME}.{part.replace('__', '.')}": one for part, one in parts.items()}
    return {name: Tensor(tuple(one[1:]), one[0], FILE) for name, one in named.items()}


def refused(layout, said, parts, read=None):
    """Return what is said against a layout's tensors."""
    with pytest.raises(packed.UnservedError) as error:
        layout(said, tensors(**parts), read or unread)
    return str(error.value)


def unread(name):
    """Read nothing: no tensor needs it."""
    raise AssertionError(name)


FP8 = {"weight_block_size": [128, 128]}
FP8_PARTS = {"weight": ("F8_E4M3", 300, 256), "weight_scale_inv": ("F32", 3, 2)}


@pytest.mark.parametrize(
    ("said", "scale"),
    [
        (FP8, ("F32", 3, 2)),
        ({}, ("BF16", 3, 2)),  # transformers' default
        ({"weight_block_size": [1, 256]}, ("F32", 300, 1)),
        ({"weight_block_size": None}, ("F32",)),
        ({"weight_block_size": None}, ("BF16", 1)),
        ({"weight_block_size": [512, 512]}, ("F32",)),
    ],
)
def test_fp8_has_a_scale_for_each_block(said, scale):
    """Of two sizes, the last ones cut off; or one for the tensor."""
    found = packed.fp8(said, tensors(**{**FP8_PARTS, "weight_scale_inv": scale}), unread)

    assert [*found] == [f"{NAME}.weight"]
    assert found[f"{NAME}.weight"].shape == (300, 256)


@pytest.mark.parametrize(
    ("said", "parts", "message"),
    [
        ({"weight_block_size": [0, 128]}, {}, "weight_block_size is 0 by 128"),
        ({"weight_block_size": [128]}, {}, "weight_block_size is a list, not two sizes"),
        ({"weight_block_size": [128.0, 128]}, {}, "weight_block_size is 128.0 by 128"),
        ({"weight_block_size": [True, 128]}, {}, "weight_block_size is True by 128"),
        ({"weight_block_size": [2**30, 128]}, {}, "weight_block_size is 1073741824 by 128"),
        ({"weight_block_size": "128"}, {}, "weight_block_size is 128, not two sizes"),
        (FP8, {"weight_scale_inv": ("F32", 2, 2)}, "has the shape [2, 2], and its weight [3, 2]"),
        (FP8, {"weight_scale_inv": ("F32", 10**9, 2)}, "shape [1000000000, 2]"),
        (FP8, {"weight_scale_inv": ("F32",)}, "has the shape []"),
        (FP8, {"weight_scale_inv": ("I32", 3, 2)}, "is of I32"),
        (FP8, {"weight": ("F8_E4M3", 300)}, "isn't a matrix"),
        ({"weight_block_size": None}, {}, "has the shape [3, 2], and its weight [1, 1]"),
    ],
)
def test_fp8_of_other_sizes_is_refused(said, parts, message):
    """By the tensor, or by the field of config.json."""
    assert message in refused(packed.fp8, said, {**FP8_PARTS, **parts})


def test_what_is_nested_deep_is_not_written_out():
    """Its text would go as deep."""
    nested = []
    for _ in range(100_000):
        nested = [nested]

    assert "block_size is a list" in refused(packed.fp8, {"weight_block_size": nested}, FP8_PARTS)
    said = {"weight_block_size": [nested, 1]}
    assert "block_size is a list by 1" in refused(packed.fp8, said, FP8_PARTS)


def test_fp8_without_a_scale_is_refused():
    """It would be other numbers."""
    parts = {"weight": FP8_PARTS["weight"]}
    assert "weight_scale_inv' is missing" in refused(packed.fp8, FP8, parts)
