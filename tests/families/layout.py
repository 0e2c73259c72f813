"""A family's checkpoint in its own files, tiny and random, and what it must answer.

A reference reads the files and computes straight ahead: one item, no padding, float32, eager
attention, the template as strings. Nothing of assay is used here, and no card is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Item = dict[str, Any]
Tensors = dict[str, torch.Tensor]

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 12}
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": None},
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "qwen3": GROUPED,
    "gemma": GROUPED,
    "gemma2": {
        **GROUPED,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 50.0,
    },
    "gpt_neox": SMALL,
    "deberta-v2": {
        **SMALL,
        "relative_attention": True,
        "position_buckets": 32,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "max_position_embeddings": 512,
    },
}

_DUCKS = "How many ducks are in the pond — if 3 of 11 fly away?\n\nShow your work."
SINGLE: tuple[Item, ...] = (
    {"prompt": "Name a prime.", "response": "Seven is a prime."},
    {"prompt": _DUCKS, "response": "There were 11 ducks and 3 flew away.\n\n11 - 3 = 8, so: 8."},
    {"prompt": _DUCKS, "response": "11 + 3 = 14 🦆"},
    {"prompt": _DUCKS, "response": "."},
    {"prompt": "Hi", "response": "Hello there, what can I do for you in the evening?  Ask me."},
    {"prompt": "¿Qué hora es?", "response": "No lo sé — mira el reloj.\n"},
)
TALK: Item = {
    "prompt": [
        {"role": "user", "content": "Is 9 a prime?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "Are you sure?\nThink again."},
    ],
    "response": "No: 9 = 3 × 3, the answer was wrong.",
}
ITEMS = (*SINGLE, TALK)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a checkpoint must answer to an item."""

    score: float | None = None
    attributes: dict[str, float] = field(default_factory=dict)
    steps: list[float] | None = None
    probabilities: list[list[float]] | None = None
    std: float | None = None  # as the model itself says
    members: list[float] | None = None
    steps_std: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A family: how its files are written, what they must answer, the catalogue's card of it."""

    name: str
    card: str
    build: Callable[[Path], None]
    reference: Callable[[Path, Item], Expected]
    items: tuple[Item, ...]


def model(kind: str, tokenizer: Any, *, task: str = "AutoModel", **options: Any) -> Any:
    """Return a random model of transformers' own, of `kind` (a model_type)."""
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    content = {"vocab_size": len(tokenizer), **ids, **OPTIONS[kind], **options}
    config = transformers.AutoConfig.for_model(kind, **content)
    made = getattr(transformers, task).from_config(config)
    generator = torch.Generator().manual_seed(sum(map(ord, kind)))
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.1 * noise)
    made.tie_weights()
    return made.eval()


def tensors(made: torch.nn.Module, prefix: str = "") -> Tensors:
    """Return a model's tensors, `prefix` before each name."""
    return {prefix + name: one.detach().clone() for name, one in made.state_dict().items()}


def random(*shape: int, seed: int = 7, scale: float | None = None) -> torch.Tensor:
    """Return random weights of a head."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (scale or shape[-1] ** -0.5)


def save(folder: Path, weights: Tensors, made: Any, **config: Any) -> None:
    """Write model.safetensors, and the model's config.json with `config` over it."""
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    content = {**made.config.to_dict(), **config}
    text = json.dumps(content, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text, encoding="utf-8")


def read(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors of model.safetensors and config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return load_file(folder / "model.safetensors"), config


def tokenizer(folder: Path) -> Any:
    """Return the checkpoint's tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def encode(folder: Path, text: str) -> list[int]:
    """Return the ids of a text in which every special token is written out."""
    return list(tokenizer(folder)(text, add_special_tokens=False)["input_ids"])


def trunk(config: dict[str, Any], weights: Tensors, prefix: str, *, task: str = "AutoModel") -> Any:
    """Return the model whose tensors in the files begin with `prefix`; eager, float32."""
    options = {key: value for key, value in config.items() if key != "model_type"}
    made = getattr(transformers, task).from_config(
        transformers.AutoConfig.for_model(config["model_type"], **options),
        attn_implementation="eager",
    )
    own = {
        name.removeprefix(prefix): one for name, one in weights.items() if name.startswith(prefix)
    }
    missing, _ = made.load_state_dict(own, strict=False)
    tied = set(getattr(made, "_tied_weights_keys", None) or ())
    assert set(missing) <= tied, missing
    made.tie_weights()
    return made.float().eval()


@torch.no_grad()
def hidden(
    folder: Path, ids: Sequence[int], prefix: str = "model.", *, kind: str | None = None
) -> torch.Tensor:
    """Return the trunk's last hidden state of one sequence: (tokens, hidden).

    `kind` is the trunk's model_type where config.json has one of its own.
    """
    weights, config = read(folder)
    made = trunk(config | ({"model_type": kind} if kind else {}), weights, prefix)
    output: torch.Tensor = made(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]
    return output


@torch.no_grad()
def logits(folder: Path, ids: Sequence[int]) -> torch.Tensor:
    """Return a causal language model's logits: (tokens, vocabulary)."""
    weights, config = read(folder)
    made = trunk(config, weights, "", task="AutoModelForCausalLM")
    output: torch.Tensor = made(input_ids=torch.tensor([list(ids)])).logits[0]
    return output


def turns(item: Item) -> list[dict[str, str]]:
    """Return an item's conversation: the prompt's turns and the response's."""
    prompt = item["prompt"]
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [*before, {"role": "assistant", "content": item["response"]}]
