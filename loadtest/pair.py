"""One or two subjects on the same fresh texts, in turn: A B A B, with ratios and their spread."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from loadtest.workloads import (
    CAPACITY_CONCURRENCY,
    LONG_TAIL_CAPACITY_SHARE,
    WORKLOADS,
    Load,
    Open,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loadtest.readings import Reading
    from loadtest.render import Renderer
    from loadtest.subjects import Subject
    from loadtest.texts import Texts

WARM_UP_ITEMS = 64
REST_S = 0.5
RESTS_PERCENT = 8.0  # of all cores
LONGEST_REST_S = 10.0


@dataclass(frozen=True, slots=True)
class Round:
    """One load on every subject, one after the other; the first is compared with the second."""

    workload: str
    repetition: int
    readings: Sequence[Reading]

    @property
    def ratio(self) -> float | None:
        """The first's speed over the second's; None where either answered nothing."""
        if len(self.readings) < 2:
            return None
        ours, theirs = (reading.speed for reading in self.readings)
        return ours / theirs if ours and theirs else None

    def latency_ratio(self, share: float) -> float | None:
        """Return the second's latency over the first's at a share of requests."""
        if len(self.readings) < 2:
            return None
        ours, theirs = (reading.latency_s(share) for reading in self.readings)
        return theirs / ours if ours and theirs else None

    @property
    def difference(self) -> float | None:
        """The largest difference of a score that both gave."""
        if len(self.readings) < 2:
            return None
        pairs = zip(*(reading.scores for reading in self.readings), strict=True)
        gaps = [abs(ours - theirs) for ours, theirs in pairs if None not in (ours, theirs)]
        return max(gaps, default=None)


@dataclass(slots=True)
class Source:
    """Fresh loads by workload: no two of one source share text."""

    texts: Texts
    renderer: Renderer | None
    scale: float
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def load(self, workload: str) -> Load:
        """Return the next load of a workload, rendered where there is a checkpoint."""
        load = WORKLOADS[workload].make(self.texts, next(self._numbers), self.scale)
        return self.rendered(load)

    def rendered(self, load: Load) -> Load:
        """Return a load with what the checkpoint's template makes of its items."""
        return self.renderer.load(load) if self.renderer is not None else load

    def next_number(self) -> int:
        """Return the number of a set of texts that nothing else uses."""
        return next(self._numbers)


def rounds(
    subjects: Sequence[Subject],
    workload: str,
    source: Source,
    repetitions: int,
    *,
    rate: float | None,
    announce: Callable[[str], None],
) -> Iterator[Round]:
    """Warm up with other text, then measure each repetition's load on each subject in turn."""
    for subject in subjects:
        if errors := subject.measure(warm_up(source.load(workload))).errors:
            announce(f"{subject.name} failed while it was warmed up ({workload}): {dict(errors)}")
    for repetition in range(repetitions):
        load = source.load(workload)
        if isinstance(load.arrival, Open) and load.arrival.rate is None:
            if rate is None:
                rate = LONG_TAIL_CAPACITY_SHARE * _capacity(subjects, workload, source, announce)
            load = load.at_rate(rate)
        yield Round(workload, repetition, [_in_quiet(subject, load) for subject in subjects])


def _in_quiet(subject: Subject, load: Load) -> Reading:
    """Measure once the machine rests: vLLM's worker spins on for a second after its last answer."""
    end = time.monotonic() + LONGEST_REST_S
    while psutil.cpu_percent(REST_S) > RESTS_PERCENT and time.monotonic() < end:
        pass
    return subject.measure(load)


def warm_up(load: Load) -> Load:
    """Return the beginning of a load, in a closed loop."""
    left = WARM_UP_ITEMS
    requests = []
    for request in load.requests:
        requests.append(request[:left])
        left -= len(request)
        if left <= 0:
            break
    return Load(load.workload, [requests], load.arrival).at_concurrency(CAPACITY_CONCURRENCY)


def capacity(subject: Subject, load: Load) -> float:
    """Return how many of a load's requests a subject answers in a second, in a closed loop."""
    return subject.measure(load.at_concurrency(CAPACITY_CONCURRENCY)).requests_per_s


def _capacity(
    subjects: Sequence[Subject], workload: str, source: Source, announce: Callable[[str], None]
) -> float:
    """Return the smallest capacity, so that the same rate is offered to all and all can bear it."""
    load = source.load(workload)
    found = {subject.name: capacity(subject, load) for subject in subjects}
    told = ", ".join(f"{name} {rate:.2f}" for name, rate in found.items())
    announce(f"{workload}: capacity in requests/s: {told}")
    if not min(found.values()):
        raise SystemExit("a server answered nothing, so there is no capacity to load it to")
    return min(found.values())
