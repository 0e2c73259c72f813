"""Quantized weights: expanded as their libraries do it, one at a time, or refused in a sentence."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.cards.card import Card
from assay.engine import checkpoint, model_runner, outline
from assay.errors import CheckpointError
from assay.worker_protocol import ModelSpec
from tests.fidelity import checkpoints, quantizing

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("name", ["fp8"])
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
    script = f"""
import threading, torch, transformers, re
from pathlib import Path
from assay.cards.card import Card
from assay.engine import checkpoint
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
import transformers.models.qwen3.modeling_qwen3
peak, done = anonymous(), False
before = peak
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
model, _ = checkpoint.load(
    Path({str(folder)!r}), Card(), device=torch.device("cpu"), dtype=torch.float32
)
done = True
thread.join()
print(peak - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    grown = int(result.stdout.split()[-1])
    assert size > 200e6
    assert grown < 1.5 * size


def as_fp8(tensors):
    """Turn weights to FP8 without quantizing them."""
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        tensors[f"{name}_scale_inv"] = torch.ones(())
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)


LARGE = {
    "fp8": ({"quant_method": "fp8", "weight_block_size": None}, as_fp8),
}
