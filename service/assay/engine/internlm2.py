"""InternLM2's checkpoints as Llamas: other names, and queries, keys and values in one tensor.

`wqkv` holds, for each key head, the rows of its query heads, of its key and of its value, as
InternLM's `modeling_internlm2.py` reads them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import transformers

from assay.cards import headers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch

_NAMES = {
    r"^model\.tok_embeddings\.": "embed_tokens.",
    r"^model\.norm\.": "norm.",
    r"^model\.layers\.(\d+)\.attention\.wo\.": r"layers.\1.self_attn.o_proj.",
    r"^model\.layers\.(\d+)\.feed_forward\.w1\.": r"layers.\1.mlp.gate_proj.",
    r"^model\.layers\.(\d+)\.feed_forward\.w3\.": r"layers.\1.mlp.up_proj.",
    r"^model\.layers\.(\d+)\.feed_forward\.w2\.": r"layers.\1.mlp.down_proj.",
    r"^model\.layers\.(\d+)\.attention_norm\.": r"layers.\1.input_layernorm.",
    r"^model\.layers\.(\d+)\.ffn_norm\.": r"layers.\1.post_attention_layernorm.",
}
_FUSED = re.compile(r"^model\.layers\.(\d+)\.attention\.wqkv\.(weight|bias)$")


def load(
    folder: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    """Return the trunk on a device and transformers' report on its tensors, under their own names.

    `tensors` are the folder's by name, each read when it is asked for.
    """
    config = _config(folder)
    state: dict[str, torch.Tensor] = {}
    left_over = []
    for name, tensor in tensors:
        if fused := _FUSED.match(name):
            layer, kind = fused.groups()
            for letter, part in zip("qkv", _split(tensor, config), strict=True):
                state[f"layers.{layer}.self_attn.{letter}_proj.{kind}"] = part
        elif renamed := _renamed(name):
            state[renamed] = tensor
        else:
            left_over.append(name)
    trunk_dtype = dtype or next(iter(state.values())).dtype
    with device:
        model = transformers.LlamaModel._from_config(  # noqa: SLF001  takes attention and dtype
            config, attn_implementation="eager", dtype=trunk_dtype
        )
    missing = model.state_dict().keys() - state.keys()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    misshapen = [(name,) for name in state if name in shapes and state[name].shape != shapes[name]]
    extra = state.keys() - shapes.keys()
    if not missing and not misshapen and not extra:
        model.load_state_dict(state)
    report = {
        "missing_keys": missing,
        "unexpected_keys": [*left_over, *extra],
        "mismatched_keys": misshapen,
    }
    return model, report


def _config(folder: Path) -> transformers.LlamaConfig:
    """Return config.json as a Llama's: InternLM2's fields have the same names but for `bias`."""
    fields = headers.config(folder)
    scaling = fields.get("rope_scaling")
    rope = {"rope_type": "default", "rope_theta": fields.get("rope_theta", 10_000.0)}
    if scaling:
        rope |= {"rope_type": scaling["type"], "factor": scaling["factor"]}
    same = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "hidden_act", "rms_norm_eps"),
        *("max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"),
    )
    return transformers.LlamaConfig(
        **{name: fields[name] for name in same if name in fields},
        attention_bias=bool(fields.get("bias", False)),
        rope_parameters=rope,
    )


def _split(fused: torch.Tensor, config: transformers.LlamaConfig) -> list[torch.Tensor]:
    """Return the rows of queries, keys and values."""
    group = config.num_attention_heads // config.num_key_value_heads
    width = config.hidden_size // config.num_attention_heads
    shape = (config.num_key_value_heads, group + 2, width, *fused.shape[1:])
    heads = fused.reshape(shape)
    parts = (heads[:, :group], heads[:, group : group + 1], heads[:, group + 1 :])
    return [part.flatten(0, 2).contiguous() for part in parts]


def _renamed(name: str) -> str | None:
    for pattern, replacement in _NAMES.items():
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return None
