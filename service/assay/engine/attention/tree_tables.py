"""Which keys each tile of queries meets, and in which order: what the tree kernel goes by.

Queries stand in tiles: a few rows, of whichever runs, with all heads that share keys. Keys stand in
blocks at absolute positions. A step is one such block as some runs see it: a block that a run fills
to its end is one step for it and for all that continue it; the one that holds its last tokens is
its own. So a tile reads a shared prefix once, and what is summed for a row, and in which order,
depends on the row's own sequence alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from assay.engine.packing import PackedBatch

_NOWHERE = -1


class Tables(NamedTuple):
    """What the kernel reads beside queries, keys and values: int32, on the host or a device."""

    tiles: Any  # (tiles, 4): first query, queries, first step, one past the last; longest first
    # (steps, 4): its first slot, the position there, and the numbers of the runs that it concerns:
    # the first, one past the last. Runs are numbered depth first.
    steps: Any
    slots: Any  # (blocks, keys): a row of the batch; -2 - slot, of what is kept; -1 for no key
    numbers: Any  # (queries,): of a query's run; -1 outside every run
    positions: Any  # (queries,)


class Blocks:
    """The blocks of a batch's keys, and the steps in which the rows of each run meet them."""

    def __init__(self, packed: PackedBatch, keys: int) -> None:
        """Cut the path of each run into blocks of so many `keys`."""
        self._keys = keys
        self._parents = packed.parents
        ends = packed.offsets + packed.lengths
        total = int(packed.lengths[packed.held :].sum())
        computed = np.arange(packed.held, len(ends))
        self._run = np.full(len(packed.ids), -1)  # of each row
        self._run[:total] = np.repeat(computed, packed.lengths[packed.held :])
        self._position = packed.positions
        self._number, behind = _depth_first(packed.parents)
        # A run's own blocks are those that hold a token of it.
        first, self._last = packed.offsets // keys, (ends - 1) // keys
        run, block = _spans(first, self._last)
        own = _begins(self._last - first + 1)
        self._slots = self._slots_of(packed, run, block, ends)
        is_full = (block + 1) * keys <= ends[run]
        lowest = self._number[run]
        highest = np.where(is_full, behind[run], lowest + 1)
        # Along its path it meets one step a block: its own, or the one of the run that filled it.
        self._path = _begins(self._last + 1)
        run, block = _spans(np.zeros_like(first), self._last)
        run = self._climb(run, block, first)
        at = own[run] + block - first[run]
        self._steps = np.stack([at * keys, block * keys, lowest[at], highest[at]], axis=1)

    def tables(
        self,
        *,
        causal: bool,
        window: int | None,
        tokens: int,
        queries: int,
        rows: np.ndarray | None = None,
    ) -> Tables:
        """Return the tables of all rows, or of a few, in tiles of at most so many `tokens`.

        There are so many `queries`; those behind the last of the `rows` are outside every run.
        """
        run, position = self._run, self._position
        if rows is not None:
            fill = (0, queries - len(rows))
            run = np.pad(run[rows], fill, constant_values=-1)
            position = np.pad(position[rows], fill)
        changes = np.diff(run, prepend=-2) != 0
        counted = np.arange(queries)
        if rows is not None:  # a tile of many runs takes long, and few rows are few tiles
            counted = counted - np.flatnonzero(changes)[np.cumsum(changes) - 1]
        begins = counted % tokens == 0
        first_query = np.flatnonzero(begins)
        part = np.flatnonzero(begins | changes)  # of a tile, of one run
        tile = np.cumsum(begins)[part] - 1
        first, last = self._seen(
            run[part],
            np.minimum.reduceat(position, part),
            np.maximum.reduceat(position, part),
            causal=causal,
            window=window,
        )
        in_runs = run[part] >= 0
        steps, begin, end = self._steps_of(
            tile[in_runs], first[in_runs], last[in_runs], len(first_query)
        )
        lengths = np.diff(first_query, append=queries)
        tiles = np.stack([first_query, lengths, begin, end], axis=1)
        longest_first = np.argsort(begin - end, kind="stable")
        numbers = np.where(run < 0, -1, self._number[run])
        every = (tiles[longest_first], steps, self._slots, numbers, position)
        return Tables(*(table.astype(np.int32) for table in every))

    def _slots_of(
        self, packed: PackedBatch, run: np.ndarray, block: np.ndarray, ends: np.ndarray
    ) -> np.ndarray:
        """Return where the keys of some runs' blocks are, (blocks, keys)."""
        position = (block[:, None] * self._keys + np.arange(self._keys)).ravel()
        run = np.repeat(run, self._keys)
        owner = self._climb(run, position, packed.offsets)
        row = packed.starts[owner] + position - packed.offsets[owner]
        rows = len(packed.ids)
        row[position >= ends[run]] = _NOWHERE
        is_kept = row >= rows  # those of held runs are counted on behind the batch's
        row[is_kept] = -2 - packed.cached_slots[row[is_kept] - rows]
        slots: np.ndarray = row.reshape(-1, self._keys)
        return slots

    def _climb(self, run: np.ndarray, place: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Return the run of each run's path that holds a place; `first` is where each begins."""
        run = run.copy()
        at = np.flatnonzero(place < first[run])
        while len(at):
            run[at] = self._parents[run[at]]
            at = at[place[at] < first[run[at]]]
        return run

    def _seen(
        self,
        run: np.ndarray,
        lowest: np.ndarray,
        highest: np.ndarray,
        *,
        causal: bool,
        window: int | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the first and the last step of a run's path that rows at such positions meet."""
        first, last = np.zeros_like(run), self._last[run]
        if window is not None:
            first = np.maximum(lowest - window + 1, 0) // self._keys
            highest = highest if causal else highest + window - 1
        if causal or window is not None:
            last = np.minimum(last, highest // self._keys)
        return self._path[run] + first, self._path[run] + last

    def _steps_of(
        self, tile: np.ndarray, first: np.ndarray, last: np.ndarray, tiles: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all steps, and of each tile the first and one past the last of them.

        A tile's parts meet the steps from `first` to `last` of their runs' paths. A tile of one run
        goes along that path; one of several has a list of its own, by position, of all that any
        part meets.
        """
        begin, end = np.zeros(tiles, np.int64), np.zeros(tiles, np.int64)
        is_alone = np.bincount(tile, minlength=tiles)[tile] == 1
        begin[tile[is_alone]], end[tile[is_alone]] = first[is_alone], last[is_alone] + 1
        part, at = _spans(first[~is_alone], last[~is_alone])
        owner, met = tile[~is_alone][part], self._steps[at]
        blocks = len(self._slots)
        order = (owner * blocks + met[:, 1] // self._keys) * blocks + met[:, 0] // self._keys
        _, kept = np.unique(order, return_index=True)
        owner, met = owner[kept], met[kept]
        count = np.bincount(owner, minlength=tiles)
        is_mixed = count > 0
        begin[is_mixed] = (_begins(count) + len(self._steps))[is_mixed]
        end[is_mixed] = (begin + count)[is_mixed]
        return np.concatenate([self._steps, met]), begin, end


def _begins(counts: np.ndarray) -> np.ndarray:
    """Return where each of some stretches begins that lie end to end."""
    begins: np.ndarray = np.cumsum(counts, dtype=np.int64) - counts
    return begins


def _spans(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all numbers from each first to its last, end to end, behind the index of each."""
    counts = last - first + 1
    index = np.repeat(np.arange(len(first)), counts)
    return index, np.arange(len(index)) + (first - _begins(counts))[index]


def _depth_first(parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each run's number depth first, and one past the last of those that continue it."""
    depth = np.zeros(len(parents), np.int64)
    above = parents
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    levels = [np.flatnonzero(depth == level) for level in range(int(depth.max()) + 1)]
    size = np.ones(len(parents), np.int64)
    for at in levels[:0:-1]:
        np.add.at(size, parents[at], size[at])
    order = np.argsort(parents, kind="stable")  # siblings side by side
    before = _begins(size[order])
    is_first = np.diff(parents[order], prepend=-2) != 0
    number = np.empty_like(size)
    number[order] = before - before[is_first][np.cumsum(is_first) - 1]  # among its siblings
    for at in levels[1:]:
        number[at] += number[parents[at]] + 1
    return number, number + size
