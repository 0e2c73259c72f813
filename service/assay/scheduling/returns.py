"""How many of those who were told when to come back do, lately.

Whether someone has come is known a moment after the time that was told. Those who come are counted
then, too, with all who were told that time: at the time itself only those who come could be.
"""

from __future__ import annotations

import heapq

LATE_S = 0.5  # after that who hasn't come is taken to be gone
_HALF_LIFE_S = 60.0
_UNSEEN = 0.5  # as if so many had been told a time before, and been gone
_LENIENCE = 1.1  # a few may be late, or be let in without being looked at


class Returns:
    """Told times, and who came. To be asked and told by the same clock, which only goes forward."""

    def __init__(self) -> None:
        self._times: list[tuple[float, int]] = []  # a heap: 1 for one who was told, or came
        self._told = 0.0
        self._came = 0.0
        self._at = 0.0

    def expect(self, due: float) -> None:
        """Take that someone was told to come at that time."""
        heapq.heappush(self._times, (due, 0))

    def come(self, due: float) -> None:
        """Take that someone came who was told that time."""
        heapq.heappush(self._times, (due, 1))

    def part(self, now: float) -> float:
        """Return the part of those who were told a time that come, in [0, 1]; 0 until seen."""
        fade = 0.5 ** (max(0.0, now - self._at) / _HALF_LIFE_S)
        self._at = now
        self._told *= fade
        self._came *= fade
        while self._times and self._times[0][0] + LATE_S <= now:
            if heapq.heappop(self._times)[1]:
                self._came += 1
            else:
                self._told += 1
        return min(1.0, _LENIENCE * min(self._came, self._told) / (self._told + _UNSEEN))
