"""Pure: which batch size is fastest, looked for among the full batches of callers. No clock.

Warm-up chooses by a few readings, and what else the machine did meanwhile is in them. So while much
waits, other sizes are tried, outward from the chosen one, each between batches of the chosen size
and compared with these: what both suffer doesn't count. A size that is clearly faster is taken.

A trial may cost what the device does. So trials get a small part of its time, no larger batch is
tried once one is clearly slower, and after a look around there are none, until the device has
become much faster or slower. Only where callers' batches contradict warm-up's reading do trials
get half of the time, for some seconds.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import mean, median, stdev

from assay.scheduling import policy


@dataclass(slots=True)
class _Look:
    """One look around: what is left to try, and what was found; gains are logarithms."""

    above: list[int]  # the next one last
    below: list[int]
    gains: dict[int, list[float]] = field(default_factory=dict)  # of each trial, by its size
    finalist: int | None = None
    winner: int | None = None  # the size to take

    @property
    def size(self) -> int | None:
        """The size to try; None when all is done."""
        left = self.above or self.below
        return left[-1] if left else self.finalist

    def note(self, gain: float) -> None:
        """Take a trial's gain over the chosen size."""
        size = self.size
        assert size is not None
        gains = self.gains.setdefault(size, [])
        gains.append(gain)
        if size == self.finalist:
            self._judge(gains)
        elif len(gains) == policy.TRIALS or (len(gains) > 1 and max(gains) < policy.HOPELESS):
            left = self.above or self.below
            left.pop()
            if median(gains) < policy.SLOWER:
                left.clear()
            self._elect()

    def drop(self, size: int) -> None:
        """Try no batch of so many tokens, or more."""
        self.above = [candidate for candidate in self.above if candidate < size]
        self.gains = {
            candidate: gains for candidate, gains in self.gains.items() if candidate < size
        }
        self.finalist = None
        self._elect()

    def _elect(self) -> None:
        """Once all were tried, let the fastest that is faster prove it, if it has to."""
        if self.above or self.below:
            return
        medians = {size: median(gains) for size, gains in self.gains.items()}
        most = max(medians.values(), default=0.0)
        if most < policy.FASTER:
            return
        best = min(size for size, gain in medians.items() if gain >= most - policy.AS_FAST)
        if min(self.gains[best]) >= policy.EVIDENT:
            self.winner = best
        else:
            self.finalist = best

    def _judge(self, gains: list[float]) -> None:
        """End the proof: the later trials alone count, for the first chose the finalist."""
        proof = gains[policy.TRIALS :]
        if len(proof) < policy.PROOF_TRIALS:
            return
        if mean(proof) >= max(policy.FASTER / 2, 2 * stdev(proof) / math.sqrt(policy.PROOF_TRIALS)):
            self.winner = self.finalist
        self.finalist = None


class Search:
    """The batch size of one model on one device.

    Args:
        tokens: What warm-up chose.
        tokens_per_s: What it read at that size.
        most: The largest batch that fits the memory.
    """

    def __init__(
        self, tokens: int, tokens_per_s: float, *, most: int = policy.BATCH_SIZES[-1]
    ) -> None:
        self.chosen = tokens
        self._read = tokens_per_s
        self._most = most
        self._rates: deque[float] = deque(maxlen=policy.READINGS)  # of the chosen size
        self._look: _Look | None = None
        self._looks = 0  # one after another
        self._goes_on = False  # from a size that was taken
        self._cost: float | None = None  # of a trial; None before the first look
        self._trial: int | None = None
        self._settled: float | None = None  # the rate after the last look around
        self._spent_s = 0.0  # at the chosen size since the last trial, or look
        self._misses = 0

    @property
    def tokens(self) -> int:
        """How many tokens the next batch may have."""
        return self._trial or self.chosen

    def note(self, size: int, *, computed: int, seconds: float) -> None:
        """Take a full batch that might have `size` tokens: those it had, and its time."""
        rate = computed / (seconds + policy.HOP_S)
        if size == self.chosen:
            self._rates.append(rate)
            self._spent_s += seconds
            self._consider()
        elif self._look is not None and size == self._look.size and self._rates:
            self._look.note(math.log(max(rate, 1e-9) / median(self._rates)))
            self._rest()

    def miss(self, size: int) -> None:
        """Take a batch that might have `size` tokens and wasn't full: too little waits."""
        if size == self._trial:
            self._misses += 1
            if self._misses == policy.TRIALS:
                self._rest()

    def fail(self, size: int) -> bool:
        """Take a batch that found no memory; False where it is the chosen size that needs less."""
        if size <= self.chosen:
            return False
        self._most = size // 2
        if self._look is not None:
            self._look.drop(size)
        self._rest()
        return True

    def _rest(self) -> None:
        self._trial = None
        self._spent_s = 0.0
        self._misses = 0

    def _consider(self) -> None:
        """Begin a look around, a trial, or neither."""
        if len(self._rates) < policy.TRIALS:
            return
        rate = median(self._rates)
        if self._look is None and not self._begins(rate):
            return
        if self._look is None:
            self._look = self._around(rate)
        if (size := self._look.size) is None:
            self._settle()
        elif self._trial is None and self._spent_s >= (self._cost or policy.COST) * size / rate:
            self._trial = size

    def _begins(self, rate: float) -> bool:
        """Whether to look around: once, and when the device isn't what it was."""
        if self._cost is None:
            is_doubtful = _differ(rate, self._read, policy.DOUBTFUL)
            self._cost = policy.DOUBTFUL_COST if is_doubtful else policy.COST
            return True
        if self._goes_on:
            self._goes_on = False
            return True
        if self._settled is None:
            if len(self._rates) == policy.READINGS:
                self._settled = rate
            return False
        if self._spent_s < policy.QUIET_S or not _differ(rate, self._settled, policy.ANOTHER):
            return False
        self._cost, self._looks = policy.COST, 0
        return True

    def _around(self, rate: float) -> _Look:
        """Return the sizes to try: those neither too short nor too long for this rate."""
        doubled = [self.chosen << step for step in range(1, 10)]
        halved = [self.chosen >> step for step in range(1, 10)]
        most = min(self._most, rate * policy.LONGEST_BATCH_S)
        least = max(policy.BATCH_SIZES[0], rate * policy.SHORTEST_BATCH_S)
        return _Look(
            [size for size in reversed(doubled) if size <= most],
            [size for size in reversed(halved) if size >= least],
        )

    def _settle(self) -> None:
        """Take what was found. From another size there may be more to see: look around again."""
        assert self._look is not None
        winner = self._look.winner
        self._look, self._settled = None, None
        self._rest()
        self._looks += 1
        if winner is not None:
            self.chosen = winner
            self._rates.clear()
            self._goes_on = self._looks < policy.MOST_LOOKS


def _differ(value: float, other: float, times: float) -> bool:
    return not other / times <= value <= other * times
