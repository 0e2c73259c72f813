"""A classifier that also sees, used for text: its language part is served, exactly."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.families import tokenizers
from tests.families.layout import encode
from tests.families.scalar import gemma_text
from tests.families.serving import Served

ITEM = {"prompt": "Name a prime.", "response": "Seven is a prime."}


@pytest.mark.parametrize("naming", ["published", "in memory"])
def test_gemma_3_s_classifier_has_transformers_scores(tmp_path, naming):
    """The vision tower and the projector are there and not read."""
    own = tokenizers.gemma(tmp_path)
    text = {
        "vocab_size": len(own),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 16,
        "pad_token_id": own.pad_token_id,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=1, num_labels=1
    )
    torch.manual_seed(0)
    made = transformers.Gemma3ForSequenceClassification(config).eval()
    torch.nn.init.normal_(made.score.weight)
    made.save_pretrained(tmp_path)
    if naming == "in memory":
        path = tmp_path / "model.safetensors"
        said = load_file(path)
        renamed = {
            name
            if name.startswith("score")
            else f"model.{name}".replace(
                "model.language_model.model.", "model.language_model."
            ): tensor
            for name, tensor in said.items()
        }
        save_file(renamed, path, metadata={"format": "pt"})
    with torch.no_grad():
        ids = torch.tensor([encode(tmp_path, gemma_text(ITEM))])
        expected = made(input_ids=ids).logits[0, 0].item()

    (verdict,) = Served(tmp_path).verdicts([ITEM])

    assert verdict.rewards == pytest.approx([expected], abs=1e-5)
