"""Three named targets in one request, beside a request to each: what that spares.

    python -m loadtest.targets [--count 9] [--threads 2]

The starter's three members, and targets that share them. In turn, with fresh texts of the same
lengths each time: one request with `targets`; a request to each, one after the other; three at
once. Ratios are within a repetition. Passes where one request takes at most as long as the three,
one after the other, in the median.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from loadtest import server
from loadtest.idle import Connection
from loadtest.texts import Generated, Pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.server import Server

MEMBERS = [f"starter/member-{number}" for number in (1, 2, 3)]
TWO = "two"
PROMPT_WORDS, RESPONSE_WORDS = 40, 12
ONE, AFTER, AT_ONCE = "one request", "three, one after the other", "three at once"
out = Console(width=200)


@dataclass(slots=True)
class Series:
    """What is asked of whom, and what each way took."""

    name: str
    targets: list[str]
    prompts: int
    responses: int
    taken_ms: dict[str, list[float]] = field(default_factory=dict)
    processor_ms: dict[str, list[float]] = field(default_factory=dict)  # of all the server's
    tokenize_ms: dict[str, list[float]] = field(default_factory=dict)
    computed: dict[str, list[int]] = field(default_factory=dict)

    def note(
        self, way: str, taken_ms: float, processor_ms: float, answers: Sequence[dict[str, Any]]
    ) -> None:
        """Note a way's time, and what its answers say of theirs."""
        tokenize_ms = sum(answer["timing_ms"]["tokenize"] for answer in answers)
        computed = sum(answer["usage"]["computed_tokens"] for answer in answers)
        self.taken_ms.setdefault(way, []).append(taken_ms)
        self.processor_ms.setdefault(way, []).append(processor_ms)
        self.tokenize_ms.setdefault(way, []).append(tokenize_ms)
        self.computed.setdefault(way, []).append(computed)

    def ratios(self, way: str) -> str:
        """Return the times of one request over those of a way, by repetition: median and range."""
        both = [
            np.array(taken[ONE]) / np.array(taken[way])
            for taken in (self.taken_ms, self.processor_ms)
        ]
        return "; ".join(f"{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f})" for r in both)


def main() -> None:
    """Measure and report."""
    arguments = _arguments()
    all_series = [
        Series("4 prompts × 8 responses, three models", MEMBERS, 4, 8),
        Series("24 pairs with nothing in common, three models", MEMBERS, 24, 1),
        Series("one pair, three models", MEMBERS, 1, 1),
        Series("4 prompts × 8 responses, targets share models", ["starter", TWO, MEMBERS[2]], 4, 8),
    ]
    ensembles = json.dumps({TWO: MEMBERS[:2]})
    assay = server.assay_of([Path("starter")], threads=arguments.threads, ensembles=ensembles)
    with assay:
        connections = [Connection(assay.url) for _ in MEMBERS]
        texts = Generated(int(time.time()))
        number = 0
        for repetition in range(-1, arguments.count):
            for series in all_series:
                for way in (ONE, AFTER, AT_ONCE):
                    number += 1
                    pairs = _pairs(texts, number, series)
                    before = _processor_ms(assay)
                    taken_ms, answers = _ask(connections, series.targets, way, pairs)
                    processor_ms = _processor_ms(assay) - before
                    if repetition >= 0:  # else warm-up
                        series.note(way, taken_ms, processor_ms, answers)
    out.print(_table(all_series))
    for series in all_series:
        one, after = (float(np.median(series.taken_ms[way])) for way in (ONE, AFTER))
        out.print(f"{series.name}: {'pass' if one <= after else 'fail'}", highlight=False)


def _pairs(texts: Generated, number: int, series: Series) -> list[Pair]:
    """Return fresh pairs; the starter takes 2,048 tokens, which arena-bench's lengths exceed."""
    random = texts.random(number)
    prompts = [texts.text(random, PROMPT_WORDS) for _ in range(series.prompts)]
    return [
        Pair(prompt, texts.text(random, RESPONSE_WORDS))
        for prompt in prompts
        for _ in range(series.responses)
    ]


def _ask(
    connections: Sequence[Connection], targets: Sequence[str], way: str, pairs: Sequence[Pair]
) -> tuple[float, list[dict[str, Any]]]:
    """Return the milliseconds until all is answered, and the answers."""
    inputs = [asdict(pair) for pair in pairs]
    asked = [{"targets": targets}] if way == ONE else [{"model": target} for target in targets]
    bodies = [json.dumps({"inputs": inputs, **options}).encode() for options in asked]
    answers: dict[int, bytes] = {}

    def post(place: int) -> None:
        answers[place] = connections[place].post("/score", bodies[place])

    threads = [threading.Thread(target=post, args=(place,)) for place in range(len(bodies))]
    begin = time.perf_counter()
    if way == AT_ONCE:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        for place in range(len(bodies)):
            post(place)
    taken_ms = 1e3 * (time.perf_counter() - begin)
    return taken_ms, [json.loads(answers[place]) for place in range(len(bodies))]


def _processor_ms(assay: Server) -> float:
    """Return the milliseconds of processors that a server has used, all of its processes."""
    front = psutil.Process(assay.pid)
    used = [process.cpu_times() for process in (front, *front.children(recursive=True))]
    return 1e3 * sum(times.user + times.system for times in used)


def _table(all_series: Sequence[Series]) -> Table:
    head = ("workload", "way", "ms", "CPU ms", "tokenize ms", "tokens", "one / way: ms; CPU ms")
    drawn = Table(*head, box=None)
    for series in all_series:
        for way in series.taken_ms:
            drawn.add_row(
                series.name,
                way,
                f"{np.median(series.taken_ms[way]):.1f}",
                f"{np.median(series.processor_ms[way]):.0f}",
                f"{np.median(series.tokenize_ms[way]):.2f}",
                f"{np.median(series.computed[way]):.0f}",
                series.ratios(way),
            )
    return drawn


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.targets", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--count", type=int, default=9, help="repetitions")
    return parser.parse_args()


if __name__ == "__main__":
    main()
