"""Quantized weights: expanded as their libraries do it, one at a time, or refused in a sentence."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.cards import card as cards
from assay.cards import catalogue, quantized
from assay.cards.card import Card
from assay.engine import checkpoint, expansion, model_runner, outline
from assay.engine.expansion import Reader
from assay.errors import CheckpointError
from assay.worker_protocol import ModelSpec
from tests.engine.load_memory import growth
from tests.families import scalar
from tests.fidelity import checkpoints, quantizing

CPU = torch.device("cpu")
# Weights in each layout, and what the library gives of them, written by those that its metadata
# names. bitsandbytes' rows are whole blocks: its CPU kernel (0.50.2) misreads others.
WRITTEN = Path(__file__).parent.parent / "fidelity" / "expanded.safetensors"
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
CONFIGS = {
    "gptq-4": {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True},
    "gptq-8": {"quant_method": "gptq", "bits": 8, "group_size": 32},
    "gptq-2": {"quant_method": "gptq", "bits": 2, "group_size": 16},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"},
    "nf4": BNB,
    "nf4-nested": BNB,
    "fp4": BNB,
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
}


def write(folder, tensors, said):
    """Write what a quantized checkpoint's files have of one weight."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"quantization_config": said}))
    return Reader(folder, quantized.contents(folder))


@pytest.mark.parametrize("at_a_time", [2**20, 1])
@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_are_those_that_the_library_gives(tmp_path, monkeypatch, name, at_a_time):
    """To the bit, and in its dtype; whole or in pieces."""
    monkeypatch.setattr(expansion, "_AT_A_TIME", at_a_time)
    stored = load_file(WRITTEN)
    parts = {
        key.replace(name, "a", 1): one for key, one in stored.items() if key.startswith(f"{name}.")
    }
    expected = parts.pop("a.expected")

    weight = write(tmp_path / "model", parts, CONFIGS[name])("a.weight")

    assert weight.dtype == expected.dtype
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("index", [-1, 4, 2**31 - 1, -(2**31)])
def test_an_index_of_no_group_is_refused(tmp_path, index):
    """By the weight, and before it reads what isn't its own."""
    stored = load_file(WRITTEN)
    parts = {
        f"a.{part}": stored[f"gptq-4.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")
    }
    parts["a.g_idx"][5] = index
    reader = write(tmp_path / "model", parts, CONFIGS["gptq-4"])

    with pytest.raises(CheckpointError, match=r"'a\.weight' can't be expanded: its g_idx names"):
        reader("a.weight")


def test_what_cannot_be_expanded_stops_the_start_with_its_name(folder):
    """Not as a tensor that is missing."""
    quantizing.quantize(folder, *quantizing.gptq(4, 32))
    name = "model.layers.1.mlp.up_proj"
    edit_tensors(folder, lambda tensors: tensors[f"{name}.g_idx"].fill_(2))

    with pytest.raises(CheckpointError, match=rf"'{name}\.weight' can't be expanded: its g_idx"):
        checkpoint.load(folder, Card(), device=CPU, dtype=torch.float32)


def test_a_model_takes_the_dtype_of_what_is_not_quantized(folder):
    """Where config.json names none, as without quantization."""
    quantizing.quantize(folder, *quantizing.gptq(4, 32))
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    edit_tensors(
        folder,
        lambda tensors: tensors.update(
            {name: one.bfloat16() for name, one in tensors.items() if name.endswith(".weight")}
        ),
    )

    model, _ = checkpoint.load(folder, Card(), device=CPU, dtype=None)

    assert model.model.dtype == torch.bfloat16


@pytest.fixture
def folder(tmp_path):
    """A small Qwen3 reward checkpoint, to be quantized."""
    return checkpoints.make(tmp_path / "model", "qwen3", vocabulary=300)


def spec(folder):
    """Return what a worker would be told to load."""
    return ModelSpec("model", folder, Card(), "auto", 64, None)


def edit_tensors(folder, change):
    """Rewrite the weights after a change."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_missing_library_is_named_before_a_weight_is_read(folder, monkeypatch):
    """With what installs it."""
    quantizing.quantize(folder, *quantizing.compressed("int", 8, "channel"))
    monkeypatch.setitem(sys.modules, "compressed_tensors.compressors", None)

    with pytest.raises(CheckpointError, match=r"compressed-tensors is missing; .*\[serve,quant"):
        outline.check(spec(folder))


def test_an_outline_tells_what_loading_would(folder):
    """A weight that is missing, or expands to another shape than config.json's."""
    said, change = quantizing.gptq(4, 32)
    quantizing.quantize(folder, said, change)
    outline.check(spec(folder))

    name = "model.layers.1.mlp.up_proj"
    module = {part: f"{name}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")}
    whole = load_file(folder / "model.safetensors")
    edit_tensors(folder, lambda tensors: [tensors.pop(part) for part in module.values()])
    with pytest.raises(CheckpointError, match=rf"lacks '{name}\.weight'"):
        outline.check(spec(folder))

    longer = {**whole, module["qweight"]: torch.zeros(16, 96, dtype=torch.int32)}
    longer |= {module["g_idx"]: torch.zeros(128, dtype=torch.int32)}
    longer |= {module["qzeros"]: torch.zeros(4, 12, dtype=torch.int32)}
    longer |= {module["scales"]: torch.ones(4, 96, dtype=torch.float16)}
    edit_tensors(folder, lambda tensors: tensors.update(longer))
    with pytest.raises(CheckpointError, match=rf"'{name}\.weight' has another shape than config"):
        outline.check(spec(folder))


