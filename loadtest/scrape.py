"""What Assay's own metrics say of a run: the difference between two scrapes of /metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOP_LAG = "assay_loop_lag_seconds"
Series = dict[tuple[str, float | None], float]  # (sample, upper bound of a bucket), over labels


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of one moment, summed over their labels."""

    series: Series

    @classmethod
    def of(cls, text: str) -> Scrape:
        """Return what a page of the Prometheus text format says."""
        series: Series = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                bound = float(sample.labels["le"]) if "le" in sample.labels else None
                key = (sample.name, bound)
                series[key] = series.get(key, 0.0) + sample.value
        return cls(series)

    def since(self, before: Scrape) -> Scrape:
        """Return what was added after another scrape."""
        return Scrape({key: now - before.series.get(key, 0.0) for key, now in self.series.items()})

    def total(self, sample: str) -> float | None:
        """Return a sample's value; None where the server has no such metric."""
        return self.series.get((sample, None))

    def quantile(self, histogram: str, share: float) -> float | None:
        """Return the upper bound of the bucket that holds a share of what was observed."""
        name = f"{histogram}_bucket"
        buckets = sorted(
            (bound, count)
            for (sample, bound), count in self.series.items()
            if sample == name and bound is not None
        )
        if not buckets or buckets[-1][1] <= 0:
            return None
        wanted = share * buckets[-1][1]
        return next((bound for bound, count in buckets if count >= wanted), math.inf)


def scrape(url: str, headers: Mapping[str, str]) -> Scrape | None:
    """Return a server's metrics, or None where it has none that can be read."""
    try:
        answer = httpx.get(f"{url}/metrics", headers=dict(headers), timeout=10, trust_env=False)
        return Scrape.of(answer.text) if answer.is_success else None
    except (httpx.TransportError, ValueError):
        return None
