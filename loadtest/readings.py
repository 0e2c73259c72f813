"""What one server made of one load: times, scores, errors, memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loadtest.spread import percentile

if TYPE_CHECKING:
    from loadtest.scrape import Scrape

SHARES = (0.5, 0.95, 0.99)


@dataclass(slots=True)
class Reading:
    """One workload on one server, once. Lists of items have an entry an item, in their order."""

    server: str
    workload: str
    seconds: float = 0.0
    requests: int = 0
    latencies_s: list[float] = field(default_factory=list)  # of answered requests
    scores: list[float | None] = field(default_factory=list)
    tokens: list[int | None] = field(default_factory=list)  # None: nobody counted
    errors: Counter[str] = field(default_factory=Counter)  # requests by kind
    late_s: list[float] = field(default_factory=list)
    client_cpu_s: float = 0.0
    front_cpu_s: float | None = None
    before_bytes: int | None = None
    peak_bytes: int | None = None
    lag_s: dict[float, float] = field(default_factory=dict)  # by share
    shares: dict[str, float] = field(default_factory=dict)  # server seconds by metric
    rate: float | None = None  # requests a second that were offered, in an open loop

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of answered items a second; None where some weren't counted."""
        counts = [
            tokens
            for tokens, score in zip(self.tokens, self.scores, strict=True)
            if score is not None
        ]
        if not counts or None in counts or self.seconds <= 0:
            return None
        return sum(count for count in counts if count is not None) / self.seconds

    @property
    def requests_per_s(self) -> float:
        """Answered requests a second."""
        return len(self.latencies_s) / self.seconds if self.seconds > 0 else 0.0

    @property
    def speed(self) -> float:
        """Answered items a second: what two servers with the same load are compared by."""
        answered = sum(score is not None for score in self.scores)
        return answered / self.seconds if self.seconds > 0 else 0.0

    def latency_s(self, share: float) -> float | None:
        """Return the latency that so large a share of the answered requests doesn't exceed."""
        return percentile(self.latencies_s, share) if self.latencies_s else None

    def note_metrics(self, added: Scrape) -> None:
        """Take what the server's own metrics say of the run."""
        from loadtest.scrape import LOOP_LAG  # noqa: PLC0415

        for share in SHARES:
            lag = added.quantile(LOOP_LAG, share)
            if lag is not None:
                self.lag_s[share] = lag
        for (sample, bound), value in added.series.items():
            if bound is None and sample.startswith("assay_") and not sample.endswith("_created"):
                self.shares[sample] = value

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "server": self.server,
            "workload": self.workload,
            "seconds": self.seconds,
            "requests": self.requests,
            "items": len(self.scores),
            "tokens_per_s": self.tokens_per_s,
            "requests_per_s": self.requests_per_s,
            "offered_per_s": self.rate,
            "latency_ms": {f"p{100 * share:g}": _ms(self.latency_s(share)) for share in SHARES},
            "latencies_ms": [_ms(latency) for latency in self.latencies_s],
            "errors": dict(self.errors),
            "late_ms_p99": _ms(percentile(self.late_s, 0.99)) if self.late_s else None,
            "client_cpu_s": self.client_cpu_s,
            "front_cpu_s": self.front_cpu_s,
            "memory_before_bytes": self.before_bytes,
            "memory_peak_bytes": self.peak_bytes,
            "loop_lag_ms": {f"p{100 * share:g}": _ms(lag) for share, lag in self.lag_s.items()},
            "server_metrics": self.shares,
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)
