"""A start beside other work: what warm-up reads then must neither refuse anybody nor slow for good.

The same server is started quietly, while processes burn every core until it is ready, and quietly
again: machines drift. Then a closed loop of ordinary requests runs, and what is served late in it
is compared.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

import httpx
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadtest.server import Server
    from loadtest.texts import Generated

REQUESTS_AT_ONCE = 128
ITEMS = 2  # of a request
WORDS = 150  # of an item
SETTLED_S = 30.0  # what is served after that is compared
AS_FAST = 0.95
_BURN = "while True: pass"


@dataclass(frozen=True, slots=True)
class Start:
    """One start, and what was served after it."""

    name: str
    warm_up: str  # what the server says of it
    statuses: dict[str, int]
    tokens_per_s: float  # once it has settled
    batch_tokens: int | None  # at the end

    def record(self) -> dict[str, Any]:
        """Return it for a file."""
        return {name: getattr(self, name) for name in self.__slots__}


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Burn so many cores."""
    burning = [subprocess.Popen([sys.executable, "-c", _BURN]) for _ in range(count)]
    try:
        yield
    finally:
        for one in burning:
            one.kill()
            one.wait()


def measure(name: str, server: Server, texts: Generated, *, cores: int, seconds: float) -> Start:
    """Start a server beside so many busy neighbours, then drive it alone."""
    with neighbours(cores):
        server.start()
    try:
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            statuses, rate = asyncio.run(_drive(server.url, _bodies(texts), seconds))
            model = http.get("/models").json()["data"][0]
        said = [line for line in server.output().splitlines() if "tokens/s" in line]
    finally:
        server.stop()
    return Start(name, said[-1] if said else "", statuses, rate, model.get("batch_tokens"))


def misses(busy: Start, quiet: Sequence[Start]) -> list[str]:
    """Return what isn't as it should be."""
    found = [
        f"{one.name}: {count} requests ended with {status}"
        for one in (busy, *quiet)
        for status, count in one.statuses.items()
        if status != "200"
    ]
    part = busy.tokens_per_s / mean(one.tokens_per_s for one in quiet)
    if part < AS_FAST:
        found.append(f"{busy.name}: {part:.0%} of the throughput of quiet starts")
    return found


def table(starts: Sequence[Start]) -> Table:
    """Return the starts side by side."""
    shown = Table("start", "tokens/s after it settled", "batch tokens", "statuses", "warm-up")
    for one in starts:
        rate, batch = f"{one.tokens_per_s:,.0f}", str(one.batch_tokens)
        shown.add_row(one.name, rate, batch, json.dumps(one.statuses), one.warm_up[-120:])
    return shown


def _bodies(texts: Generated) -> Iterator[bytes]:
    """Yield requests that share nothing."""
    chance = texts.random(0)
    while True:
        inputs = [
            {"prompt": texts.text(chance, WORDS // 5), "response": texts.text(chance, WORDS)}
            for _ in range(ITEMS)
        ]
        yield json.dumps({"inputs": inputs}).encode()


async def _drive(url: str, bodies: Iterator[bytes], seconds: float) -> tuple[dict[str, int], float]:
    """Ask in a closed loop; return the statuses, and the tokens a second after it settled."""
    statuses: Counter[str] = Counter()
    begin, settled_tokens = time.monotonic(), 0
    limits = httpx.Limits(max_connections=REQUESTS_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=600, trust_env=False) as http:

        async def ask() -> None:
            nonlocal settled_tokens
            while time.monotonic() < begin + seconds:
                answer = await http.post("/score", content=next(bodies))
                statuses[str(answer.status_code)] += 1
                passed_s = time.monotonic() - begin
                if answer.is_success and SETTLED_S <= passed_s < seconds:
                    settled_tokens += answer.json()["usage"]["tokens"]

        await asyncio.gather(*(ask() for _ in range(REQUESTS_AT_ONCE)))
    return dict(statuses), settled_tokens / (seconds - SETTLED_S)
