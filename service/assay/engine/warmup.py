"""How many tokens a batch should have on this device: found by real forward passes.

A batch is large enough when larger ones aren't faster per token and the hops between batches don't
show, and small enough that a newcomer needn't wait long behind it.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay.engine import faults
from assay.errors import CheckpointError
from assay.notebook import Notebook
from assay.worker_protocol import PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.engine.model_runner import ModelRunner
    from assay.worker_protocol import WarmUp

_ABOUT_AS_FAST = 0.25  # the rate may be off by so much from that of an earlier start
_SURELY = 0.75  # of what is expected: readings are disturbed
_TIMED_S = 0.2  # a size is run again until it took this long in all
_MOST_RUNS = 3
_ITEM_TOKENS = 256
_NAMES = {"_name_or_path", "transformers_version", "id2label", "label2id"}  # of a configuration


@dataclass(frozen=True, slots=True)
class MeasuredBudget:
    """Tokens of a batch, and the rate measured at that size."""

    tokens: int
    tokens_per_s: float
    most: int = 0  # tokens that fit the memory; 0 while that isn't known

    @property
    def seconds(self) -> float:
        """How long a batch of that size takes."""
        return self.tokens / self.tokens_per_s


def find_budget(
    trunk: ModelRunner, warm_up: WarmUp, *, clock: Callable[[], float] = time.perf_counter
) -> MeasuredBudget:
    """Return the smallest batch that takes long enough and is about as fast per token as any.

    A shorter one is taken where it is clearly faster: of a small model what a large batch computes
    on its way doesn't fit the caches. Sizes grow until a batch takes longer than
    `warm_up.longest_s` or exceeds the memory.

    Raises:
        CheckpointError: Not even the smallest batch fits.
    """
    sizes = warm_up.sizes
    trunk.score(_batch(trunk, min(sizes[0], _ITEM_TOKENS)))  # first call: allocations, kernels
    tried: list[MeasuredBudget] = []
    most = sizes[-1]
    for size in sizes:
        if _expected_s(tried) * _SURELY > warm_up.longest_s:
            break
        seconds = _time(trunk, size, clock)
        if seconds is None:
            most = tried[-1].tokens if tried else 0
            break
        if tried and seconds > warm_up.longest_s:
            break
        tried.append(MeasuredBudget(size, size / max(seconds, 1e-9)))
    if not tried:
        raise CheckpointError(f"a batch of {sizes[0]} tokens exceeds the device's memory")
    return replace(_best(tried, warm_up), most=most)


def _expected_s(tried: Sequence[MeasuredBudget]) -> float:
    """Return how long a batch of twice the last size will take: a cost of its own, and a rate."""
    if len(tried) < 2:
        return 0.0
    before, last = (budget.seconds for budget in tried[-2:])
    return last + 2 * max(0.0, last - before)


class Budgets:
    """What was found on this device: models of one shape, as an ensemble's, are timed once.

    On CPU, `notebook` has what earlier starts found.
    """

    def __init__(
        self,
        warm_up: WarmUp,
        notebook: Notebook | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._warm_up = warm_up
        self._notebook = notebook
        self._clock = clock
        self._known: dict[tuple[object, ...], MeasuredBudget] = {}

    def of(self, trunk: ModelRunner) -> MeasuredBudget:
        """Return a trunk's budget; raises as `find_budget`."""
        shape = _shape(trunk)
        budget = self._known.get(shape)
        if budget is None or _time(trunk, budget.tokens, most_runs=1) is None:  # it warms up, too
            budget = self._known[shape] = self._recalled(trunk, shape) or self._found(trunk, shape)
        return budget

    def _found(self, trunk: ModelRunner, shape: tuple[object, ...]) -> MeasuredBudget:
        budget = find_budget(trunk, self._warm_up, clock=self._clock)
        if self._notebook is not None and trunk.device.type == "cpu":
            kept = [budget.tokens, budget.tokens_per_s, budget.most]
            self._notebook.keep({self._name(shape): kept})
        return budget

    def _recalled(self, trunk: ModelRunner, shape: tuple[object, ...]) -> MeasuredBudget | None:
        """Return what an earlier start found, where a batch still takes about as long."""
        if self._notebook is None or trunk.device.type != "cpu":  # a GPU's memory may be taken
            return None
        match self._notebook.recall(self._name(shape)):
            case [int(tokens), float(rate), int(most)] if (
                tokens in self._warm_up.sizes and rate > 0
            ):
                trunk.score(_batch(trunk, min(tokens, _ITEM_TOKENS)))  # first call, as below
                seconds = _time(trunk, tokens, self._clock)
                if seconds and abs(tokens / seconds / rate - 1) < _ABOUT_AS_FAST:
                    return MeasuredBudget(tokens, tokens / seconds, most)
        return None

    def _name(self, shape: tuple[object, ...]) -> str:
        threads = torch.get_num_threads()
        return Notebook.name(shape, self._warm_up, torch.__version__, threads, _processor())


@cache
def _processor() -> str:
    """Return what the machine's processor is called."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line
    return platform.processor()


def _shape(trunk: ModelRunner) -> tuple[object, ...]:
    """Return what decides how fast a trunk is, which its numbers don't."""
    config = trunk.model.config.to_diff_dict()
    named = {name: config[name] for name in config.keys() - _NAMES}
    ways = (
        *(trunk.forward, trunk.attention, trunk.is_compiled, str(trunk.dtype)),
        *(trunk.quantized and trunk.quantized.kind, trunk.max_tokens),
    )
    return type(trunk.model), trunk.parameters, json.dumps(named, sort_keys=True, default=str), ways


def _best(tried: Sequence[MeasuredBudget], warm_up: WarmUp) -> MeasuredBudget:
    """Return the best of what was tried, by readings that other work may have disturbed."""
    long = [budget for budget in tried if budget.seconds >= warm_up.shortest_s] or tried[-1:]
    fastest = max(budget.tokens_per_s for budget in long)
    faster = [
        budget
        for neighbours in pairwise(tried)
        if all(neighbour.tokens_per_s >= fastest * warm_up.faster for neighbour in neighbours)
        for budget in neighbours
        if budget.seconds >= warm_up.shortest_fast_s
    ]
    if faster:
        return max(faster, key=lambda budget: budget.tokens_per_s)
    return next(budget for budget in long if budget.tokens_per_s >= fastest * warm_up.as_fast)


def _time(
    trunk: ModelRunner,
    size: int,
    clock: Callable[[], float] = time.perf_counter,
    *,
    most_runs: int = _MOST_RUNS,
) -> float | None:
    """Return the shortest run's seconds, None without memory for it; a copy to the host ends it."""
    batch = _batch(trunk, size)
    times: list[float] = []
    try:
        while sum(times) < _TIMED_S and len(times) < most_runs:
            begin = clock()
            trunk.score(batch)
            times.append(clock() - begin)
    except (RuntimeError, MemoryError) as error:
        if not faults.is_out_of_memory(error):
            raise
        faults.free_memory(error)
        return None
    return min(times)


def _batch(trunk: ModelRunner, size: int) -> PrefixBatch:
    item = min(_ITEM_TOKENS, size, trunk.max_tokens or size)
    vocabulary = trunk.model.config.get_text_config().vocab_size
    random = np.random.default_rng(size)
    items = [random.integers(0, vocabulary, item) for _ in range(max(1, size // item))]
    return PrefixBatch.unshared(items)
