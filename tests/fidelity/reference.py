"""What the model would say offline, and how far Assay is from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from assay.cards.card import Card
from assay.engine import model_runner as trunks
from assay.engine import verification
from assay.engine.quantization import Quantizer
from assay.scheduling.planner import ModelQueue, plan
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.work_item import RequestFlow, WorkItem
from assay.worker_protocol import PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from assay.engine.quantization import Kind
    from assay.worker_protocol import Attention

FLOAT32_TOLERANCE = 1e-5
PAD = 0
REFERENCE_BATCHES = (4, 16, 32)
BATCH_SIZES = (1, 2, 3, 7, 16, 50, 500)


def load(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    compiled: bool = True,
    padded: bool = False,
    attention: Attention = "auto",
    quantize: Kind | None = None,
    fused: bool = False,
    invariant: bool = False,
) -> trunks.ModelRunner:
    """Return a verified trunk on CPU, as these say; `fused` and `invariant` where Triton runs."""
    card = Card.model_validate({"trunk": {"attention": "padded"}} if padded else {})
    trunk = trunks.load(folder, card, device=torch.device("cpu"), dtype=dtype)
    quantizer = Quantizer(quantize) if quantize else None
    verification.verify(
        trunk,
        compiled=compiled,
        attention=attention,
        quantizer=quantizer,
        fused=fused,
        invariant=invariant,
    )
    return trunk


@torch.inference_mode()
def eager(
    folder: Path,
    items: Sequence[np.ndarray],
    dtype: torch.dtype = torch.float32,
    *,
    batch: int = 1,
) -> np.ndarray:
    """Return transformers' own scores: eager attention, items alone or padded in batches.

    The head is float32 in either dtype, as published reward models ask for, with the
    file's own weights and not their roundings to the trunk's dtype. Alone, an item is read at its
    last token; with a pad id transformers would search for the last token that differs from it.
    """
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    ).eval()
    _lift_head(model, folder)
    model.config.pad_token_id = None if batch == 1 else PAD
    scores = []
    for start in range(0, len(items), batch):
        rows = items[start : start + batch]
        ids = torch.full((len(rows), max(map(len, rows))), PAD)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(rows):
            ids[row, : len(one)] = torch.from_numpy(one.astype(np.int64))
            mask[row, : len(one)] = 1
        scores.append(model(input_ids=ids, attention_mask=mask).logits[:, 0].double().numpy())
    return np.concatenate(scores)


def _lift_head(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Give a model's head the file's own float32 weights, and float32 inputs."""
    stored = load_file(folder / "model.safetensors")
    prefix = model.base_model_prefix
    heads = {name: module for name, module in model.named_children() if name != prefix}
    if getattr(model.base_model, "pooler", None) is not None:
        heads[f"{prefix}.pooler"] = model.base_model.pooler
    for path, module in heads.items():
        module.float()
        module.register_forward_pre_hook(lambda _, inputs: tuple(one.float() for one in inputs))
        for name, parameter in module.named_parameters():
            parameter.data = stored[f"{path}.{name}"].float()


def _scores(trunk: trunks.ModelRunner, batch: PrefixBatch) -> np.ndarray:
    """Return the one number that each item of a batch has."""
    return trunk.score(batch)[:, 0]


def alone(trunk: trunks.ModelRunner, items: Sequence[np.ndarray]) -> np.ndarray:
    """Return Assay's score of each item in a batch of its own."""
    return np.concatenate([_scores(trunk, PrefixBatch.unshared([ids])) for ids in items])


def together(
    trunk: trunks.ModelRunner, items: Sequence[np.ndarray], size: int, seed: int
) -> np.ndarray:
    """Return Assay's scores in shuffled batches of a size, in the items' order."""
    order = np.random.default_rng(seed).permutation(len(items))
    scores = np.empty(len(items))
    for start in range(0, len(items), size):
        places = order[start : start + size]
        scores[places] = _scores(trunk, PrefixBatch.unshared([items[place] for place in places]))
    return scores


def shared(
    trunk: trunks.ModelRunner, prefix: np.ndarray, items: Sequence[np.ndarray]
) -> np.ndarray:
    """Return Assay's scores of items behind a prefix that is computed once."""
    runs = PrefixBatch.unshared([prefix, *items])
    parents = np.where(np.arange(len(items) + 1) == 0, -1, 0).astype(np.int32)
    return _scores(trunk, replace(runs, parents=parents, reads=runs.reads[1:]))


def kept(
    trunk: trunks.ModelRunner, rounds: Sequence[Sequence[np.ndarray]]
) -> tuple[np.ndarray, int]:
    """Return Assay's scores of rounds of items, each behind what the rounds before it left.

    The second number is how many tokens were computed for them.
    """
    assert trunk.block_cache is not None
    cache = PrefixCache(trunk.block_cache.count)
    scores, computed = [], 0
    for items in rounds:
        line, flow = ModelQueue(lambda _: False, count()), RequestFlow()
        works = [WorkItem(ids, flow) for ids in items]
        for work in works:
            line.add(work, 0.0)
        batch = plan(line, 1 << 20, shares=True, cache=cache)
        found = dict(zip(batch.works, _scores(trunk, batch.prefix_batch), strict=True))
        scores += [found[work] for work in works]
        computed += batch.prefix_batch.tokens
    return np.array(scores), computed


@dataclass(frozen=True, slots=True)
class Report:
    """How one checkpoint fared.

    `gap` is the largest difference to the reference alone, `reference_gap` the largest that the
    reference itself shows between batch sizes; `changed` scores have other bits in some batch.
    """

    forward: str
    gap: float
    reference_gap: float
    std: float
    changed: int
    changed_by: float


def compare(
    folder: Path,
    items: Sequence[np.ndarray],
    dtype: torch.dtype = torch.float32,
    *,
    measure_reference: bool = True,
) -> Report:
    """Compare one checkpoint's scores, alone and in shuffled batches, with the reference."""
    trunk = load(folder, dtype)
    expected = eager(folder, items, dtype)
    single = alone(trunk, items)
    changed: set[int] = set()
    changed_by = 0.0
    for seed, size in enumerate(BATCH_SIZES):
        batched = together(trunk, items, size, seed)
        changed |= set(np.flatnonzero(batched != single).tolist())
        changed_by = max(changed_by, float(np.abs(batched - single).max()))
    return Report(
        forward=trunk.forward,
        gap=float(np.abs(single - expected).max()),
        reference_gap=max(
            float(np.abs(eager(folder, items, dtype, batch=size) - expected).max())
            for size in REFERENCE_BATCHES
        )
        if measure_reference
        else float("nan"),
        std=float(expected.std()),
        changed=len(changed),
        changed_by=changed_by,
    )
