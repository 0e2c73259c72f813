"""Readings as numbers to compare: a table for people, JSON for files."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.workload import Name, Reading


@dataclass(frozen=True, slots=True)
class Round:
    """The same texts on both servers, one after the other."""

    number: int
    workload: Name
    assay: Reading
    plain: Reading

    @property
    def ratio(self) -> float | None:
        """Assay's rate over the plain server's; None where either answered nothing."""
        ours, theirs = self.rate(self.assay), self.rate(self.plain)
        return ours / theirs if ours and theirs else None

    def rate(self, reading: Reading) -> float | None:
        """Return tokens a second of the answered items; None where Assay didn't count them all."""
        counted = zip(reading.scores, self.assay.tokens, strict=True)
        tokens = [count for score, count in counted if score is not None]
        return sum(tokens) / reading.seconds if all(tokens) else None


def table(rounds: Sequence[Round]) -> Table:
    """Return one row a workload and server."""
    heads = ("workload", "server", "tokens/s", "p50 ms", "p95 ms", "errors", "assay / plain")
    drawn = Table(*heads, box=None)
    for workload in dict.fromkeys(one.workload for one in rounds):
        own = [one for one in rounds if one.workload == workload]
        for server in ("assay", "plain"):
            summary = _summary(own, server)
            ratio = _ratios(own) if server == "assay" else ""
            drawn.add_row(workload, server, *summary, ratio)
    return drawn


def record(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Return every reading, for JSON."""
    return [
        {
            "repetition": one.number,
            "workload": one.workload,
            "server": reading.server,
            "seconds": reading.seconds,
            "items": len(reading.scores),
            "answered": reading.answered,
            "tokens_per_s": one.rate(reading),
            "latencies_ms": [round(1e3 * latency, 3) for latency in reading.latencies_s],
            "errors": reading.errors,
            "ratio": one.ratio,
        }
        for one in rounds
        for reading in (one.assay, one.plain)
    ]


def _summary(rounds: Sequence[Round], server: str) -> tuple[str, str, str, str]:
    """Return the median rate, the latencies of all requests and the errors."""
    readings = [one.assay if server == "assay" else one.plain for one in rounds]
    rates = [one.rate(reading) for one, reading in zip(rounds, readings, strict=True)]
    known = [rate for rate in rates if rate is not None]
    latencies = [latency for reading in readings for latency in reading.latencies_s]
    p50, p95 = 1e3 * np.quantile(latencies, (0.5, 0.95)) if latencies else (np.nan, np.nan)
    errors: dict[str, int] = {}
    for reading in readings:
        for cause, count in reading.errors.items():
            errors[cause] = errors.get(cause, 0) + count
    named = ", ".join(f"{count} × {cause}" for cause, count in errors.items())
    rate = f"{median(known):,.0f}" if known else "unknown"
    return rate, f"{p50:,.0f}", f"{p95:,.0f}", named or "0"


def _ratios(rounds: Sequence[Round]) -> str:
    ratios = [one.ratio for one in rounds if one.ratio is not None]
    if not ratios:
        return "none"
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
