"""Quantized layouts by names and shapes: what doesn't fit is refused before memory is taken."""

import json
from pathlib import Path

import numpy as np
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
    assert "its bits is a list" in refused(packed.gptq, {"bits": nested}, GPTQ_PARTS)
    assert "its version is 'a list'" in refused(packed.awq, {**AWQ, "version": nested}, AWQ_PARTS)


def test_fp8_without_a_scale_is_refused():
    """It would be other numbers."""
    parts = {"weight": FP8_PARTS["weight"]}
    assert "weight_scale_inv' is missing" in refused(packed.fp8, FP8, parts)


GPTQ = {"bits": 4, "group_size": 64}
GPTQ_PARTS = {
    "qweight": ("I32", 32, 96),  # 256 inputs
    "qzeros": ("I32", 4, 12),
    "scales": ("F16", 4, 96),
    "g_idx": ("I32", 256),
}


def test_gptq_has_the_shape_of_its_codes():
    """Whatever is beside them."""
    found = packed.gptq(GPTQ, tensors(**GPTQ_PARTS), unread)

    assert found[f"{NAME}.weight"].shape == (96, 256)
    assert found[f"{NAME}.weight"].scheme == packed.Gptq(4, 64, is_less_one=True)


@pytest.mark.parametrize(
    ("said", "parts", "message"),
    [
        ({"bits": 3}, {}, "its bits is 3; 2 or 4 or 8 is served"),
        ({"bits": "4"}, {}, "its bits is 4; 2 or 4 or 8 is served"),
        ({"bits": 8}, {}, "scales' has the shape [4, 96], and its weight [2, 96]"),
        ({"group_size": 0}, {}, "its group_size is 0"),
        ({"group_size": -2}, {}, "its group_size is -2"),
        ({"group_size": 10**9}, {}, "its group_size is 1000000000"),
        ({"group_size": 48}, {}, "scales' has the shape [4, 96], and its weight [6, 96]"),
        ({"checkpoint_format": "marlin"}, {}, "its checkpoint_format is 'marlin'"),
        ({}, {"qzeros": ("I32", 4, 96)}, "qzeros' has the shape [4, 96], and its weight [4, 12]"),
        ({}, {"g_idx": ("I32", 255)}, "g_idx' has the shape [255]"),
        ({}, {"g_idx": ("F32", 256)}, "g_idx' is of F32"),
        ({}, {"qweight": ("I32", 32, 96, 1)}, "not 2 sizes"),
        ({}, {"qweight": ("I64", 32, 96)}, "qweight' is of I64"),
    ],
)
def test_gptq_of_other_sizes_is_refused(said, parts, message):
    """By the tensor, or by the field of config.json."""
    assert message in refused(packed.gptq, {**GPTQ, **said}, {**GPTQ_PARTS, **parts})


AWQ = {"bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
AWQ_PARTS = {"qweight": ("I32", 256, 12), "qzeros": ("I32", 4, 12), "scales": ("F16", 4, 96)}


@pytest.mark.parametrize(
    ("said", "parts", "message"),
    [
        ({"bits": 8}, {}, "its bits is 8; 4 is served"),
        ({"version": "gemv"}, {}, "its version is 'gemv'"),
        ({"version": "MARLIN"}, {}, "its version is 'marlin'"),
        ({"group_size": 60}, {}, "its group_size 60 doesn't divide 256"),
        ({"group_size": 0}, {}, "its group_size is 0"),
        ({}, {"scales": ("F16", 4, 95)}, "scales' has the shape [4, 95]"),
        ({}, {"qzeros": ("I32", 4, 96)}, "qzeros' has the shape [4, 96]"),
    ],
)
def test_awq_of_other_sizes_is_refused(said, parts, message):
    """By the tensor, or by the field of config.json."""
    assert packed.awq(AWQ, tensors(**AWQ_PARTS), unread)[f"{NAME}.weight"].shape == (96, 256)
    assert message in refused(packed.awq, {**AWQ, **said}, {**AWQ_PARTS, **parts})


STATE = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [96, 256]}
BNB_PARTS = {
    "weight": ("U8", 12_288, 1),
    "weight__absmax": ("F32", 384),
    "weight__quant_map": ("F32", 16),
    "weight__quant_state__bitsandbytes__nf4": ("U8", 80),
}
NESTED = {"nested_blocksize": 256, "nested_offset": 0.1, "nested_dtype": "float32"}
NESTED_PARTS = {
    "weight__absmax": ("U8", 384),
    "weight__nested_absmax": ("F32", 2),
    "weight__nested_quant_map": ("F32", 256),
}
BNB_PARTS = {name.replace("__bitsandbytes__", "#"): one for name, one in BNB_PARTS.items()}


