"""Rounds as numbers to compare: lines and a table for people, JSON for files."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table

from loadtest.readings import SHARES
from loadtest.spread import Spread, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from loadtest.pair import Round
    from loadtest.readings import Reading

HEADS = (
    "workload",
    "server",
    "tokens/s",
    "requests/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "errors",
    "lag p99 ms",
    "front CPU",
    "client CPU",
    "peak MB",
    "speed ratio",
    "latency ratio p50, p99",
)
_PACKAGES = ("torch", "transformers", "tokenizers", "httptools", "uvloop")


def table(rounds: Sequence[Round]) -> Table:
    """Return one row a workload and server: medians over repetitions, ratios with their range."""
    drawn = Table(*HEADS, box=None)
    for own in by_workload(rounds).values():
        for place, reading in enumerate(own[0].readings):
            readings = [one.readings[place] for one in own]
            compared = _ratios(own) if place == 0 else ("", "")
            drawn.add_row(reading.workload, reading.server, *_cells(readings), *compared)
    return drawn


def line(done: Round) -> str:
    """Return one round in a line."""
    told = [
        f"{one.server} {_number(one.tokens_per_s)} tokens/s, {one.seconds:.2f} s"
        + (f", errors {dict(one.errors)}" if one.errors else "")
        for one in done.readings
    ]
    if done.ratio is not None:
        told.append(f"ratio {done.ratio:.2f}")
    return f"{done.repetition + 1} {done.workload}: {'; '.join(told)}"


def record(rounds: Sequence[Round], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything, for JSON."""
    return {
        "settings": settings,
        "machine": machine(),
        "workloads": {
            name: {
                "speed_ratio": _spread(one.ratio for one in own),
                "latency_ratio": {
                    f"p{100 * share:g}": _spread(one.latency_ratio(share) for one in own)
                    for share in SHARES
                },
                "largest_score_difference": max(
                    (gap for one in own if (gap := one.difference) is not None), default=None
                ),
                "rounds": [
                    {
                        "repetition": one.repetition,
                        "ratio": one.ratio,
                        "readings": [reading.record() for reading in one.readings],
                    }
                    for one in own
                ],
            }
            for name, own in by_workload(rounds).items()
        },
    }


def write(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file."""
    file.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def by_workload(rounds: Sequence[Round]) -> dict[str, list[Round]]:
    """Return the rounds of each workload, in order."""
    grouped: dict[str, list[Round]] = {}
    for one in rounds:
        grouped.setdefault(one.workload, []).append(one)
    return grouped


def _cells(readings: Sequence[Reading]) -> list[str]:
    """Return a row's numbers; latencies are of all requests of all repetitions."""
    latencies = [latency for reading in readings for latency in reading.latencies_s]
    errors: Counter[str] = Counter()
    for reading in readings:
        errors += reading.errors
    lags = [reading.lag_s[0.99] for reading in readings if 0.99 in reading.lag_s]
    return [
        _median([reading.tokens_per_s for reading in readings], "{:,.0f}"),
        _median([reading.requests_per_s for reading in readings], "{:,.1f}"),
        *(f"{1e3 * percentile(latencies, share):,.0f}" if latencies else "-" for share in SHARES),
        ", ".join(f"{count} × {kind}" for kind, count in errors.items()) or "0",
        f"≤ {1e3 * max(lags):,.0f}" if lags else "-",
        _median([_share(one.front_cpu_s, one.seconds) for one in readings], "{:.1%}"),
        _median([_share(one.client_cpu_s, one.seconds) for one in readings], "{:.1%}"),
        _median([_megabytes(reading.peak_bytes) for reading in readings], "{:,.0f}"),
    ]


def _ratios(rounds: Sequence[Round]) -> tuple[str, str]:
    speed = _spread_of(one.ratio for one in rounds)
    latency = [_spread_of(one.latency_ratio(share) for one in rounds) for share in (0.5, 0.99)]
    if speed is None:
        return "", ""
    return str(speed), ", ".join("-" if one is None else f"{one.median:.2f}" for one in latency)


def _spread(values: Iterable[float | None]) -> dict[str, float] | None:
    spread = _spread_of(values)
    return spread.record() if spread is not None else None


def _spread_of(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


def _median(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(median(known)) if known else "-"


def _share(part: float | None, whole: float) -> float | None:
    return part / whole if part is not None and whole > 0 else None


def _megabytes(size: int | None) -> float | None:
    return size / 1e6 if size is not None else None


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123  not a path of ours
            named = (line for line in lines if line.startswith("model name"))
            return next(named, "unknown").partition(":")[2].strip()
    except OSError:
        return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
