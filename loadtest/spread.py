"""Numbers of several repetitions as a median with its spread."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, the quartiles and the range of some numbers."""

    median: float
    lower: float
    upper: float
    least: float
    greatest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one number."""
        lower, _, upper = (
            quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        )
        return cls(median(values), lower, upper, min(values), max(values), len(values))

    def record(self) -> dict[str, float]:
        """Return it for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.least:.2f} to {self.greatest:.2f})"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that so large a share of them doesn't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]
