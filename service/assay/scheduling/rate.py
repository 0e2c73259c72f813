"""How fast a device is: by its warm-up, then by the batches that had as much as they may.

A batch of one short item takes nearly as long as a full one: what it says of tokens a second is
true of an idle device, and none that much waits for is idle.

A reading that is too low refuses callers on an idle device, one that is too high is found out by
the next batches: so a faster batch is believed at once, a slower one by and by.
"""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 0.9  # weight of the past
_TIMED = 3  # batches, before what they say is more than an estimate


@dataclass(slots=True)
class _Lately:
    """Tokens of a model's last batches, the later the more."""

    computed: float = 0.0
    served: float = 0.0


class Rate:
    """Of one device, for all its models."""

    def __init__(self) -> None:
        self._speeds: dict[str, float] = {}  # computed tokens a second, by model
        self._lately: dict[str, _Lately] = {}
        self._timed = 0

    @property
    def served(self) -> float:
        """Tokens a second of what callers wait for: all of each item, shared or not; 0 unknown.

        Before anything was timed, of models that get equally many tokens.
        """
        if not self._lately:
            return _harmonic_mean([speed for speed in self._speeds.values() if speed > 0])
        seconds = sum(recent.computed / self._speeds[name] for name, recent in self._lately.items())
        return sum(recent.served for recent in self._lately.values()) / max(seconds, 1e-9)

    @property
    def timed(self) -> float:
        """As `served`, by batches of callers alone; 0 until there were enough of these."""
        return self.served if self._timed >= _TIMED else 0.0

    def warm(self, model: str, tokens_per_s: float) -> None:
        """Take a model's rate at its warm-up, unless it is known better."""
        self._speeds.setdefault(model, tokens_per_s)

    def note(self, model: str, *, computed: int, served: int, seconds: float) -> None:
        """Take a full batch: the tokens that were computed, those that callers got, and its time.

        Raises:
            KeyError: The model was never warmed up.
        """
        now, past = computed / max(seconds, 1e-9), self._speeds[model]
        self._speeds[model] = max(now, _MEMORY * past + (1 - _MEMORY) * now, 1e-9)
        self._timed += 1
        for recent in self._lately.values():
            recent.computed *= _MEMORY
            recent.served *= _MEMORY
        lately = self._lately.setdefault(model, _Lately())
        lately.computed += computed
        lately.served += served

    def expected_s(self, model: str, computed: int) -> float:
        """Return how long so many tokens take a model, all of them computed."""
        return computed / max(self._speeds.get(model, 0.0), 1e-9)


def _harmonic_mean(rates: list[float]) -> float:
    return len(rates) / sum(1 / rate for rate in rates) if rates else 0.0
