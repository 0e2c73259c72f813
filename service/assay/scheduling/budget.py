"""How many tokens a batch may have: what is fastest; less for a while where memory ran out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from assay.scheduling import policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay.scheduling.search import Search


class Budget:
    """One model's token budget on one device.

    Each time memory runs out it is halved, down to 1/64; each `RECOVERY_S` without that it doubles,
    up to what it was. With a `search` it is what that says, else what it was given.
    """

    def __init__(
        self,
        tokens: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        search: Search | None = None,
    ) -> None:
        self._given = tokens
        self._search = search
        self._clock = clock
        self._part = 1.0
        self._grows_at = 0.0

    @property
    def tokens(self) -> int:
        """The budget now."""
        while self._part < 1.0 and self._clock() >= self._grows_at:
            self._part *= 2
            self._grows_at += policy.RECOVERY_S
        if self._search is not None and self._part == 1.0:
            return self._search.tokens
        return max(1, int(self.whole * self._part))

    @property
    def whole(self) -> int:
        """The budget where memory lasts and nothing is tried."""
        return self._given if self._search is None else self._search.chosen

    def note(self, budget: int, *, computed: int, seconds: float, is_full: bool) -> None:
        """Take a batch that had this budget: the tokens that were computed, and its time."""
        if self._search is None:
            return
        if is_full:
            self._search.note(budget, computed=computed, seconds=seconds)
        else:
            self._search.miss(budget)

    def halve(self, budget: int) -> bool:
        """Take less, for a batch of this budget found no memory; False where nothing is left."""
        if self._search is not None and self._search.fail(budget):
            return True
        if self._part <= policy.LEAST_PART:
            return False
        self._part /= 2
        self._grows_at = self._clock() + policy.RECOVERY_S
        return True
