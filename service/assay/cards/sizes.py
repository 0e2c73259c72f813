"""The sizes that a config.json states, held to what a model can have before one is built by them.

The bounds are some ten times those of the largest models there are. A model is made as large as
config.json says, and only then held against the files: 20 million layers would be made for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_LAYERS = 2_048
_HEADS = 8_192
_EXPERTS = 2**16
_WIDTH = 2**18
_INNER = 2**21
_ROWS = 2**24
_POSITIONS = 2**27
_LIMITS = {
    **dict.fromkeys(
        (
            *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_hidden_groups"),
            *("encoder_layers", "decoder_layers", "inner_group_num", "num_nextn_predict_layers"),
        ),
        _LAYERS,
    ),
    **dict.fromkeys(
        (
            *("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads"),
            *("encoder_attention_heads", "decoder_attention_heads", "num_kv_heads"),
        ),
        _HEADS,
    ),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts"), _EXPERTS
    ),
    **dict.fromkeys(
        (
            *("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"),
            *("head_dim", "d_kv", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"),
            *("kv_lora_rank", "q_lora_rank", "type_vocab_size", "num_labels"),
        ),
        _WIDTH,
    ),
    **dict.fromkeys(
        (
            *("intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim"),
            *("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"),
            *("shared_expert_intermediate_size", "ffn_hidden_size"),
        ),
        _INNER,
    ),
    "vocab_size": _ROWS,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), _POSITIONS),
}
_OF_TENSORS = ("vocab_size", "hidden_size", "intermediate_size", "d_model", "n_embd", "head_dim")
_BEYOND = 16  # times what the files hold: what is less wrong is told by its tensor


def check(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config.json that states what no model has.

    Raises:
        CheckpointError: It does; says which field.
    """
    for name, size in _sizes(config):
        limit = _LIMITS.get(name)
        if limit is not None and size > limit:
            raise CheckpointError(
                f"{path}: '{name}' is {size:.15g}, and no model has more than {limit}; take "
                "config.json from where the weights are from"
            )


def check_files(path: Path, config: Mapping[str, Any], shapes: Iterable[tuple[int, ...]]) -> None:
    """Refuse a config.json whose model would be far larger than its files' tensors.

    Raises:
        CheckpointError: It is; says which field.
    """
    largest = max((size for shape in shapes for size in shape), default=0)
    for name, size in _sizes(config):
        if name in _OF_TENSORS and size > _BEYOND * largest > 0:
            raise CheckpointError(
                f"{path}: '{name}' is {size:.15g}, and the largest tensor of the files has "
                f"{largest} rows or columns; config.json and weights aren't of one model"
            )


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield every number that a configuration or one within it has, by its key."""
    waiting: list[Mapping[str, Any]] = [config]
    while waiting:
        for name, value in waiting.pop().items():
            if isinstance(value, dict):
                waiting.append(value)
            else:
                values = value if isinstance(value, list) else [value]
                yield from ((name, number) for number in values if isinstance(number, int | float))