def test_no_weight_is_expanded_for_an_outline(folder, monkeypatch):
    """Names and shapes are enough."""
    quantizing.quantize(folder, *quantizing.awq(32))
    monkeypatch.setattr(expansion, "_expanded", None)

    outline.check(spec(folder))


def test_a_quantized_head_is_taken_in_float32(folder):
    """As any head, from the file's own numbers."""
    said, change = quantizing.int8()
    dense = {}

    def with_head(tensors):
        parts, dense["score.weight"] = change("score", tensors["score.weight"].float())
        tensors.pop("score.weight")
        tensors.update(parts)

    quantizing.quantize(folder, said, change)
    edit_tensors(folder, with_head)

    model, _ = checkpoint.load(folder, Card(), device=CPU, dtype=torch.bfloat16)

    assert model.score.weight.dtype == torch.float32
    assert (model.score.weight - dense["score.weight"]).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["internlm2", "athene"])
def test_a_card_s_heads_and_layouts_are_as_they_are_without(tmp_path, name):
    """Tensors are found by their names, whatever they are packed as."""
    layout = next(one for one in scalar.LAYOUTS if one.name == name)
    (tmp_path / "model").mkdir()
    layout.build(tmp_path / "model")
    card = cards.read(catalogue.embedded() / layout.card)
    twin = quantizing.quantize(tmp_path / "model", *quantizing.int8())
    outline.check(replace(spec(tmp_path / "model"), card=card))

    model, _ = checkpoint.load(tmp_path / "model", card, device=CPU, dtype=torch.float32)

    expected = checkpoint.load(twin, card, device=CPU, dtype=torch.float32)[0].state_dict()
    gaps = [(one - expected[key]).abs().max() for key, one in model.state_dict().items()]
    assert max(gaps) < 1e-6


def test_what_a_server_of_the_format_would_do_more_is_said(folder, tmp_path):
    """Activations aren't quantized; of weights alone there is nothing to say."""
    weights = checkpoints.make(tmp_path / "weights", "qwen3", vocabulary=300)
    quantizing.quantize(folder, *quantizing.compressed("int", 8, "channel"))
    quantizing.quantize(weights, *quantizing.compressed("int", 4, "group", is_packed=True))

    (warning,) = model_runner.load(folder, device=CPU, dtype=torch.float32).warnings

    assert "its compressed-tensors weights are expanded, and activations are left" in warning
    assert model_runner.load(weights, device=CPU, dtype=torch.float32).warnings == []


def test_scales_of_activations_and_of_the_cache_are_passed_over(folder):
    """Both are computed as they are."""
    quantizing.quantize(folder, *quantizing.compressed("float", 8, "tensor"))
    more = ("mlp.up_proj.input_scale", "self_attn.k_scale", "self_attn.v_scale")
    scales = {f"model.layers.0.{name}": torch.ones(1) for name in more}
    edit_tensors(folder, lambda tensors: tensors.update(scales))

    checkpoint.load(folder, Card(), device=CPU, dtype=torch.float32)


def test_a_tensor_of_another_layout_is_refused(folder):
    """Half a checkpoint isn't served."""
    quantizing.quantize(folder, *quantizing.awq(32))
    edit_tensors(folder, lambda tensors: tensors.update({"a.SCB": torch.ones(4)}))

    with pytest.raises(CheckpointError, match=r"quantized \(AWQ, by config.json\), and holds what"):
        quantized.check(folder)


def test_a_weight_that_is_there_twice_is_refused(folder):
    """Which one is meant?"""
    quantizing.quantize(folder, *quantizing.awq(32))
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.ones(96, 64)}))

    with pytest.raises(CheckpointError, match=rf"holds '{name}' beside what expands to it"):
        quantized.check(folder)


@pytest.mark.parametrize("name", ["fp8", "gptq"])
def test_loading_never_holds_the_weights_twice(tmp_path, name):
    """Anonymous memory grows by little more than the expanded weights' size while they load."""
    folder = checkpoints.make(
        tmp_path / "wide", "qwen3", vocabulary=300, hidden_size=1024, intermediate_size=8192
    )
    size = (folder / "model.safetensors").stat().st_size
    edit_tensors(folder, LARGE[name][1])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "quantization_config": LARGE[name][0]})
    )

    grown = growth(folder)

    assert size > 200e6
    assert grown < 1.5 * size


def as_fp8(tensors):
    """Turn weights to FP8 without quantizing them."""
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        tensors[f"{name}_scale_inv"] = torch.ones(())
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)


def as_gptq(tensors):
    """Put codes of nothing in the weights' place."""
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        outputs, inputs = tensors.pop(name).shape
        tensors[f"{module}.qweight"] = torch.zeros(inputs // 8, outputs, dtype=torch.int32)
        tensors[f"{module}.qzeros"] = torch.zeros(1, outputs // 8, dtype=torch.int32)
        tensors[f"{module}.scales"] = torch.ones(1, outputs, dtype=torch.float16)


LARGE = {
    "fp8": ({"quant_method": "fp8", "weight_block_size": None}, as_fp8),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": -1}, as_gptq),
}
