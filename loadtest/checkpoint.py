"""A reward model of random weights, to measure with where nothing can be fetched.

    python -m loadtest.checkpoint --out DIR [--size 8b|0.6b|107m|13m|tiny]

Qwen3, bfloat16 safetensors, a byte-level BPE tokenizer trained on the generated texts, a ChatML
template. Speed doesn't depend on what weights hold; scores do, so these mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, Qwen3Config

from loadtest.texts import Generated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

SIZES = {
    "8b": {  # Qwen3-8B's shapes
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12_288,
        "vocab_size": 151_936,
    },
    "0.6b": {  # Qwen3-0.6B's shapes
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151_936,
    },
    "107m": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 2304,
        "vocab_size": 32_000,
    },
    "13m": {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 768,
        "vocab_size": 32_000,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "intermediate_size": 128,
        "vocab_size": 2048,
    },
}
MAX_TOKENS = 16_384
TRAINING_PAIRS = 2000
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = """\
{%- for message in messages -%}
{{ "<|im_start|>" ~ message.role ~ "\\n" ~ message.content ~ "<|im_end|>\\n" }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif -%}
"""


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of at most that many tokens; the texts support about 24,000."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_training_texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        model_max_length=MAX_TOKENS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def model(size: str, words: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return the reward model: random weights, the same in every run, made in bfloat16."""
    torch.manual_seed(0)
    config = Qwen3Config(
        **SIZES[size],
        num_labels=1,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)


def write(folder: Path, size: str) -> str:
    """Write the checkpoint; return a line about it."""
    words = tokenizer(SIZES[size]["vocab_size"])
    reward = model(size, words)
    reward.save_pretrained(folder)
    words.save_pretrained(folder)
    millions = sum(parameter.numel() for parameter in reward.parameters()) / 1e6
    return f"{folder}: {millions:.1f}M parameters, {len(words)} tokens in the tokenizer"


@contextmanager
def given_or_random(folder: Path | None) -> Iterator[Path]:
    """Give the folder's absolute path, or a small random checkpoint's for as long as it is used."""
    if folder is not None:
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as made:
        print(write(Path(made), "13m"))
        yield Path(made)


def _training_texts() -> Iterator[str]:
    """Yield texts of a seed that no measurement uses."""
    for pair in Generated(seed=1 << 20).take(0, TRAINING_PAIRS):
        yield pair.prompt
        yield pair.response


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.checkpoint", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--size", choices=SIZES, default="107m")
    arguments = parser.parse_args()
    print(write(arguments.out, arguments.size))


if __name__ == "__main__":
    main()
