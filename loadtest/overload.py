"""Far more than a server can do, in an open loop: what is served, refused, promised and kept.

Arrivals follow a schedule and wait for nothing. Who is refused comes back once, when told; what
comes of that is counted apart. Every multiple of the capacity meets a server of its own, whose
capacity a saturated closed loop measured right before.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import uvloop
from rich.table import Table

from loadtest.census import Census
from loadtest.connection import Connection, Origin
from loadtest.drive import OK
from loadtest.spread import percentile
from loadtest.workloads import TOKENS_PER_WORD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadtest.texts import Generated

WARM_UP_S = 5.0
RAMP_S = 5.0  # arrivals before the clock starts: the first answers take as long as a batch
CONCURRENCY = 4  # of requests that are a batch each
JITTER_S = 0.1
TIMEOUT_S = 60.0
CAPACITY_SHARE = 0.9
REFUSAL_S = 0.05
BATCH_S = 1.0  # what began in time ends by then
KEPT_SHARE = 0.8
GROWTH_SHARE = 0.1
REFUSED = 503
LATE = 504
# A prefix cache that is full after some seconds: it would look like a leak while it fills.
SETTINGS = {"prefix_cache_mb": 64, "log_level": "warning"}
_PLACE = "########"
_PROMPT_SHARE = 0.2
_SPARE_REQUESTS = 64
_TOKENS = re.compile(rb'"usage":\{"tokens":(\d+)')
HEADS = (
    "load",
    "offered/s",
    "tokens/s",
    "of capacity",
    "served",
    "refused",
    "refusal p50, p99 ms",
    "retries",
    "admitted",
    "longest wait s",
    "late, other",
    "front MB",
    "worker MB",
    "client late p99 ms",
    "client CPU",
)


class Requests:
    """Requests of one size that begin differently: no two share more than the template's head."""

    def __init__(self, texts: Generated, origin: Origin, *, items: int, tokens: int) -> None:
        chance = texts.random(0)
        words = tokens / TOKENS_PER_WORD
        prompt_words = max(1, round(_PROMPT_SHARE * words))
        bodies = []
        for _ in range(_SPARE_REQUESTS):
            pairs = [
                (
                    texts.text(chance, prompt_words),
                    texts.text(chance, max(1, round((1 - _PROMPT_SHARE) * words))),
                )
                for _ in range(items)
            ]
            inputs = [
                {"prompt": f"{_PLACE} {place} {prompt}", "response": response}
                for place, (prompt, response) in enumerate(pairs)
            ]
            bodies.append(json.dumps({"inputs": inputs}).encode())
        self._requests = [origin.post("/score", body, {}) for body in bodies]
        self._numbers = count()

    def __iter__(self) -> Iterator[int]:
        """Return numbers of requests that weren't sent yet."""
        return self._numbers

    def __getitem__(self, number: int) -> bytes:
        """Return the request of a number: the same bytes whenever it is asked for."""
        request = self._requests[number % len(self._requests)]
        return request.replace(_PLACE.encode(), b"%08d" % number)


@dataclass(frozen=True, slots=True)
class Try:
    """How one request ended, by the performance counter."""

    sent: float
    ended: float
    outcome: str  # "served", "refused", "late" or what went wrong
    is_retry: bool
    tokens: int = 0
    retry_after_s: float = 0.0


