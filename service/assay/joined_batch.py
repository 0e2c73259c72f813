"""Batches of several adapters that lie on one base, as one batch. Pure; the front and devices know.

Adapters share no run, and none of the blocks that a device keeps: behind the first layer that they
change, the same tokens have other keys and values. Which layers they do have in common is the
device's to know (`engine.adapter_rows`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assay.errors import WorkerError
from assay.worker_protocol import PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from assay.worker_protocol import Loaded


def check(loaded: Mapping[str, Loaded]) -> None:
    """Refuse what a worker says of models on one base, by name, unless all of them say the same.

    Raises:
        WorkerError: They can't run together.
    """
    for model, said in loaded.items():
        if not (names := said.shared_base):
            continue
        if model not in names or len(set(names)) < len(names) or not loaded.keys() >= set(names):
            raise WorkerError("the worker says that a model shares a base with those it can't")
        if len({_kind(loaded[name]) for name in names}) > 1:
            raise WorkerError("the worker says that models share a base which differ")


def _kind(said: Loaded) -> tuple[object, ...]:
    return (
        *(said.shared_base, said.prefix_blocks, said.shares_prefixes, said.forward),
        sum(said.outputs.values()),
    )


def join(parts: Mapping[int, PrefixBatch], blocks: int) -> PrefixBatch:
    """Return the batches of several adapters as one, by each adapter's number.

    Its held runs stand first, then the computed ones, each in the adapters' order, as its items and
    read rows do. A device keeps so many `blocks` for each adapter, those of the first one first.

    Raises:
        ValueError: Some of them name the rows that are read, or segments, and others don't.
    """
    numbers = sorted(parts)
    batches = [parts[number] for number in numbers]
    places = _places(batches)
    tokens = np.cumsum([0, *(batch.tokens for batch in batches)])
    pairs = list(zip(batches, places, strict=True))
    numbered = list(zip(batches, numbers, strict=True))
    placed = list(zip(batches, tokens.tolist(), strict=False))
    return PrefixBatch(
        ids=_end_to_end(batch.ids for batch in batches),
        lengths=_by_run(batches, [batch.lengths for batch in batches]),
        parents=_by_run(
            batches, [np.where(batch.parents < 0, -1, now[batch.parents]) for batch, now in pairs]
        ),
        reads=_end_to_end(now[batch.reads] for batch, now in pairs),
        held=sum(batch.held for batch in batches),
        cached_blocks=_end_to_end(b.cached_blocks + blocks * number for b, number in numbered),
        new_blocks=_end_to_end(b.new_blocks + blocks * number for b, number in numbered),
        new_rows=_end_to_end(batch.new_rows + begin for batch, begin in placed),
        read_rows=_of_all(
            [None if b.read_rows is None else b.read_rows + begin for b, begin in placed]
        ),
        next_ids=_end_to_end(batch.next_ids for batch in batches),
        segments=_of_all([batch.segments for batch in batches]),
        adapters=_by_run(batches, [np.full(len(b.lengths), number) for b, number in numbered]),
    )


def _places(batches: Iterable[PrefixBatch]) -> list[np.ndarray]:
    """Return where each run of each batch comes to stand, (runs,)."""
    batches = list(batches)
    held, computed = 0, sum(batch.held for batch in batches)
    places = []
    for batch in batches:
        runs = np.arange(len(batch.lengths))
        places.append(np.where(runs < batch.held, held + runs, computed - batch.held + runs))
        held += batch.held
        computed += len(runs) - batch.held
    return places


def _by_run(batches: Iterable[PrefixBatch], numbers: Iterable[np.ndarray]) -> np.ndarray:
    """Return each run's number, (runs,): held ones first."""
    pairs = list(zip(batches, numbers, strict=True))
    held = [number[: batch.held] for batch, number in pairs]
    return _end_to_end([*held, *(number[batch.held :] for batch, number in pairs)])


def _of_all(numbers: list[np.ndarray | None]) -> np.ndarray | None:
    there = [number for number in numbers if number is not None]
    if there and len(there) < len(numbers):
        raise ValueError("all parts of a batch name rows, or segments, or none does")
    return _end_to_end(there) if there else None


def _end_to_end(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int32), *arrays]).astype(np.int32, copy=False)
