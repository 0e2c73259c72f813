"""What members cost: five heads on one trunk beside one, and K checkpoints beside one.

    python -m loadtest.members [--size 13m] [--dtype float32] [--items 16] [--rounds 12]

One server process for all, asked in turn within each round with the same fresh texts, so that all
see the same machine; `/score` with its whole answer. A ratio is the median over rounds of a
target's seconds over those of one checkpoint in the same round. Passes where five heads cost at
most 1.1 times one, and K checkpoints at most K times one and 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from assay import wire
from assay.scoring import answers
from assay.scoring.call import Call
from assay.scoring.driver import drive
from assay.scoring.scorer import Scorer
from assay.settings import Settings
from assay.telemetry.metrics import Metrics
from loadtest import checkpoint
from loadtest.texts import Generated

HEADS, CHECKPOINTS = 5, 3
WORDS = (20, 60)  # of the prompt and the response
BATCH_TOKENS = 1024  # given, so that no start looks for it
WEIGHTS = "model.safetensors"
out = Console()


def write(root: Path, size: str) -> list[Path]:
    """Write one checkpoint, the same with five heads, and as many others as an ensemble has."""
    one = root / "one"
    out.print(checkpoint.write(one, size))
    several = Path(shutil.copytree(one, root / "heads"))
    weights = load_file(several / WEIGHTS)
    width = weights["score.weight"].shape[1]
    weights["score.weight"] = 0.1 * torch.randn(HEADS, width, dtype=torch.bfloat16)
    save_file(weights, several / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((several / "config.json").read_text())
    labels = {str(label): f"LABEL_{label}" for label in range(HEADS)}
    config |= {"id2label": labels, "label2id": {name: int(key) for key, name in labels.items()}}
    (several / "config.json").write_text(json.dumps(config))
    names = json.dumps([f"head-{number}" for number in range(HEADS)])
    (several / "card.toml").write_text(
        f'[ensemble]\nof = "outputs"\n\n[score]\noutputs = {names}\n'
    )
    others = [Path(shutil.copytree(one, root / f"other-{n}")) for n in range(1, CHECKPOINTS)]
    for seed, folder in enumerate(others):
        torch.manual_seed(seed)
        weights = load_file(folder / WEIGHTS)
        weights["score.weight"] = 0.1 * torch.randn(1, width, dtype=torch.bfloat16)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return [one, several, *others]


async def seconds(scorer: Scorer, target: str, items: list[wire.Item]) -> float:
    """Return how long a request takes, from its items to the last entry of its answer."""
    begin = time.perf_counter()
    request = wire.ScoreRequest(inputs=items, model=target, include=["members"])
    call = Call(scorer, scorer.target(target), request, "score")
    (await drive(answers.score(call, request, "score-1"))).whole()
    return time.perf_counter() - begin


async def measured(args: argparse.Namespace, folders: list[Path]) -> dict[str, list[float]]:
    """Return the seconds of each target, a number a round."""
    members = ("one", *(f"other-{number}" for number in range(1, CHECKPOINTS)))
    settings = Settings(
        models=tuple(map(str, folders)),
        ensembles={"checkpoints": members},
        dtype=args.dtype,
        prefix_cache_mb=0,
        batch_tokens=BATCH_TOKENS,
        compile="off",
    )
    texts, targets = Generated(7), ("one", "heads", "checkpoints")
    taken: dict[str, list[float]] = {target: [] for target in targets}
    async with Scorer(settings, Metrics()) as scorer:
        await scorer.served.ready()
        for number in range(-2, args.rounds):
            random = texts.random(number + 2)
            pairs = [texts.pair(random, *WORDS) for _ in range(args.items)]
            turn = targets if number % 2 else targets[::-1]
            for target in turn:
                items = [wire.Item(prompt=one.prompt, response=one.response) for one in pairs]
                took = await seconds(scorer, target, items)
                if number >= 0:  # the first two warm up
                    taken[target].append(took)
    return taken


def main() -> None:
    """Measure, and exit with 1 where a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.members", description=__doc__)
    parser.add_argument("--size", default="13m", choices=list(checkpoint.SIZES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        taken = asyncio.run(measured(args, write(Path(root), args.size)))
    bounds = {"one": 1.0, "heads": 1.1, "checkpoints": CHECKPOINTS * 1.05}
    table = Table("target", "median s", "ratio to one", "range", "at most")
    are_kept = True
    for target, times in taken.items():
        ratios = [took / one for took, one in zip(times, taken["one"], strict=True)]
        are_kept &= median(ratios) <= bounds[target]
        span = f"{min(ratios):.3f} to {max(ratios):.3f}"
        numbers = (f"{median(times):.4f}", f"{median(ratios):.3f}", span, f"{bounds[target]:.2f}")
        table.add_row(target, *numbers)
    out.print(table)
    if not are_kept:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
