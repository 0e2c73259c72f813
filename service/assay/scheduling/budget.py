"""How many tokens a batch may have: what warm-up found; less for a while where memory ran out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RECOVERY_S = 30.0
_LEAST_PART = 1 / 64


class Budget:
    """One model's token budget on one device.

    Each time memory runs out it is halved, down to 1/64; each `RECOVERY_S` without that it doubles,
    up to what it was.
    """

    def __init__(self, tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._whole = tokens
        self._clock = clock
        self._part = 1.0
        self._grows_at = 0.0

    @property
    def tokens(self) -> int:
        """The budget now."""
        while self._part < 1.0 and self._clock() >= self._grows_at:
            self._part *= 2
            self._grows_at += RECOVERY_S
        return max(1, int(self._whole * self._part))

    def halve(self) -> bool:
        """Take half; False where nothing is left to take."""
        if self._part <= _LEAST_PART:
            return False
        self._part /= 2
        self._grows_at = self._clock() + RECOVERY_S
        return True
