"""A byte-level BPE tokenizer with a chat template, trained on the training texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterable

VOCABULARY = 6144
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = """\
{%- if not messages -%}
{{ raise_exception("a conversation has at least one message") }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role not in ["system", "user", "assistant"] -%}
{{ raise_exception("unknown role: " ~ message.role) }}
{%- endif -%}
{{ "<|im_start|>" ~ message.role ~ "\\n" ~ message.content ~ "<|im_end|>" }}
{%- if not loop.last %}{{ "\\n" }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ "\\n<|im_start|>assistant\\n" }}{% endif -%}
"""


def learn(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        model_max_length=2048,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast
