"""How long the parts of a request's way took: for its answer, the metrics and its spans alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """When a request went on, by the monotonic clock, and seconds of wall time.

    A request is rendered in parts: some of its items may be computed while others are tokenized.
    """

    admitted: float
    queued: float  # its first items
    tokenized: float  # its last
    began: float  # its first batch; infinity where it had none
    ended: float
    tokenize_s: float = 0.0
    compute_s: float = 0.0  # of the batches that carried its items

    @property
    def total_s(self) -> float:
        """From the door to the last item's answer."""
        return self.ended - self.admitted

    @property
    def queue_s(self) -> float:
        """Seconds in which it was neither tokenized nor computed."""
        return max(0.0, self.total_s - self.tokenize_s - self.compute_s)
