"""Quantized checkpoints: the scores are those of transformers' own model of the same numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open

from assay.cards.card import Card
from assay.engine import checkpoint
from tests.fidelity import checkpoints, quantizing, reference, texts

ITEMS = texts.generated(12, longest_words=60)
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
LAYOUTS: dict[str, Any] = {
    "fp8 blocks": ({**FP8, "weight_block_size": [32, 32]}, quantizing.fp8((32, 32))),
    "fp8 blocks to the edge": ({**FP8, "weight_block_size": [40, 48]}, quantizing.fp8((40, 48))),
    "fp8 tensors": ({**FP8, "weight_block_size": None}, quantizing.fp8(None, torch.bfloat16)),
    "fp8 powers of two": (
        {**FP8, "weight_block_size": [32, 32], "scale_fmt": "ue8m0"},
        quantizing.fp8((32, 32), torch.float8_e8m0fnu),
    ),
    "compressed int8, rows": quantizing.compressed("int", 8, "channel"),
    "compressed int8, zeros": quantizing.compressed("int", 8, "channel", is_symmetric=False),
    "compressed int8, tensors": quantizing.compressed("int", 8, "tensor"),
    "compressed fp8, rows": quantizing.compressed("float", 8, "channel"),
    "compressed fp8, tensors": quantizing.compressed("float", 8, "tensor"),
    "compressed fp8, blocks": quantizing.compressed("float", 8, "block"),
    "compressed 8 bits, packed": quantizing.compressed("int", 8, "channel", is_packed=True),
    "compressed 4 bits, groups": quantizing.compressed("int", 4, "group", is_packed=True),
    "compressed 4 bits, zeros": quantizing.compressed(
        "int", 4, "group", is_packed=True, is_symmetric=False
    ),
    "gptq 4 bits": quantizing.gptq(4, 32),
    "gptq 4 bits by activations": quantizing.gptq(4, 32, is_ordered=True),
    "gptq 8 bits": quantizing.gptq(8, -1),
    "gptq 2 bits": quantizing.gptq(2, 32),
    "gptq without an index": quantizing.gptq(4, 32, has_index=False),
    "gptq v2": quantizing.gptq(4, 32, form="gptq_v2"),
    "awq": quantizing.awq(32),
    "awq, whole columns": quantizing.awq(-1),
    "bitsandbytes nf4": quantizing.nf4(is_nested=False),
    "bitsandbytes nf4, nested": quantizing.nf4(is_nested=True),
    "bitsandbytes int8": quantizing.int8(),
}
# What transformers expands on a CPU itself, or by a library that is here.
OWN = ("fp8 blocks", "fp8 tensors", *(name for name in LAYOUTS if name.startswith("compressed")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the function that makes a layout's checkpoint and its dequantized twin, once."""
    root = tmp_path_factory.mktemp("quantized")
    made = {}

    def make(name, kind="qwen3"):
        if (name, kind) not in made:
            path = root / f"{name}-{kind}".replace(" ", "-")
            checkpoints.make(path, kind, vocabulary=texts.vocabulary())
            made[name, kind] = path, quantizing.quantize(path, *LAYOUTS[name])
        return made[name, kind]

    return make


@pytest.mark.parametrize("name", LAYOUTS)
def test_scores_are_those_of_the_dequantized_model(folders, name):
    """|score − transformers eager of the same numbers, batch of one| ≤ 1e-5; bits in any batch."""
    folder, twin = folders(name)
    trunk = reference.load(folder)

    scores = reference.alone(trunk, ITEMS)

    assert trunk.forward == "packed"
    assert trunk.shares_prefixes
    assert np.abs(scores - reference.eager(twin, ITEMS)).max() <= reference.FLOAT32_TOLERANCE
    assert scores.tolist() == reference.together(trunk, ITEMS, 5, seed=0).tolist()
    assert scores.std() > 0.05


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fp8 blocks", "mixtral"),
        ("compressed int8, rows", "gemma2"),
        ("gptq 4 bits", "phi3"),
        ("awq", "modernbert"),
        ("bitsandbytes int8", "bert"),
        ("bitsandbytes nf4", "deberta-v3"),
    ],
)
def test_other_architectures_are_as_they_are_without(folders, name, kind):
    """Experts that transformers joins, fused projections, encoders, and what runs padded."""
    folder, twin = folders(name, kind)

    scores = reference.alone(reference.load(folder), ITEMS)

    assert np.abs(scores - reference.eager(twin, ITEMS)).max() <= reference.FLOAT32_TOLERANCE


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_number_is_what_it_stands_for(folders, name):
    """To the bit, but where numpy divides and the library multiplies."""
    folder, twin = folders(name)
    state = loaded(folder)

    with safe_open(twin / "model.safetensors", framework="pt") as dense:
        for key in dense.keys():  # noqa: SIM118  not a mapping
            gap = (state[key].double() - dense.get_tensor(key).double()).abs().max()
            assert gap <= (1e-6 if name == "bitsandbytes int8" else 0), key


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OWN)
def test_transformers_own_quantizer_gives_the_same_numbers(folders, name):
    """Where it dequantizes on a CPU."""
    folder, _ = folders(name)
    state = loaded(folder)

    model = own(folder)

    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor.float(), state[key]), key


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint as Assay loads it, in float32."""
    model, _ = checkpoint.load(folder, Card(), device=torch.device("cpu"), dtype=torch.float32)
    return model.state_dict()


def own(folder: Path) -> torch.nn.Module:
    """Return the checkpoint as transformers dequantizes it by itself."""
    config = transformers.AutoConfig.from_pretrained(folder)
    said = {**config.quantization_config, "dequantize": True}
    config.quantization_config = said
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.float32
    )
