"""The share of the machine's matrix-product rate that a server reaches.

The rate is measured here, with torch's own products on the shapes of the model's linear layers,
before and after each run: a machine's speed moves. Decoders only: attention is counted causally.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForSequenceClassification

from loadtest import pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from transformers import PreTrainedModel

    from loadtest.pair import Source
    from loadtest.subjects import Subject

ROWS = 2048
BEST_OF = 5


@dataclass(frozen=True, slots=True)
class Operations:
    """What a model computes: its linear layers by shape, and its attention."""

    linear: dict[tuple[int, int], int]  # (out, in) -> layers
    attention_width: int  # heads × their width, over all layers

    @classmethod
    def of(cls, checkpoint: Path) -> Operations:
        """Return those of a checkpoint, from its configuration."""
        config = AutoConfig.from_pretrained(checkpoint)
        with torch.device("meta"):
            return cls.of_model(AutoModelForSequenceClassification.from_config(config))

    @classmethod
    def of_model(cls, model: PreTrainedModel) -> Operations:
        """Return those of a model."""
        config = model.config
        shapes = Counter(
            (module.out_features, module.in_features)
            for module in model.modules()
            if isinstance(module, nn.Linear) and module.out_features > config.num_labels
        )
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        return cls(dict(shapes), config.num_hidden_layers * config.num_attention_heads * width)

    @property
    def per_token(self) -> int:
        """Operations of the linear layers for one token: two a weight."""
        return 2 * sum(out * into * count for (out, into), count in self.linear.items())

    def total(self, lengths: Iterable[int]) -> int:
        """Return the operations of sequences: products, and attention's for what is causal."""
        return sum(self.computed(np.arange(length)) for length in lengths)

    def computed(self, positions: np.ndarray) -> int:
        """Return the operations of tokens at such positions, whoever computed those before them."""
        seen = int(positions.sum()) + len(positions)
        return len(positions) * self.per_token + 4 * self.attention_width * seen


class Machine:
    """The device that Assay chooses by itself, with as many threads as the server has."""

    def __init__(self, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    def rate(self, operations: Operations) -> float:
        """Return operations a second over all linear layers, each at the best of some tries."""
        seconds = sum(
            count * _seconds(shape, self._dtype, self._device)
            for shape, count in operations.linear.items()
        )
        return ROWS * operations.per_token / seconds


def shares(
    subject: Subject,
    operations: Operations,
    machine: Machine,
    workload: str,
    source: Source,
    repetitions: int,
    announce: Callable[[str], None],
) -> list[dict[str, float]]:
    """Return each run's rate, with the machine's as the mean of before and after, and its share.

    Raises:
        SystemExit: The server answered with errors.
    """
    subject.measure(pair.warm_up(source.load(workload)))
    found = []
    for repetition in range(repetitions):
        load = source.load(workload)
        before = machine.rate(operations)
        reading = subject.measure(load)
        rate = (before + machine.rate(operations)) / 2
        if reading.errors:
            raise SystemExit(f"{subject.name} failed: {dict(reading.errors)}")
        reached = operations.total(item.tokens or 0 for item in load.items) / reading.seconds
        found.append({"rate": rate, "reached": reached, "share": reached / rate})
        announce(
            f"{repetition + 1} {workload}: {subject.name} {reading.tokens_per_s or 0:,.0f} "
            f"tokens/s, {reached / 1e9:,.0f} of {rate / 1e9:,.0f} GFLOP/s: {reached / rate:.1%}"
        )
    return found


@torch.inference_mode()
def _seconds(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> float:
    """Return the shortest time of one product of `ROWS` rows with a layer's weights."""
    out, into = shape
    rows = torch.randn(ROWS, into, device=device).to(dtype)
    weights = torch.randn(out, into, device=device).to(dtype)
    return min(_time(rows, weights) for _ in range(BEST_OF + 1))  # the first also warms up


def _time(rows: torch.Tensor, weights: torch.Tensor) -> float:
    _synchronize(rows.device)
    begin = time.perf_counter()
    linear(rows, weights)
    _synchronize(rows.device)
    return time.perf_counter() - begin


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
