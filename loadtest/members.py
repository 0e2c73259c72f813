"""What members cost: five heads on one trunk beside one, and K checkpoints beside one.

    python -m loadtest.members [--size 13m] [--dtype float32] [--items 16] [--rounds 12]

In one process with one thread, in turn within each round with the same fresh ids: a batch through
the trunks and heads, and what the target makes of their numbers, in seconds of the processor, which
other programs move less than the clock. A ratio is the median over rounds of a target's seconds
over those of one checkpoint in the same round. Passes where five heads cost at most 1.1 times one,
and K checkpoints at most K times one and 5 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from assay.engine import model_runner, verification
from assay.prompts import resolution
from assay.scoring import interpretation, targets
from assay.scoring.interpretation import ScoreOptions
from assay.settings import Settings
from assay.worker_protocol import PrefixBatch
from loadtest import checkpoint

HEADS, CHECKPOINTS = 5, 3
TOKENS = 128  # of an item
CPU = torch.device("cpu")
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


class Target:
    """One or several checkpoints in this process, and what their numbers mean."""

    def __init__(self, folders: list[Path], target: targets.Target, dtype: torch.dtype) -> None:
        self._target = target
        self._runners = [
            model_runner.load(folder, model.facts.card_in_ids, device=CPU, dtype=dtype)
            for folder, model in zip(folders, target.members, strict=True)
        ]
        for runner in self._runners:
            verification.verify(runner, compiled=False)

    def seconds(self, sequences: list[np.ndarray]) -> float:
        """Return the processor's seconds for a batch, from its ids to the target's rewards."""
        begin = time.process_time()
        batch = PrefixBatch.unshared(sequences)
        rows = [runner.score(batch) for runner in self._runners]
        sizes = [runner.outputs for runner in self._runners]
        for place in range(len(sequences)):
            numbers = [row[place : place + 1] for row in rows]
            interpretation.interpret(self._target, numbers, sizes, ScoreOptions())
        return time.process_time() - begin


def measured(args: argparse.Namespace, folders: list[Path]) -> dict[str, list[float]]:
    """Return the seconds of each target, a number a round."""
    members = ("one", *(f"other-{number}" for number in range(1, CHECKPOINTS)))
    settings = Settings(models=tuple(map(str, folders)), ensembles={"checkpoints": members})
    resolve_settings = targets.resolve_settings(settings)
    resolved = [resolution.resolve(one, resolve_settings)[0] for one in settings.models]
    served = targets.assemble(settings, resolved)
    one, heads, *others = folders
    dtype = getattr(torch, args.dtype)
    subjects = {
        name: Target(own, served.by_name[name], dtype)
        for name, own in (("one", [one]), ("heads", [heads]), ("checkpoints", [one, *others]))
    }
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(-1, args.rounds):
        random = np.random.default_rng(number + 1)
        sequences = [random.integers(3, 2000, TOKENS).astype(np.int32) for _ in range(args.items)]
        for name in sorted(subjects, reverse=bool(number % 2)):
            took = subjects[name].seconds(sequences)
            if number >= 0:  # the first one warms up
                taken[name].append(took)
    return taken


def main() -> None:
    """Measure, and exit with 1 where a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.members", description=__doc__)
    parser.add_argument("--size", default="13m", choices=list(checkpoint.SIZES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        taken = measured(args, write(Path(root), args.size))
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
