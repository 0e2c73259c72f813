"""Which rows of a packed batch are which adapter's, and which are the same for all. Pure.

Below the first layer that an adapter changes, the same tokens have the same hidden states whatever
their adapter: there each is computed once. From there on every adapter has rows of its own, which
begin at a multiple of `packing.ROWS`: a product sees as many rows as it would if they were alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from assay.engine import packing
from assay.engine.packing import ROWS
from assay.worker_protocol import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from assay.worker_protocol import PrefixBatch


@dataclass(frozen=True, slots=True)
class Span:
    """Some rows on end, of one adapter; both borders are multiples of `ROWS`."""

    adapter: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """A batch in which each run is there once for all adapters, and who goes on from it."""

    batch: PrefixBatch
    rows: np.ndarray  # (rows,) int32, of each row of all adapters the row here


def aligned(batch: PrefixBatch) -> tuple[PrefixBatch, list[Span]]:
    """Return a batch with each adapter's rows at a multiple of `ROWS`, and whose rows are where.

    Between adapters stands a run that nobody reads.
    """
    lengths = batch.lengths[batch.held :]
    numbers = np.zeros_like(batch.lengths) if batch.adapters is None else batch.adapters
    adapters = numbers[batch.held :]
    ends = np.append(np.flatnonzero(np.diff(adapters)) + 1, len(lengths))  # of adapters, in runs
    token_ends = np.cumsum(lengths)[ends - 1]
    tokens = np.diff(token_ends, prepend=0)
    spans = _spans(adapters[ends - 1].tolist(), tokens.tolist())
    missing = -tokens[:-1] % ROWS
    at = np.flatnonzero(missing)
    if not len(at):
        return batch, spans
    fills, runs, places = missing[at], ends[at], token_ends[at]
    ids_at = np.repeat(places, fills)
    filled = np.concatenate([[0], np.cumsum(fills)])

    def moved(rows: np.ndarray) -> np.ndarray:
        more: np.ndarray = filled[np.searchsorted(places, rows, side="right")]
        return rows + more.astype(np.int32)

    def moved_run(run: np.ndarray) -> np.ndarray:
        more: np.ndarray = np.searchsorted(runs, run - batch.held, side="right")
        return run + np.where(run < batch.held, 0, more).astype(np.int32)

    runs_at = batch.held + runs
    return replace(
        batch,
        ids=np.insert(batch.ids, ids_at, 0),
        lengths=np.insert(batch.lengths, runs_at, fills),
        parents=np.insert(moved_run(batch.parents), runs_at, -1),
        reads=moved_run(batch.reads),
        new_rows=moved(batch.new_rows),
        read_rows=None if batch.read_rows is None else moved(batch.read_rows),
        segments=None if batch.segments is None else np.insert(batch.segments, ids_at, 0),
        adapters=np.insert(numbers, runs_at, adapters[runs - 1]),
    ), spans


def by_adapter(rows: np.ndarray, spans: Sequence[Span]) -> list[tuple[int, np.ndarray]]:
    """Return which of some rows are each adapter's, of those that have any; all in its order."""
    parts = [(span.adapter, rows[(rows >= span.begin) & (rows < span.end)]) for span in spans]
    return [(adapter, part) for adapter, part in parts if len(part)]


def filled(parts: Sequence[tuple[int, np.ndarray]]) -> tuple[np.ndarray, list[Span]]:
    """Return the rows of some adapters, each's last one repeated to a multiple of `ROWS`."""
    rows = [packing.filled(part) for _, part in parts]
    return np.concatenate(rows), _spans([number for number, _ in parts], [len(p) for p in rows])


def spread(batch: PrefixBatch, origins: np.ndarray) -> Spread | None:
    """Return what adapters have in common of an aligned batch; None where that is no less.

    `origins`, (blocks,), are equal for kept blocks that were computed as one.
    """
    held = batch.held
    lengths, parents = batch.lengths.tolist(), batch.parents.tolist()
    ends = np.concatenate([np.cumsum(part) for part in np.split(batch.lengths, [held])]).tolist()
    known: dict[tuple[int, bytes], int] = {}
    once: list[int] = []  # the first of each kind of run
    twins: list[int] = []  # each run's kind
    for run, (length, parent, end) in enumerate(zip(lengths, parents, ends, strict=True)):
        if run < held:
            blocks = batch.cached_blocks[(end - length) // BLOCK_TOKENS : end // BLOCK_TOKENS]
            content = origins[blocks].tobytes()
        else:
            content = _tokens(batch, end - length, end)
        key = twins[parent] if parent >= 0 else -1, content
        if key not in known:
            known[key] = len(once)
            once.append(run)
        twins.append(known[key])
    held_once = sum(run < held for run in once)
    places = [np.arange(ends[run] - lengths[run], ends[run]) for run in once]
    place = np.concatenate([np.empty(0, np.int64), *places[held_once:]])
    if _rounded(len(place)) >= _rounded(batch.tokens):
        return None
    begins = np.cumsum([0, *(lengths[run] for run in once[held_once:])])
    rows = np.concatenate(
        [
            np.arange(length) + begins[twin - held_once]
            for length, twin in zip(lengths[held:], twins[held:], strict=True)
        ]
    ).astype(np.int32)
    blocks_once = [tokens[::BLOCK_TOKENS] // BLOCK_TOKENS for tokens in places[:held_once]]
    common = replace(
        batch,
        ids=batch.ids[place],
        lengths=batch.lengths[once],
        parents=np.array(
            [-1 if parents[run] < 0 else twins[parents[run]] for run in once], np.int32
        ),
        reads=np.empty(0, np.int32),
        held=held_once,
        cached_blocks=batch.cached_blocks[np.concatenate([np.empty(0, np.int64), *blocks_once])],
        new_rows=rows[batch.new_rows],
        read_rows=None,
        segments=None if batch.segments is None else batch.segments[place],
        adapters=None,
    )
    return Spread(common, np.pad(rows, (0, _rounded(len(rows)) - len(rows))))


def _tokens(batch: PrefixBatch, begin: int, end: int) -> bytes:
    """Return what a run is known by among those that follow the same one."""
    kinds = [batch.ids] if batch.segments is None else [batch.ids, batch.segments]
    return b"".join(kind[begin:end].tobytes() for kind in kinds)


def _rounded(rows: int) -> int:
    return -(-rows // ROWS) * ROWS


def _spans(adapters: Iterable[int], tokens: Iterable[int]) -> list[Span]:
    spans, begin = [], 0
    for adapter, count in zip(adapters, tokens, strict=True):
        spans.append(Span(adapter, begin, begin + _rounded(count)))
        begin += _rounded(count)
    return spans
