"""What HTTP adds to one item on an idle server, beside the bare forward pass of the same ids.

    python -m loadtest.idle [--checkpoint DIR] [--dtype float32] [--count 200]

In blocks of 20, in turn, so that all see the same machine: Assay over a kept-alive connection,
transformers' eager forward pass, and Assay's own trunk, the last two in this process while the
server is idle. Every item is a fresh text. Passes where the median over HTTP is at most 1.3 times
the bare median plus 5 ms.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification

from assay.engine import model_runner, verification
from assay.worker_protocol import PrefixBatch
from loadtest import checkpoint, server
from loadtest.texts import Generated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.server import Server
    from loadtest.texts import Pair

BLOCK = 20
PAUSE_S = 0.2  # until the threads of the last block sleep
SHORT_WORDS = (6, 6)  # of the prompt and the response
LONG_WORDS, LONG_TOKENS = (60, 180), 300
FACTOR, ALLOWED_MS = 1.3, 5.0
BARE = ("eager", "trunk")
out = Console()


@dataclass(slots=True)
class Series:
    """One length of item: what is sent, and the milliseconds each way of scoring it took."""

    name: str
    bodies: list[bytes]
    ids: list[np.ndarray]
    taken_ms: dict[str, list[float]] = field(default_factory=dict)

    def median(self, way: str) -> float:
        """Return the median of a way's milliseconds."""
        return float(np.median(self.taken_ms[way]))

    def excess(self, bare: str) -> float:
        """Return the milliseconds of HTTP beyond `FACTOR` times the bare forward pass."""
        return self.median("http") - FACTOR * self.median(bare)


class Connection:
    """One kept-alive connection; the standard library's, for it adds least of its own."""

    def __init__(self, url: str) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)

    def post(self, path: str, body: bytes) -> bytes:
        """Return the body of the answer."""
        self._http.request("POST", path, body, {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            raise SystemExit(f"{path} answered {answer.status}: {content.decode()}")
        return content


def main() -> None:
    """Measure and report."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with checkpoint.given_or_random(arguments.checkpoint) as folder:
        eager, own = _bare(folder, getattr(torch, arguments.dtype))
        with server.assay(folder, arguments.dtype, arguments.threads) as assay:
            all_series = _measure(assay, eager, own, arguments.count)
    out.print(_table(all_series))
    for series in all_series:
        for bare in BARE:
            excess = series.excess(bare)
            verdict = "pass" if excess <= ALLOWED_MS else "fail"
            out.print(
                f"{series.name}: HTTP − {FACTOR} × {bare} = {excess:+.2f} ms "
                f"(allowed {ALLOWED_MS:+.0f} ms): {verdict}",
                highlight=False,
            )


def _bare(
    folder: Path, dtype: torch.dtype
) -> tuple[Callable[[np.ndarray], object], Callable[[np.ndarray], object]]:
    """Return transformers' eager forward pass and Assay's, of one sequence of ids."""
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")  # as Assay chooses
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )
    model.eval().to(device)
    own = model_runner.load(folder, device=device, dtype=dtype)
    verification.verify(own)

    @torch.inference_mode()
    def eager(ids: np.ndarray) -> float:
        score: float = model(input_ids=torch.from_numpy(ids)[None].to(device)).logits[0, 0].item()
        return score

    return eager, lambda ids: own.score(PrefixBatch.unshared([ids]))


def _measure(
    assay: Server,
    eager: Callable[[np.ndarray], object],
    own: Callable[[np.ndarray], object],
    count: int,
) -> list[Series]:
    connection = Connection(assay.url)
    all_series = _prepare(connection, count + BLOCK)
    for series in all_series:
        for start in range(0, count + BLOCK, BLOCK):
            bodies, ids = series.bodies[start : start + BLOCK], series.ids[start : start + BLOCK]
            taken = {
                "http": _time(partial(connection.post, "/score"), bodies),
                "eager": _time(eager, ids),
                "trunk": _time(own, ids),
            }
            if start == 0:  # warm-up
                continue
            for way, milliseconds in taken.items():
                series.taken_ms.setdefault(way, []).extend(milliseconds)
    return all_series


def _time(call: Callable[[Any], object], items: Sequence[Any]) -> list[float]:
    """Return the milliseconds of each call, one after the other."""
    time.sleep(PAUSE_S)
    taken = []
    for item in items:
        begin = time.perf_counter()
        call(item)
        taken.append(1e3 * (time.perf_counter() - begin))
    return taken


def _prepare(connection: Connection, count: int) -> list[Series]:
    """Return the short items, and long ones of about `LONG_TOKENS` by the model's tokenizer."""
    texts, random = Generated(0), np.random.default_rng(0)
    prompt, response = LONG_WORDS
    probes = _ids(connection, [texts.pair(random, prompt, response) for _ in range(BLOCK)])
    per_word = np.mean([len(ids) for ids in probes]) / (prompt + response)
    response = max(1, round(LONG_TOKENS / per_word) - prompt)
    all_series = []
    for name, words in (("short", SHORT_WORDS), ("long", (prompt, response))):
        pairs = [texts.pair(random, *words) for _ in range(count)]
        bodies = [json.dumps({"inputs": [asdict(pair)]}).encode() for pair in pairs]
        all_series.append(Series(name, bodies, _ids(connection, pairs)))
    return all_series


def _ids(connection: Connection, pairs: Sequence[Pair]) -> list[np.ndarray]:
    """Return what the model reads of each pair."""
    body = json.dumps({"inputs": [asdict(pair) for pair in pairs]}).encode()
    data = json.loads(connection.post("/tokenize", body))["data"]
    return [np.array(entry["input_ids"], dtype=np.int64) for entry in data]


def _table(all_series: Sequence[Series]) -> Table:
    drawn = Table("item", "tokens", "way", "median ms", "p95 ms", box=None)
    for series in all_series:
        tokens = f"{np.median([len(ids) for ids in series.ids]):.0f}"
        for way, taken in series.taken_ms.items():
            p95 = np.quantile(taken, 0.95)
            drawn.add_row(series.name, tokens, way, f"{series.median(way):.2f}", f"{p95:.2f}")
    return drawn


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.idle", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one, 13m")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--count", type=int, default=200, help="items of each length")
    return parser.parse_args()


if __name__ == "__main__":
    main()
