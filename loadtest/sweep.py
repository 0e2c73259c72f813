"""Throughput against concurrency, and latency against offered load, of one or more subjects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadtest import pair
from loadtest.readings import SHARES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.pair import Source
    from loadtest.readings import Reading
    from loadtest.subjects import Subject
    from loadtest.workloads import Load

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128)
CAPACITY_SHARES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Point:
    """One reading at one setting: a concurrency, or a rate in requests a second."""

    x: float
    reading: Reading


@dataclass(frozen=True, slots=True)
class Curve:
    """One subject's points."""

    server: str
    closed: Sequence[Point]
    open: Sequence[Point]

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "server": self.server,
            "throughput": [
                {
                    "concurrency": point.x,
                    "tokens_per_s": point.reading.tokens_per_s,
                    "requests_per_s": point.reading.requests_per_s,
                    "errors": dict(point.reading.errors),
                }
                for point in self.closed
            ],
            "latency": [
                {
                    "offered_per_s": point.x,
                    "latency_ms": {
                        f"p{100 * share:g}": _ms(point.reading.latency_s(share)) for share in SHARES
                    },
                    "errors": dict(point.reading.errors),
                }
                for point in self.open
            ],
        }


def sweep(
    subject: Subject, workload: str, source: Source, announce: Callable[[str], None]
) -> Curve:
    """Measure one subject; at low concurrency only part of the load is sent, to end in time."""
    subject.measure(pair.warm_up(source.load(workload)))
    closed = []
    for concurrency in CONCURRENCIES:
        load = first(source.load(workload), 16 * concurrency).at_concurrency(concurrency)
        closed.append(Point(concurrency, subject.measure(load)))
        announce(f"{subject.name} at concurrency {concurrency}: {_rate(closed[-1].reading)}")
    highest = max(point.reading.requests_per_s for point in closed)
    opened = []
    for share in CAPACITY_SHARES:
        rate = share * highest
        opened.append(Point(rate, subject.measure(source.load(workload).at_rate(rate))))
        p99 = opened[-1].reading.latency_s(0.99)
        told = "nothing answered" if p99 is None else f"p99 {1e3 * p99:,.0f} ms"
        announce(f"{subject.name} at {rate:,.1f} requests/s: {told}")
    return Curve(subject.name, closed, opened)


def first(load: Load, count: int) -> Load:
    """Return the first requests of a load, each of one item."""
    requests = [[item] for item in load.items[:count]]
    return type(load)(load.workload, [requests], load.arrival)


def _rate(reading: Reading) -> str:
    tokens = reading.tokens_per_s
    if tokens is None:
        return f"{reading.requests_per_s:,.1f} requests/s"
    return f"{tokens:,.0f} tokens/s"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds
