"""How fast a device is: by its warm-up, then by the batches that had as much as they may.

A batch of one short item takes nearly as long as a full one: what it says of tokens a second is
true of an idle device, and none that much waits for is idle.
"""

from __future__ import annotations

_MEMORY = 0.9  # weight of the past


class Rate:
    """Of one device, for all its models."""

    def __init__(self) -> None:
        self._computed: dict[str, float] = {}  # tokens a second, by model
        self._served: float | None = None

    @property
    def served(self) -> float:
        """Tokens a second of what callers wait for: all of each item, shared or not; 0 unknown.

        Before anything was measured, of models that get equally many tokens.
        """
        if self._served is not None:
            return self._served
        per_token = [1 / rate for rate in self._computed.values() if rate > 0]
        return len(per_token) / sum(per_token) if per_token else 0.0

    def warm(self, model: str, tokens_per_s: float) -> None:
        """Take a model's rate at its warm-up, unless it is known better."""
        self._computed.setdefault(model, tokens_per_s)

    def note(self, model: str, *, computed: int, served: int, seconds: float) -> None:
        """Take a full batch: the tokens that were computed, those that callers got, and its time.

        Raises:
            KeyError: The model was never warmed up.
        """
        seconds = max(seconds, 1e-9)
        self._computed[model] = _mixed(self._computed[model], computed / seconds)
        self._served = _mixed(self.served, served / seconds)

    def expected_s(self, model: str, computed: int) -> float:
        """Return how long so many tokens take a model, all of them computed."""
        return computed / max(self._computed.get(model, 0.0), 1e-9)


def _mixed(past: float, now: float) -> float:
    return _MEMORY * past + (1 - _MEMORY) * now
