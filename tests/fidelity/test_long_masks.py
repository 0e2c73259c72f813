"""Windows and chunks too long to be sampled at load, which some layers have from a mask alone."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from assay.cards.card import Card
from assay.engine import model_runner as trunks
from assay.engine import verification
from assay.worker_protocol import PrefixBatch
from tests.fidelity import checkpoints

WINDOW = 1100
TOKENS = WINDOW + 100
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2}
KINDS = {
    "phimoe": ("Phimoe", {**EXPERTS, "num_local_experts": 4, "sliding_window": WINDOW}),
    "qwen2-moe": (
        "Qwen2Moe",
        {
            **EXPERTS,
            "num_experts": 4,
            "moe_intermediate_size": 48,
            "sliding_window": WINDOW,
            "shared_expert_intermediate_size": 48,
            "use_sliding_window": True,
            "max_window_layers": 1,
        },
    ),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
}
CHUNKED = transformers.Llama4TextConfig(
    **SHAPE,
    head_dim=8,
    intermediate_size_mlp=48,
    num_local_experts=2,
    num_experts_per_tok=1,
    attention_chunk_size=WINDOW,
    floor_scale=512,
)


def loaded(folder, card=None):
    """Return a verified trunk."""
    trunk = trunks.load(folder, card, device=torch.device("cpu"), dtype=torch.float32)
    verification.verify(trunk, compiled=True)
    return trunk


def items():
    """Return items that are longer than the window and shorter."""
    random = np.random.default_rng(0)
    return [random.integers(3, 300, length).astype(np.int32) for length in (TOKENS, 700)]


@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_a_window_that_is_not_sampled_is_heeded(tmp_path, name):
    """By a layer that asks for it; where it is in the mask alone the model runs padded."""
    kind, options = KINDS[name]
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **options, num_labels=1)
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    checkpoints._spread(made)
    made.save_pretrained(tmp_path)
    made.set_attn_implementation("eager")
    expected = [made(torch.from_numpy(ids)[None].long()).logits[0].numpy() for ids in items()]
    made.config.sliding_window = 4096  # as if there were none
    without = made(torch.from_numpy(items()[0])[None].long()).logits[0].numpy()

    trunk = loaded(tmp_path)
    scores = trunk.score(PrefixBatch.unshared(items()))

    assert trunk.forward == ("packed" if name == "mistral" else "padded")
    assert np.abs(scores - np.stack(expected)).max() < 1e-5
    assert np.abs(without - expected[0]).max() > 1e-3


@torch.inference_mode()
def test_a_chunk_that_is_not_sampled_is_heeded(tmp_path):
    """Llama 4's, whose layers also count rows for positions: alone and beside another item."""
    torch.manual_seed(0)
    made = transformers.Llama4TextModel(CHUNKED).eval()
    checkpoints._spread(made)
    made.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    head = torch.randn(1, SHAPE["hidden_size"])
    save_file(load_file(file) | {"score.weight": head}, file, metadata={"format": "pt"})
    layer = {"op": "linear", "weight": "score.weight"}
    card = Card.model_validate(
        {"trunk": {"architecture": "Llama4TextModel"}, "heads": {"reward": {"layers": [layer]}}}
    )
    made.set_attn_implementation("eager")
    states = [made(torch.from_numpy(ids)[None].long()).last_hidden_state[0, -1] for ids in items()]

    trunk = loaded(tmp_path, card)
    scores = trunk.score(PrefixBatch.unshared(items()))

    assert trunk.forward == "padded"
    assert "its mask lets see" in " ".join(trunk.warnings)
    assert np.abs(scores - torch.stack([head @ state for state in states]).numpy()).max() < 1e-4
