"""Assay beside a plain server on the same texts, in turn: tokens a second, latency, errors.

    python -m loadtest.run [--checkpoint DIR] [--dtype bfloat16] [--repetitions 5] [--json FILE]

Both servers run throughout and only one is busy. First they score the same pairs, and the largest
difference is shown; then each repetition sends fresh texts, the same to both.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from loadtest import checkpoint, report, server, workload
from loadtest.report import Round
from loadtest.texts import Generated, Recorded

if TYPE_CHECKING:
    from loadtest.server import Server
    from loadtest.texts import Pair
    from loadtest.workload import Name, Reading

FLOAT32_TOLERANCE = 1e-4  # rounding of sums in another order, through every layer
AGREEMENT_ITEMS = 32
out = Console()


def main() -> None:
    """Measure and report; without a checkpoint, on a small one of random weights."""
    arguments = _arguments()
    with checkpoint.given_or_random(arguments.checkpoint) as folder:
        _run(folder, arguments)


def _run(folder: Path, arguments: argparse.Namespace) -> None:
    texts = Recorded(arguments.pairs) if arguments.pairs else Generated(arguments.seed)
    setup = (folder, arguments.dtype, arguments.threads)
    rounds: list[Round] = []
    with server.assay(*setup) as assay, server.plain(*setup) as plain:
        difference = _difference(assay, plain, texts, arguments)
        out.print(f"largest difference of a score: {difference:.3g}", highlight=False)
        if arguments.dtype == "float32" and not difference <= FLOAT32_TOLERANCE:
            raise SystemExit(f"the servers disagree: {difference:.3g} > {FLOAT32_TOLERANCE}")
        for repetition in range(arguments.repetitions):
            for place, name in enumerate(arguments.workload):
                number = 1 + repetition * len(arguments.workload) + place
                pairs = texts.take(number, arguments.items)
                ours, theirs = (
                    _measure(one, name, pairs, arguments.timeout_s) for one in (assay, plain)
                )
                rounds.append(Round(repetition, name, ours, theirs))
                _announce(rounds[-1])
    out.print(report.table(rounds))
    if arguments.json:
        settings = {key: str(value) for key, value in vars(arguments).items()}
        result = {"settings": settings, "difference": difference, "rounds": report.record(rounds)}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def _difference(
    assay: Server, plain: Server, texts: Generated | Recorded, arguments: argparse.Namespace
) -> float:
    """Return the largest difference between the servers' scores, which also warms them up."""
    pairs = texts.take(0, arguments.items)[:AGREEMENT_ITEMS]
    ours, theirs = (
        workload.send(one.name, one.url, "distinct-one", pairs, timeout_s=arguments.timeout_s)
        for one in (assay, plain)
    )
    for reading in (ours, theirs):
        if reading.errors:
            raise SystemExit(f"{reading.server} failed on {len(pairs)} items: {reading.errors}")
    scores = [np.array(reading.scores, dtype=float) for reading in (ours, theirs)]
    return float(np.abs(scores[0] - scores[1]).max())


def _measure(one: Server, name: Name, pairs: list[Pair], timeout_s: float) -> Reading:
    """Send one workload to one server; a server that failed is started anew afterwards."""
    reading = workload.send(one.name, one.url, name, pairs, timeout_s=timeout_s)
    if reading.errors:
        fate = "answered with errors" if one.survives() else "died"
        out.print(f"{one.name} {fate} ({name}): {reading.errors}", highlight=False)
        one.restart()
    return reading


def _announce(done: Round) -> None:
    rates = [done.rate(reading) for reading in (done.assay, done.plain)]
    ours, theirs = ("unknown" if rate is None else f"{rate:,.0f}" for rate in rates)
    ratio = "none" if done.ratio is None else f"{done.ratio:.2f}"
    out.print(
        f"{done.number + 1} {done.workload}: assay {ours} tokens/s, plain {theirs} tokens/s, "
        f"ratio {ratio}",
        highlight=False,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.run", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one, 13m")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each server")
    parser.add_argument("--workload", nargs="+", default=workload.NAMES, choices=workload.NAMES)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--items", type=int, default=256, help="pairs of a workload")
    parser.add_argument("--pairs", type=Path, help="JSONL of real text; default: generated")
    parser.add_argument("--seed", type=int, default=0, help="of generated text")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="of a request")
    parser.add_argument("--json", type=Path, help="file to write every reading to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
