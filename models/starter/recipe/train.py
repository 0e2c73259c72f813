"""Train one member of the ensemble: a language-model pass, then the Bradley-Terry loss."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)
from trl import RewardConfig, RewardTrainer

from pairs import Message, Pair, read
from split import ALL, MIXTURE, sample, training
from tokenizer import learn

LENGTH = 512
PROMPT_LENGTH = 192
CHUNK = 256


def configuration(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """The shape shared by all members."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=4,
        intermediate_size=512,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        use_cache=False,
        num_labels=1,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def shorten(item: Pair, tokenizer: PreTrainedTokenizerFast) -> list[Message]:
    """The prompt with its beginning cut away, so that the response can be kept whole."""
    room = PROMPT_LENGTH
    kept: list[Message] = []
    for message in reversed(item.messages()):
        ids = tokenizer(message["content"])["input_ids"]
        if len(ids) > room:
            if not kept:
                kept.append({"role": message["role"], "content": tokenizer.decode(ids[-room:])})
            break
        kept.append(message)
        room -= len(ids) + 4
    return kept[::-1]


def conversations(items: list[Pair], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Every different conversation of the pairs, rendered."""
    found: dict[str, None] = {}
    for item in items:
        for answer in (item.chosen, item.rejected):
            messages = [*shorten(item, tokenizer), {"role": "assistant", "content": answer}]
            found[tokenizer.apply_chat_template(messages, tokenize=False)] = None
    return list(found)


def language(
    items: list[Pair],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    tokens: int,
    batch: int,
    scratch: str,
) -> Qwen3ForCausalLM:
    """A causal language model of the member's conversations."""
    texts = conversations(items, tokenizer)
    random.Random(seed).shuffle(texts)  # noqa: S311 (no secret)
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text)["input_ids"]
        if len(ids) >= tokens:
            break
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids) - CHUNK + 1, CHUNK)]
    model = Qwen3ForCausalLM(configuration(tokenizer))
    arguments = TrainingArguments(
        output_dir=scratch,
        seed=seed,
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=30,
        weight_decay=0.05,
        max_grad_norm=1.0,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict({"input_ids": chunks}),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ).train()
    return model


def preference(items: list[Pair], tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """The pairs as TRL reads them, with the length that batches are grouped by."""
    rows = []
    for item in items:
        prompt = shorten(item, tokenizer)
        chosen, rejected = (
            [{"role": "assistant", "content": answer}] for answer in (item.chosen, item.rejected)
        )
        length = max(
            len(tokenizer.apply_chat_template([*prompt, *answer])["input_ids"])
            for answer in (chosen, rejected)
        )
        if length <= LENGTH:
            rows.append(
                {"prompt": prompt, "chosen": chosen, "rejected": rejected, "length": length}
            )
    return Dataset.from_list(rows)


def member(
    items: list[Pair], tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace, scratch: str
) -> None:
    """Train a member and save it in bfloat16."""
    drawn = sample(items, options.seed, options.share, options.sources)
    set_seed(options.seed)
    model = Qwen3ForSequenceClassification(configuration(tokenizer))
    if options.trunk and options.trunk.exists():
        trunk = Qwen3ForCausalLM.from_pretrained(options.trunk, dtype=torch.float32)
        model.model.load_state_dict(trunk.model.state_dict())
    elif options.language_tokens:
        trunk = language(
            drawn, tokenizer, options.seed, options.language_tokens, options.language_batch, scratch
        )
        model.model.load_state_dict(trunk.model.state_dict())
        if options.trunk:
            trunk.save_pretrained(options.trunk)
    torch.nn.init.zeros_(model.score.weight)
    arguments = RewardConfig(
        output_dir=scratch,
        seed=options.seed,
        use_cpu=True,
        bf16=True,
        gradient_checkpointing=False,
        per_device_train_batch_size=options.batch,
        num_train_epochs=options.epochs,
        learning_rate=options.rate,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        weight_decay=0.1,
        max_grad_norm=1.0,
        max_length=LENGTH,
        center_rewards_coefficient=0.01,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = RewardTrainer(
        model, arguments, train_dataset=preference(drawn, tokenizer), processing_class=tokenizer
    )
    trainer.train()
    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


def main() -> None:
    """Train one member of the ensemble."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--out", type=Path, required=True, help="folder of the member")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=8, help="pairs a step")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate on pairs")
    parser.add_argument(
        "--part",
        type=float,
        nargs=2,
        default=ALL,
        help="from which to which share of the training prompts, in the order of a hash",
    )
    parser.add_argument("--sources", nargs="+", default=list(MIXTURE), choices=list(MIXTURE))
    parser.add_argument("--share", type=float, default=1.0, help="of each source's quota")
    parser.add_argument("--language-tokens", type=int, default=800_000)
    parser.add_argument(
        "--trunk",
        type=Path,
        help="begin with this language model; train and keep it if there's none",
    )
    parser.add_argument("--language-batch", type=int, default=8, help="chunks a step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    items = training(read(options.data), options.part)
    texts = dict.fromkeys(
        text
        for item in items
        for text in (*(content for _, content in item.prompt), item.chosen, item.rejected)
    )
    with tempfile.TemporaryDirectory() as scratch:
        member(items, learn(texts), options, scratch)
    print(f"seed {options.seed}: {time.monotonic() - start:.0f} seconds", flush=True)


if __name__ == "__main__":
    main()