def four_bits(state=STATE, **parts):
    """Return what bitsandbytes' 4 bits are taken for."""
    content = state if isinstance(state, bytes) else json.dumps(state).encode()
    named = {name.replace("#", ".bitsandbytes__"): one for name, one in tensors(**parts).items()}
    return packed.bitsandbytes({}, named, lambda _: np.frombuffer(content, np.uint8))


def test_four_bits_of_bitsandbytes_have_the_shape_of_their_state():
    """With scales that are packed in turn, or not; whatever the bytes are called."""
    plain = four_bits(**BNB_PARTS)[f"{NAME}.weight"]
    stored = four_bits(**{**BNB_PARTS, "weight": ("BF16", 6_144, 1)})[f"{NAME}.weight"]
    nested = four_bits(STATE | NESTED, **BNB_PARTS | NESTED_PARTS)[f"{NAME}.weight"]

    assert plain.shape == stored.shape == nested.shape == (96, 256)
    assert plain.scheme == packed.Bnb4(64, "bfloat16", None)
    assert nested.scheme == packed.Bnb4(64, "bfloat16", (256, 0.1))


@pytest.mark.parametrize(
    ("state", "parts", "message"),
    [
        (b"{", {}, "isn't JSON"),
        (b"[" * 10_000, {}, "isn't JSON"),
        (b"[]", {}, "isn't a JSON object"),
        (STATE | {"shape": [96]}, {}, "states no shape of a matrix"),
        (STATE | {"shape": [96, 10**12]}, {}, "states no shape of a matrix"),
        (STATE | {"shape": [-96, -256]}, {}, "states no shape of a matrix"),
        (STATE | {"shape": [96, 2**20]}, {}, "doesn't hold the 100663296 numbers"),
        (STATE | {"blocksize": 0}, {}, "its blocksize is 0"),
        (STATE | {"dtype": "int8"}, {}, "states no dtype of float"),
        (STATE | {"blocksize": 128}, {}, "absmax' has the shape [384], and its weight [192]"),
        (STATE, {"weight__quant_map": ("F32", 15)}, "quant_map' has the shape [15]"),
        (STATE, {"weight__absmax": ("U8", 384)}, "absmax' is of U8"),
        (STATE | NESTED | {"nested_blocksize": -1}, NESTED_PARTS, "its nested_blocksize is -1"),
        (STATE | NESTED | {"nested_offset": "0"}, NESTED_PARTS, "states no nested_offset"),
        (STATE | {"nested_offset": 10**400}, NESTED_PARTS, "states no nested_offset"),
        (STATE | {"nested_offset": float("nan")}, NESTED_PARTS, "states no nested_offset"),
        (STATE, {**NESTED_PARTS, "weight__nested_absmax": ("F32", 3)}, "nested_absmax' has the"),
    ],
)
def test_four_bits_of_other_sizes_are_refused(state, parts, message):
    """By the tensor, or by the field of its state."""
    with pytest.raises(packed.UnservedError) as error:
        four_bits(state, **BNB_PARTS | parts)

    assert message in str(error.value)


