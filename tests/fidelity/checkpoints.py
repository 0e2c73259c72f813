"""Tiny random checkpoints in each architecture's own layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_labels": 1,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 16}
POSITIONS = {"max_position_embeddings": 1024}

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", {**SMALL, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", GROUPED),
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 48}),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma": ("GemmaConfig", GROUPED),
    "gemma2": (
        "Gemma2Config",
        {
            **GROUPED,
            "sliding_window": 48,
            "attn_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 16,
        },
    ),
    "phi3": ("Phi3Config", {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}),
    "gpt-neox": ("GPTNeoXConfig", SMALL),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 1024, "num_labels": 1},
    ),
    "opt": (
        "OPTConfig",
        {
            **{key: value for key, value in SMALL.items() if key != "intermediate_size"},
            "ffn_dim": 96,
            "word_embed_proj_dim": 64,
            "max_position_embeddings": 1024,
        },
    ),
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {**SMALL, **POSITIONS}),
    "roberta": ("RobertaConfig", {**SMALL, "max_position_embeddings": 1025}),
    "electra": ("ElectraConfig", {**SMALL, **POSITIONS, "embedding_size": 32}),
    "modernbert": ("ModernBertConfig", {**SMALL, **POSITIONS, "local_attention": 32}),
    "modernbert-mean": (
        "ModernBertConfig",
        {**SMALL, **POSITIONS, "local_attention": 32, "classifier_pooling": "mean"},
    ),
    "deberta-v3": (
        "DebertaV2Config",
        {
            **SMALL,
            **POSITIONS,
            "relative_attention": True,
            "position_buckets": 32,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
}
ARCHITECTURES = DECODERS | ENCODERS


def make(folder: Path, name: str, *, vocabulary: int, **overrides: Any) -> Path:
    """Write a random checkpoint of an architecture and return its folder."""
    kind, options = ARCHITECTURES[name]
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2}
    config = getattr(transformers, kind)(vocab_size=vocabulary, **{**ids, **options, **overrides})
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    _spread(model)
    model.save_pretrained(folder)
    return folder


def _spread(model: torch.nn.Module) -> None:
    """Make weights large enough that a wrong mask, position or head shows in the score."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                scale = parameter.shape[-1] ** -0.5
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * scale)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
