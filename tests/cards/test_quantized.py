"""A quantized checkpoint is refused in a sentence, however it says that it is one."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from assay.cards import card as cards
from assay.cards import quantized, repository
from assay.errors import CheckpointError

BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}
INT8 = {"load_in_8bit": True}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def checkpoint(folder, *tensors, files=(), dtype=np.float16, **config):
    """Write a checkpoint whose tensors have these names, and empty files beside it."""
    folder.mkdir()
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "score.weight")
    arrays = {name: np.zeros((1, 4), np.float16) for name in names}
    arrays |= {name: np.zeros((1, 4), dtype) for name in tensors}
    save_file(arrays, folder / "model.safetensors")
    said = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    said |= {"id2label": {"0": "LABEL_0"}, **config}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    for name in files:
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "how"),
    [
        (BNB, "bitsandbytes, 4 bit"),
        (INT8, "bitsandbytes, 8 bit"),
        ({"quant_method": "awq", "bits": 4}, "AWQ"),
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        (FP8, "FP8"),
        ({"quant_method": "fbgemm_fp8"}, "FP8"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "compressed-tensors"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "aqlm"}, "AQLM"),
        ({"quant_method": "eetq"}, "EETQ"),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
        ({"quant_method": "new-thing"}, "new-thing"),
        ({"bits": 4}, "a method that it doesn't name"),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_config_json_says_it(tmp_path, config, how, key):
    """Under either key, for every method."""
    folder = checkpoint(tmp_path / "model", **{key: config})

    with pytest.raises(CheckpointError) as error:
        repository.resolve(str(folder), tmp_path / "none")

    assert f"is quantized ({how}, by config.json)" in error.value.message.replace("by a m", "a m")
    assert "; give the checkpoint in bfloat16" in error.value.message


@pytest.mark.parametrize(
    ("tensor", "how"),
    [
        ("model.layers.0.mlp.up_proj.qweight", "GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.weight.absmax", "bitsandbytes, 4 bit"),
        ("model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", "4 bit"),
        ("model.layers.0.mlp.up_proj.SCB", "bitsandbytes, 8 bit"),
        ("model.layers.0.mlp.up_proj.weight_packed", "compressed-tensors"),
        ("model.layers.0.mlp.up_proj.weight_scale", "a scale beside each weight"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "a scale beside each weight"),
        ("model.layers.0.mlp.up_proj.W_q", "HQQ"),
        ("model.layers.0.mlp.up_proj.codebooks", "AQLM"),
        ("model.layers.0.mlp.up_proj.weight._data", "quanto or torchao"),
        ("model.layers.0.mlp.up_proj.weight:qdata", "quanto or torchao"),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", "MXFP4"),
    ],
)
def test_tensors_say_it_by_themselves(tmp_path, tensor, how):
    """Where no config does, with a card or without."""
    folder = checkpoint(tmp_path / "model", tensor)
    for has_card in (False, True):
        if has_card:
            (folder / cards.FILE_NAME).write_text("[limits]\nmax_tokens = 8\n", encoding="utf-8")
        with pytest.raises(CheckpointError) as error:
            repository.resolve(str(folder), tmp_path / "none")
        assert f"{how}, by the tensor '{tensor}'" in error.value.message


def test_a_weight_of_few_bits_says_it(tmp_path):
    """Whatever its name is."""
    folder = checkpoint(tmp_path / "model", "model.layers.1.mlp.up_proj.weight", dtype=np.int8)

    with pytest.raises(CheckpointError, match=r"is quantized \(I8, by the tensor"):
        repository.resolve(str(folder), tmp_path / "none")


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("quantize_config.json", "GPTQ"),
        ("quant_config.json", "AWQ"),
        ("hf_quant_config.json", "ModelOpt"),
    ],
)
def test_a_file_beside_config_json_says_it(tmp_path, file, how):
    """As the tools of before wrote it."""
    folder = checkpoint(tmp_path / "model", files=[file])

    with pytest.raises(CheckpointError, match=rf"is quantized \({how}, by {file}\)"):
        repository.resolve(str(folder), tmp_path / "none")


@pytest.mark.parametrize("said", [None, {}, {**BNB, "load_in_4bit": False}])
def test_what_isnt_quantized_is_served(tmp_path, said):
    """A config that says so of nothing isn't a reason."""
    folder = checkpoint(tmp_path / "model", quantization_config=said)

    assert repository.resolve(str(folder), tmp_path / "none").name == "model"


def test_layers_that_are_transposed_are_refused(tmp_path):
    """A square one would be taken the wrong way round."""
    folder = checkpoint(tmp_path / "model", quantization_config=FP8, model_type="gpt2")

    with pytest.raises(CheckpointError, match="with the layers of 'gpt2'"):
        repository.resolve(str(folder), tmp_path / "none")


@pytest.mark.parametrize(
    ("said", "count"), [(BNB, 1), ({"quant_method": "hqq"}, 0), ({}, 0), (None, 0)]
)
def test_what_becomes_of_the_weights_is_told_before_a_start(tmp_path, said, count):
    """`assay inspect` says it; a refusal says the rest."""
    folder = checkpoint(tmp_path / "model", quantization_config=said)

    assert len(quantized.advice(folder)) == count
    assert quantized.advice(tmp_path) == []


def test_an_adapters_quantized_base_is_refused(tmp_path):
    """It can't be merged into one."""
    base = checkpoint(tmp_path / "base", quantization_config=BNB)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"base_model.model.x": np.zeros(1)}, folder / "adapter_model.safetensors")
    said = {"base_model_name_or_path": str(base), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")

    with pytest.raises(CheckpointError, match="base is quantized"):
        repository.resolve(str(folder), tmp_path / "none")
