"""Several random adapters on one random base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import peft
import torch
import transformers

from assay.cards.card import Card
from assay.worker_protocol import ModelSpec
from tests.fidelity import checkpoints

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LORA = {
    "task_type": "SEQ_CLS",
    "r": 4,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj", "up_proj"],
}
VOCABULARY = 300


def make(folder: Path, name: str, *each: dict[str, Any], **options: Any) -> list[ModelSpec]:
    """Write a base, and an adapter with a head for each of some options; return what to load."""
    base = checkpoints.make(folder / "base", name, vocabulary=VOCABULARY, **options)
    return [_adapter(folder, base, number, given) for number, given in enumerate(each)]


def _adapter(folder: Path, base: Path, number: int, options: dict[str, Any]) -> ModelSpec:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**LORA | options))
    generator = torch.Generator().manual_seed(number)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 0.1 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    adapted.save_pretrained(folder / f"adapter-{number}")
    return ModelSpec(
        f"m{number}", folder / f"adapter-{number}", Card(), "auto", 128, None, base=base
    )


@torch.inference_mode()
def expected(spec: ModelSpec, items: Sequence[np.ndarray]) -> np.ndarray:
    """Return the scores of peft's own forward pass, unmerged, eager, each item alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        spec.base, num_labels=1, attn_implementation="eager"
    )
    adapted = peft.PeftModel.from_pretrained(model, spec.folder).eval()
    adapted.config.pad_token_id = None
    rows = [torch.from_numpy(item)[None].long() for item in items]
    return np.array([float(adapted(input_ids=row).logits[0, 0]) for row in rows])


def items(*lengths: int, seed: int = 3) -> list[np.ndarray]:
    """Return random sequences."""
    random = np.random.default_rng(seed)
    return [random.integers(3, VOCABULARY, size=size).astype(np.int32) for size in lengths]
