"""A tiny random policy for trainers: a causal language model with a tokenizer and ChatML turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import transformers

from tests.families import tokenizers

if TYPE_CHECKING:
    from pathlib import Path


def build(folder: Path) -> Path:
    """Write the policy's files to a new folder."""
    folder.mkdir()
    torch.manual_seed(0)
    tokenizer = tokenizers.qwen(folder, chat=tokenizers.CHATML)
    config = transformers.Qwen2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=512,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder
