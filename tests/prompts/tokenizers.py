"""Small tokenizers with the special-token habits that real checkpoints have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pathlib import Path

SPECIALS = ["<pad>", "<s>", "</s>", "<cls>", "<sep>"]
CHAT = (
    "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('only user and assistant may speak') }}{% endif %}"
    "[{{ m.role }}] {{ m.content | trim }}</s>{% endfor %}"
)
CHAT_WITH_BOS = "{{ bos_token }}" + CHAT


def make(
    folder: Path,
    *,
    adds_bos: bool = False,
    adds_eos: bool = False,
    is_encoder: bool = False,
    has_segments: bool = False,
    chat: str | None = CHAT,
    config: dict | None = None,
) -> Path:
    """Write a byte-level tokenizer (one token a byte) and a config beside it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    if is_encoder:
        frame = "<cls> $A <sep>"
        pair = f"{frame} $B:1 <sep>:1" if has_segments else f"{frame} $B <sep>"
    else:
        frame = f"{'<s> ' if adds_bos else ''}$A{' </s>' if adds_eos else ''}"
        pair = f"{frame} $B"
    core.post_processor = TemplateProcessing(
        single=frame, pair=pair, special_tokens=[(t, vocabulary[t]) for t in SPECIALS]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        cls_token="<cls>" if is_encoder else None,
        sep_token="<sep>" if is_encoder else None,
        model_input_names=[
            *("input_ids", "attention_mask"),
            *(["token_type_ids"] if has_segments else []),
        ],
    )
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    content = {"model_type": "llama", "vocab_size": len(vocabulary), **(config or {})}
    (folder / "config.json").write_text(json.dumps(content))
    return folder
