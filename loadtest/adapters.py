"""Three LoRA adapters on one base in one pass, beside one adapter that is merged.

    python -m loadtest.adapters [--size 107m] [--layers all|last-quarter] [--threads N] [--repeat N]

Random weights, adapters of rank 16 on every linear layer of the blocks that `--layers` says. In
turn, so that all see the same machine: a merged adapter, one that lies on the shared base, and all
three. Without `--threads` by the clock; with one thread by its processor time, which other work on
the machine moves less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import peft
import torch
from transformers import AutoModelForSequenceClassification

from assay.cards.card import Card
from assay.engine import model_runner, shared_base, verification
from assay.joined_batch import join
from assay.worker_protocol import ModelSpec, PrefixBatch
from loadtest import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MEMBERS = 3
RANK = 16
CPU = torch.device("cpu")
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write(folder: Path, size: str, layers: str) -> list[ModelSpec]:
    """Write a base and adapters on it; return what to load."""
    base = folder / "base"
    checkpoint.write(base, size)
    specs = []
    for number in range(MEMBERS):
        model = AutoModelForSequenceClassification.from_pretrained(base)
        count = model.config.num_hidden_layers
        first = 0 if layers == "all" else count - count // 4
        config = peft.LoraConfig(
            task_type="SEQ_CLS",
            r=RANK,
            target_modules=list(LAYERS),
            layers_to_transform=list(range(first, count)),
        )
        adapted = peft.get_peft_model(model, config)
        generator = torch.Generator().manual_seed(number)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
        adapted.save_pretrained(folder / f"adapter-{number}")
        specs.append(
            ModelSpec(f"m{number}", folder / f"adapter-{number}", Card(), "auto", 512, 0, base=base)
        )
    return specs


def workloads(vocabulary: int) -> dict[str, PrefixBatch]:
    """Return one short item, and a group of 16 of 150 tokens, of which 100 are shared."""
    random = np.random.default_rng(0)

    def items(count: int, tokens: int) -> list[np.ndarray]:
        return [random.integers(3, vocabulary, tokens).astype(np.int32) for _ in range(count)]

    runs = PrefixBatch.unshared([*items(1, 100), *items(16, 50)])
    parents = np.where(np.arange(17) == 0, -1, 0).astype(np.int32)
    return {
        "one item of 45 tokens": PrefixBatch.unshared(items(1, 45)),
        "16 of 150 tokens, 100 shared": replace(runs, parents=parents, reads=runs.reads[1:]),
    }


def taken_s(
    ways: Sequence[Callable[[], object]], repeat: int, clock: Callable[[], float]
) -> np.ndarray:
    """Return the seconds of each way's passes, (ways, repeat), after one that isn't timed."""
    seconds = np.empty((len(ways), repeat))
    for turn in range(-1, repeat):
        for way, run in enumerate(ways):
            begin = clock()
            run()
            seconds[way, turn] = clock() - begin
    return seconds


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.adapters", description=__doc__)
    parser.add_argument("--size", default="107m")
    parser.add_argument("--layers", choices=["all", "last-quarter"], default="last-quarter")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=10)
    options = parser.parse_args()
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        specs = write(Path(folder), options.size, options.layers)
        merged = model_runner.load(
            specs[0].folder, Card(), device=CPU, dtype=torch.float32, base=specs[0].base
        )
        shared = shared_base.load(specs, device=CPU, dtype=torch.float32)
        for runner in (merged, shared):
            verification.verify(runner, compiled=True)
    print(f"{options.size}, adapters on {options.layers}, beside one merged adapter:")
    for name, batch in workloads(merged.inputs.vocabulary).items():
        one = join({1: batch}, 0)
        three = join(dict.fromkeys(range(MEMBERS), batch), 0)
        ways = [
            partial(merged.score, batch),
            partial(shared.score, one),
            partial(shared.score, three),
        ]
        seconds = taken_s(ways, options.repeat, clock)
        best, median = seconds.min(1), np.median(seconds, 1)
        print(
            f"{name}: merged {best[0] * 1e3:.1f} ms; one on the base {best[1] / best[0]:.2f}, "
            f"three {best[2] / best[0]:.2f} times that (medians {median[2] / median[0]:.2f})"
        )


if __name__ == "__main__":
    main()
