"""How long one short item waits that comes while a `fat` request is being computed."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop

from loadtest.connection import Connection, Origin
from loadtest.drive import OK
from loadtest.spread import Spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.pair import Source
    from loadtest.subjects import Http

FIRST_AFTER_S = 1.0  # by then the fat request is tokenized and its batches run
PAUSE_S = 0.25
LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Intrusion:
    """What the short items met."""

    latencies_s: list[float]  # while the fat request ran
    queue_s: list[float]  # as Assay says in each answer
    idle_s: list[float]  # the same kind of item on an idle server
    fat_s: float
    batches: float | None  # of the fat request and the short items, by Assay's metrics

    @property
    def batch_s(self) -> float | None:
        """The mean time of a batch: the device is never idle meanwhile."""
        return self.fat_s / self.batches if self.batches else None

    @property
    def batches_waited(self) -> float | None:
        """How many mean batches the median short item waited beyond its time on an idle server."""
        if self.batch_s is None:
            return None
        return (Spread.of(self.latencies_s).median - Spread.of(self.idle_s).median) / self.batch_s

    def lines(self) -> list[str]:
        """Return the result for people."""
        during = Spread.of(self.latencies_s)
        told = [
            f"{during.count} short items during a fat request of {self.fat_s:.1f} s",
            _told("latency ms", self.latencies_s),
            _told("queue ms, by the answers", self.queue_s),
            _told("latency ms on the idle server", self.idle_s),
        ]
        if self.batch_s is not None and self.batches_waited is not None:
            largest = (during.greatest - Spread.of(self.idle_s).median) / self.batch_s
            told.append(
                f"mean batch {1e3 * self.batch_s:,.1f} ms; waited {self.batches_waited:.2f} "
                f"batches (median), {largest:.2f} (largest)"
            )
        return told

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "latencies_s": self.latencies_s,
            "queue_s": self.queue_s,
            "idle_s": self.idle_s,
            "fat_s": self.fat_s,
            "batches": self.batches,
            "batches_waited": self.batches_waited,
        }


def intrude(assay: Http, source: Source) -> Intrusion:
    """Send short items one at a time while a fat request runs, and before it for comparison."""
    origin = Origin.of(assay.url)
    (fat,) = source.load("fat").requests
    shorts = [assay.request(origin, request) for request in source.load("short").requests]
    idle, shorts = shorts[:16], shorts[16:]
    before = assay.scrape()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        idle_s, latencies_s, queue_s, fat_s = runner.run(
            _intrude(origin, assay.request(origin, fat), shorts, idle)
        )
    after = assay.scrape()
    batches = None
    if before is not None and after is not None:
        counted = after.since(before).total("assay_batch_items_count")
        batches = counted - len(idle) if counted is not None else None
    return Intrusion(latencies_s, queue_s, idle_s[1:], fat_s, batches)


async def _intrude(
    origin: Origin, fat: bytes, shorts: Sequence[bytes], idle: Sequence[bytes]
) -> tuple[list[float], list[float], list[float], float]:
    kept, other = await Connection.open(origin), await Connection.open(origin)
    idle_s = [(await _timed(kept, request))[0] for request in idle]
    running = asyncio.create_task(_timed(other, fat))
    await asyncio.sleep(FIRST_AFTER_S)
    latencies_s, queue_s = [], []
    for request in shorts:
        latency_s, body = await _timed(kept, request)
        if running.done():  # this one may have met an idle server
            break
        latencies_s.append(latency_s)
        queue_s.append(1e-3 * json.loads(body)["timing_ms"]["queue"])
        await asyncio.sleep(PAUSE_S)
    fat_s, _ = await running
    kept.close()
    other.close()
    if not latencies_s:
        raise SystemExit("the fat request ended before a short item was answered: raise --scale")
    return idle_s, latencies_s, queue_s, fat_s


def _told(what: str, seconds: Sequence[float]) -> str:
    spread = Spread.of(seconds)
    return f"{what}: median {1e3 * spread.median:,.1f}, largest {1e3 * spread.greatest:,.1f}"


async def _timed(connection: Connection, request: bytes) -> tuple[float, bytes]:
    begin = time.perf_counter()
    async with asyncio.timeout(LONGEST_S):
        status, body = await connection.send(request)
    if status != OK:
        raise SystemExit(f"the server answered {status}: {body.decode()[:500]}")
    return time.perf_counter() - begin, body