@dataclass(slots=True)
class Step:
    """One multiple of the capacity."""

    multiple: float
    capacity: float  # tokens/s
    rate: float  # requests/s
    seconds: float
    max_wait_s: float
    begin: float = 0.0
    tries: list[Try] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    due_later: int = 0  # retries that were told to come after the end
    client_cpu_s: float = 0.0
    before: Census | None = None
    after: Census | None = None

    @property
    def tokens_per_s(self) -> float:
        """Tokens of what was answered between beginning and end."""
        end = self.begin + self.seconds
        own = [one.tokens for one in self.tries if self.begin <= one.ended <= end]
        return sum(own) / self.seconds

    @property
    def share(self) -> float:
        """Of the capacity."""
        return self.tokens_per_s / self.capacity

    @property
    def refusals_s(self) -> list[float]:
        """How long each refusal took."""
        return [one.ended - one.sent for one in self.tries if one.outcome == "refused"]

    @property
    def longest_wait_s(self) -> float:
        """From being sent to being served, the last batch included."""
        served = (one.ended - one.sent for one in self.tries if one.outcome == "served")
        return max(served, default=0.0)

    @property
    def retries(self) -> list[Try]:
        """Second tries."""
        return [one for one in self.tries if one.is_retry]

    @property
    def kept_share(self) -> float | None:
        """The share of second tries that were admitted."""
        admitted = sum(one.outcome in {"served", "late"} for one in self.retries)
        return admitted / len(self.retries) if self.retries else None

    @property
    def others(self) -> Counter[str]:
        """What should not be."""
        return Counter(one.outcome for one in self.tries) - Counter(
            {kind: len(self.tries) for kind in ("served", "refused")}
        )

    def misses(self) -> list[str]:
        """Return what was asked for and isn't so."""
        missed = []
        least = min(1.0, self.multiple) * CAPACITY_SHARE
        if self.share < least:
            missed.append(f"{self.share:.1%} of the capacity, asked for {least:.0%}")
        if self.longest_wait_s > self.max_wait_s + BATCH_S:
            missed.append(f"one waited {self.longest_wait_s:.2f} s")
        if self.others:
            missed.append(f"{dict(self.others)}")
        if self.refusals_s and (p99 := percentile(self.refusals_s, 0.99)) > REFUSAL_S:
            missed.append(f"refusals took {1e3 * p99:.0f} ms (p99)")
        if self.kept_share is not None and self.kept_share < KEPT_SHARE:
            missed.append(f"{self.kept_share:.0%} of retries were admitted")
        for what, grown in self._growth().items():
            if grown > GROWTH_SHARE:
                missed.append(f"the {what}'s memory grew by {grown:.0%}")
        return missed

    def cells(self) -> list[str]:
        """Return its row of the table."""
        outcomes = Counter(one.outcome for one in self.tries)
        refusals = (
            [f"{1e3 * percentile(self.refusals_s, one):.1f}" for one in (0.5, 0.99)]
            if (self.refusals_s)
            else ["-"]
        )
        assert self.before is not None
        assert self.after is not None
        return [
            f"{self.multiple:g}×",
            f"{self.rate:.1f}",
            f"{self.tokens_per_s:,.0f}",
            f"{self.share:.1%}",
            f"{outcomes['served']}",
            f"{outcomes['refused']}",
            ", ".join(refusals),
            f"{len(self.retries)} (+ {self.due_later} later)",
            "-" if self.kept_share is None else f"{self.kept_share:.1%}",
            f"{self.longest_wait_s:.2f} of {self.max_wait_s:g}",
            ", ".join(f"{number} × {kind}" for kind, number in self.others.items()) or "0",
            f"{self.before.front_bytes / 1e6:,.0f} to {self.after.front_bytes / 1e6:,.0f}",
            f"{self.before.worker_bytes / 1e6:,.0f} to {self.after.worker_bytes / 1e6:,.0f}",
            f"{1e3 * percentile(self.late_s, 0.99):.1f}",
            f"{self.client_cpu_s / (RAMP_S + self.seconds):.1%}",
        ]

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "multiple": self.multiple,
            "capacity_tokens_per_s": self.capacity,
            "requests_per_s": self.rate,
            "seconds": self.seconds,
            "tokens_per_s": self.tokens_per_s,
            "share": self.share,
            "outcomes": Counter(one.outcome for one in self.tries),
            "outcomes_of_retries": Counter(one.outcome for one in self.retries),
            "retries_due_later": self.due_later,
            "refusals_s": self.refusals_s,
            "retry_after_s": [one.retry_after_s for one in self.tries if one.retry_after_s],
            "waits_s": [one.ended - one.sent for one in self.tries if one.outcome == "served"],
            "late_s": self.late_s,
            "before": self.before and self.before.record(),
            "after": self.after and self.after.record(),
            "misses": self.misses(),
        }

    def _growth(self) -> dict[str, float]:
        assert self.before is not None
        assert self.after is not None
        return {
            "front": self.after.front_bytes / self.before.front_bytes - 1,
            "worker": self.after.worker_bytes / self.before.worker_bytes - 1,
        }