def test_eight_bits_of_bitsandbytes_have_a_scale_a_row():
    """Rows lie as they are."""
    parts = {"weight": ("I8", 96, 256), "SCB": ("F32", 96), "weight_format": ("U8",)}
    rows, columns = np.zeros((), np.uint8), np.ones((), np.uint8)

    found = packed.bitsandbytes({}, tensors(**parts), lambda _: rows)

    assert found[f"{NAME}.weight"].shape == (96, 256)
    layout = packed.bitsandbytes
    assert "rows in another order" in refused(layout, {}, parts, lambda _: columns)
    assert "has the shape [95]" in refused(layout, {}, {**parts, "SCB": ("F32", 95)})


def config(form="pack-quantized", **weights):
    """Return what llm-compressor writes."""
    told = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, **weights}
    group = {"targets": ["Linear"], "weights": told}
    return {"format": form, "config_groups": {"group_0": group}}


PACKED_PARTS = {
    "weight_packed": ("I32", 96, 32),
    "weight_scale": ("BF16", 96, 4),
    "weight_shape": ("I64", 2),
}


def shape(*sizes):
    """Read a shape."""
    return lambda _: np.array(sizes)


def test_compressed_tensors_take_the_group_that_fits():
    """Of several, by dtypes and shapes: no pattern of a file's is run over names."""
    said = config(strategy="channel", group_size=None)
    said["config_groups"]["group_1"] = config()["config_groups"]["group_0"]
    found = packed.compressed(said, tensors(**PACKED_PARTS), shape(96, 256))

    assert found[f"{NAME}.weight"].shape == (96, 256)
    assert found[f"{NAME}.weight"].scheme == packed.Compressed(
        "pack-quantized", "int", 4, "group", 64, None, is_symmetric=True
    )


@pytest.mark.parametrize(
    ("said", "parts", "sizes", "message"),
    [
        (config(), {}, (96, 2**40), "states no shape of a matrix"),
        (config(), {}, (96, 2**23), "none of its config_groups gives"),
        (config(), {}, (96, 250), "none of its config_groups gives"),
        (config(), {}, (96, -256), "states no shape of a matrix"),
        (config(), {"weight_scale": ("BF16", 96, 2)}, (96, 256), "none of its config_groups"),
        (config(), {"weight": ("I8", 96, 256)}, (96, 256), "none of its config_groups"),
        (config(), {"weight_zero_point": ("I32", 12, 4)}, (96, 256), "none of its config_groups"),
        (config(group_size=0), {}, (96, 256), "its group_size is 0"),
        (config(num_bits=16), {}, (96, 256), "its num_bits is 16"),
        (config(num_bits=4, type="float"), {}, (96, 256), "has weights of 4 bits, 'float'"),
        (config(actorder="group"), {}, (96, 256), "orders inputs by activation"),
        (config(strategy="attn_head"), {}, (96, 256), "has the strategy 'attn_head'"),
        (config("nvfp4-pack-quantized"), {}, (96, 256), "its format is 'nvfp4-pack-quantized'"),
        (config(strategy="block", block_structure=[0, 1]), {}, (96, 256), "block_structure is"),
        ({"config_groups": {}}, {}, (96, 256), "it has no config_groups"),
        ({"config_groups": {"W8A8": ["Linear"]}}, {}, (96, 256), "'W8A8' is named, not told"),
        ({**config(), "transform_config": {"a": 1}}, {}, (96, 256), "it rotates activations"),
        (
            {**config(), "sparsity_config": {"format": "sparse-24-bitmask"}},
            {},
            (96, 256),
            "its weights are sparse",
        ),
    ],
)
def test_compressed_tensors_of_other_sizes_are_refused(said, parts, sizes, message):
    """By the tensor, or by the field of config.json."""
    found = refused(packed.compressed, said, {**PACKED_PARTS, **parts}, shape(*sizes))

    assert message in found
