"""The search for a batch size, on machines whose time a test states; their noise has a seed."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.scheduling.policy import BATCH_SIZES, LONGEST_BATCH_S
from assay.scheduling.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable

    Seconds = Callable[[int], float]  # that a batch takes, by its tokens

LIMIT_S = 30.0
SMALLEST, LARGEST = BATCH_SIZES[0], BATCH_SIZES[-1]


class Machine:
    """Full batches one after another, of the size that the search says."""

    def __init__(self, seconds: Seconds, *, noise: float = 0.0, seed: int = 0) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.tokens = 0
        self.sizes: list[int] = []
        self._noise = noise
        self._random = random.Random(seed)

    def run(self, search: Search, seconds: float) -> float:
        """Serve for so long; return the tokens a second."""
        begin, before = self.now, self.tokens
        while self.now < begin + seconds:
            size = search.tokens
            taken_s = self.seconds(size) * math.exp(self._random.gauss(0, self._noise))
            self.now += taken_s
            self.tokens += size
            self.sizes.append(size)
            search.note(size, computed=size, seconds=taken_s)
        return (self.tokens - before) / (self.now - begin)


def warmed(seconds: Seconds, tokens: int) -> Search:
    """Return a search that begins with a true reading of this size."""
    return Search(tokens, tokens / seconds(tokens))


def cpu(tokens: int) -> float:
    """4,500 tokens/s, and 50 ms a batch besides."""
    return 0.05 + tokens / 4_500


def caches(tokens: int) -> float:
    """70,000 tokens/s up to 8,192 tokens, then a quarter less; 5 ms a batch."""
    return 0.005 + tokens / (70_000 if tokens <= 8_192 else 52_000)


def flat(tokens: int) -> float:
    """10,000 tokens/s whatever the size."""
    return tokens / 10_000


def best(seconds: Seconds) -> float:
    """Return the highest rate of a size that takes no longer than a batch may."""
    sizes = [SMALLEST << step for step in range(9)]
    return max(size / seconds(size) for size in sizes if seconds(size) <= LONGEST_BATCH_S)


@pytest.mark.parametrize("machine", [cpu, caches, flat])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_warm_up_beside_other_work_is_made_good_within_half_a_minute(
    machine: Seconds, noise: float
) -> None:
    """It read 108 tokens/s where the device does 4,500, and chose the smallest batch."""
    served = Machine(machine, noise=noise)
    search = Search(SMALLEST, 108.0)

    served.run(search, LIMIT_S)

    assert served.run(search, 2 * LIMIT_S) >= 0.95 * best(machine)


@pytest.mark.parametrize("machine", [cpu, caches, flat])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_looking_around_costs_next_to_nothing_where_warm_up_was_right(
    machine: Seconds, noise: float
) -> None:
    """From the first minute on, beside batches that all have the chosen size."""
    chosen = next(size for size in (4_096, 2_048) if machine(size) <= LONGEST_BATCH_S)
    fixed = chosen / machine(chosen) / math.exp(noise * noise / 2)  # the mean of a log-normal
    served = Machine(machine, noise=noise)

    assert served.run(warmed(machine, chosen), 60.0) >= 0.97 * fixed


def test_nothing_is_tried_once_it_has_looked_around() -> None:
    """For the rest of its life, as long as the device stays as it is."""
    served, search = Machine(cpu), warmed(cpu, 4_096)
    served.run(search, 600.0)
    served.sizes.clear()

    served.run(search, 3_600.0)

    assert set(served.sizes) == {search.chosen}


def test_it_looks_again_when_the_device_is_another() -> None:
    """A neighbour leaves, and what was the best size under it isn't any more."""
    served = Machine(lambda tokens: tokens / 2_000 + (0.2 if tokens > 512 else 0.0))
    search = warmed(served.seconds, 512)
    served.run(search, 300.0)
    assert search.chosen == 512

    served.seconds = cpu
    served.run(search, 300.0)

    assert served.run(search, 60.0) >= 0.95 * best(cpu)


@pytest.mark.parametrize("seed", range(20))
def test_luck_does_not_choose_a_size(seed: int) -> None:
    """Where batches differ by a fifth and sizes don't matter, it nearly always stays."""
    served, search = Machine(flat, noise=0.2, seed=seed), warmed(flat, 4_096)

    served.run(search, 600.0)

    assert flat(search.chosen) <= LONGEST_BATCH_S
    assert search.chosen in {2_048, 4_096, 8_192}


def test_a_size_that_too_little_waits_for_is_given_up() -> None:
    """Batches that aren't full say nothing, and the trial ends all the same."""
    served, search = Machine(cpu), Search(SMALLEST, 108.0)
    while search.tokens == SMALLEST:
        served.run(search, 0.1)
    trial = search.tokens
    for _ in range(3):
        search.miss(trial)

    assert search.tokens == SMALLEST


def test_a_size_that_found_no_memory_is_not_tried_again() -> None:
    """Nor is a larger one; the chosen size stays what it was."""
    served, search = Machine(cpu), Search(SMALLEST, 108.0)
    while search.tokens <= 512:
        served.run(search, 0.1)
    trial = search.tokens

    assert search.fail(trial)
    assert not search.fail(search.chosen)
    served.sizes.clear()
    served.run(search, 120.0)
    assert max(served.sizes) < trial


@settings(max_examples=60)
@given(
    st.integers(8, 16),
    st.floats(1.0, 1e6),
    st.floats(0.0, 0.2),
    st.floats(10.0, 1e6),
    st.floats(0.0, 0.3),
    st.integers(0, 1_000),
)
def test_a_batch_is_never_tried_that_would_take_too_long(
    step: int, reading: float, fixed_s: float, rate: float, noise: float, seed: int
) -> None:
    """Whatever warm-up said and however noisy: by the rate of the batches that were served."""
    search = Search(1 << step, reading)
    served = Machine(lambda tokens: fixed_s + tokens / rate, noise=noise, seed=seed)
    served.run(search, 40.0)

    bound_s = LONGEST_BATCH_S * math.exp(4 * noise) + 2 * fixed_s
    for size in {*served.sizes} - {1 << step}:
        assert SMALLEST <= size <= LARGEST
        assert size / rate <= bound_s or size < 1 << step