def table(steps: Sequence[Step]) -> Table:
    """Return a row a multiple."""
    drawn = Table(*HEADS, box=None)
    for one in steps:
        drawn.add_row(*one.cells())
    return drawn


def overload(
    url: str,
    pid: int,
    requests: Requests,
    multiple: float,
    *,
    seconds: float,
    capacity_s: float,
    max_wait_s: float,
    seed: int,
) -> Step:
    """Measure a server's capacity, then offer it a multiple of that."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        callers = _Callers(Origin.of(url), requests, random.Random(seed))
        tokens, served = runner.run(callers.capacity(capacity_s))
        step = Step(multiple, tokens, multiple * served, seconds, max_wait_s)
        step.before = Census.of(pid)
        gc.collect()
        runner.run(callers.offer(step))
        step.after = Census.of(pid)
        return step


class _Callers:
    """Everyone who asks the server."""

    def __init__(self, origin: Origin, requests: Requests, chance: random.Random) -> None:
        self._origin = origin
        self._requests = requests
        self._chance = chance
        self._idle: list[Connection] = []
        self._new = iter(requests)

    async def capacity(self, seconds: float) -> tuple[float, float]:
        """Return the tokens and requests a second of a saturated server, after some seconds."""
        begin = time.perf_counter() + WARM_UP_S
        end = begin + seconds
        done: list[Try] = []

        async def ask_in_turn() -> None:
            number = next(self._new)
            while time.perf_counter() < end:
                done.append(one := await self._try(number))
                if one.outcome == "refused":
                    await asyncio.sleep(one.retry_after_s)
                else:
                    number = next(self._new)

        await asyncio.gather(*(ask_in_turn() for _ in range(CONCURRENCY)))
        own = [one for one in done if one.tokens and begin <= one.ended <= end]
        if not own:
            raise SystemExit(f"nothing was served: {Counter(one.outcome for one in done)}")
        return sum(one.tokens for one in own) / seconds, len(own) / seconds

    async def offer(self, step: Step) -> None:
        """Send at a constant rate, and again what is refused, when told."""
        cpu, first = time.process_time(), time.perf_counter()
        step.begin = first + RAMP_S
        async with asyncio.TaskGroup() as tasks:
            for place in range(round(step.rate * (RAMP_S + step.seconds))):
                due = first + place / step.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                step.late_s.append(max(0.0, time.perf_counter() - due))
                tasks.create_task(self._ask(next(self._new), step))
        step.client_cpu_s = time.process_time() - cpu
        for connection in self._idle:
            connection.close()

    async def _ask(self, number: int, step: Step) -> None:
        step.tries.append(first := await self._try(number))
        if first.outcome != "refused":
            return
        wait_s = first.retry_after_s + self._chance.uniform(0, JITTER_S)
        if first.ended + wait_s > step.begin + step.seconds:
            step.due_later += 1
            return
        await asyncio.sleep(wait_s)
        step.tries.append(await self._try(number, is_retry=True))

    async def _try(self, number: int, *, is_retry: bool = False) -> Try:
        request = self._requests[number]
        sent = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                connection = await self._connection()
                sent = time.perf_counter()
                status, body = await connection.send(request)
        except OSError as error:  # TimeoutError is one
            return Try(sent, time.perf_counter(), type(error).__name__, is_retry)
        ended = time.perf_counter()
        told = connection.headers.get(b"retry-after", b"")
        self._idle.append(connection)
        tokens = _TOKENS.search(body)
        if status == OK and tokens is not None:
            return Try(sent, ended, "served", is_retry, int(tokens[1]))
        if status == REFUSED and told.isdigit():
            return Try(sent, ended, "refused", is_retry, retry_after_s=float(told))
        return Try(sent, ended, "late" if status == LATE else f"HTTP {status}", is_retry)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return await Connection.open(self._origin)
