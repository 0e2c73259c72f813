"""Running sums over scored items, from which a scrape has means, spreads and correlations.

Each is a counter, so that they follow over any window, and over any set of servers together. A
counter never falls: of scores and of products the positive and the negative part have one each.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import CollectorRegistry

MOMENTS = (
    "items",
    "length",
    "length_squared",
    "score_positive",
    "score_negative",
    "score_squared",
    "product_positive",
    "product_negative",
)
_TEXT = "Sums over scored items of their lengths, raw scores, squares and products."


class LengthMoments:
    """The sums of each model and kind of length. Threads may add at once."""

    name = "assay_score_moments"
    labels = ("model", "length", "moment")

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = Lock()
        self._sums: dict[tuple[str, str], list[float]] = {}
        registry.register(self)

    def add(self, model: str, length: str, pairs: Iterable[tuple[float, float]]) -> None:
        """Add items, each as its (length, score)."""
        with self._lock:
            sums = self._sums.setdefault((model, length), [0.0] * len(MOMENTS))
            for size, score in pairs:
                sums[0] += 1
                sums[1] += size
                sums[2] += size * size
                if score > 0:
                    sums[3] += score
                    sums[6] += size * score
                else:
                    sums[4] -= score
                    sums[7] -= size * score
                sums[5] += score * score

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Yield the metric without its values."""
        yield CounterMetricFamily(self.name, _TEXT, labels=self.labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the metric with its values of now."""
        family = CounterMetricFamily(self.name, _TEXT, labels=self.labels)
        with self._lock:
            for (model, length), sums in self._sums.items():
                for moment, value in zip(MOMENTS, sums, strict=True):
                    family.add_metric([model, length, moment], value)
        yield family
