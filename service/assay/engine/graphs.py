"""Small passes of a GPU as CUDA graphs: the host launches a pass at once, not kernel by kernel.

A pass of a few hundred rows takes longer to launch than to run. So it is captured for some numbers
of rows, and a batch is filled up to the next one. What differs between batches lies on the device,
in arrays that a replay reads where the captured pass read its own. A batch takes part whose runs
are few and share nothing, neither with each other nor with what is kept; any other is launched as
ever, and so is one for which no pass was captured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay.engine import packing, transfer
from assay.worker_protocol import PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay.engine.block_cache import BlockCache
    from assay.engine.packing import PackedBatch

    # Of a packed batch, the rows that are read, (rows,), and all rows' positions: its states.
    Forward = Callable[[PackedBatch, np.ndarray, np.ndarray], torch.Tensor]
    Capture = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]

ROWS = (64, 128, 256, 512)  # of passes that are captured
_FEW = packing.ROWS  # runs of a batch, and rows of it that are read, at the most


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    there: dict[str, torch.Tensor]  # what the captured pass reads of a batch
    replay: Callable[[], torch.Tensor]


class Graphs:
    """The passes of one model that were captured."""

    def __init__(self, forward: Forward, device: torch.device, cache: BlockCache | None) -> None:
        """Capture nothing yet; `cache` has the blocks that a pass may write."""
        self._forward = forward
        self._device = device
        self._cache = cache
        self._graphs: dict[int, _Graph] = {}

    def capture(self, rows: int, capture: Capture) -> None:
        """Capture the pass of so many rows; `capture` runs it, and returns what runs it again."""
        packed = self._filled(packing.pack(PrefixBatch.unshared([np.zeros(rows, np.int32)])), rows)
        read = np.zeros(_FEW, np.int32)

        def run() -> torch.Tensor:
            return self._forward(packed, read, packed.positions)

        run()  # what is made or compiled on a first call isn't for a graph
        replay = capture(run)
        self._graphs[rows] = _Graph(packed.made[self._device], replay)

    def rows(self, batch: PrefixBatch, cache: BlockCache | None) -> int:
        """Return the rows of the pass that computes a batch; 0 where there is none."""
        read = batch.reads if batch.read_rows is None else batch.read_rows
        is_alone = not batch.held and not (batch.parents >= 0).any()
        if not is_alone or max(len(batch.lengths), len(read)) > _FEW or cache is not self._cache:
            return 0
        return next((rows for rows in sorted(self._graphs) if rows >= batch.tokens), 0)

    def states(
        self, rows: int, packed: PackedBatch, read: np.ndarray, positions: np.ndarray
    ) -> torch.Tensor:
        """Return what `Forward` does, by the captured pass of so many rows."""
        graph = self._graphs[rows]
        if self._cache is not None:
            self._cache.open(packed)
        positions = np.pad(positions, (0, rows - len(positions)))
        filled = np.pad(read, (0, _FEW - len(read)), mode="edge")
        arrays = self._filled(packed, rows).arrays() | {"positions": positions, "read_rows": filled}
        names = [name for name, array in graph.there.items() if array.numel()]
        fresh = transfer.to_device([arrays[name] for name in names], self._device)
        for name, array in zip(names, fresh, strict=True):
            graph.there[name].copy_(array)
        states = graph.replay()[: len(read)]
        if self._cache is not None:
            self._cache.close(packed)
        return states

    def _filled(self, packed: PackedBatch, rows: int) -> PackedBatch:
        """Return a batch of so many rows, with runs of no token for those that it lacks."""
        fill, runs = (0, rows - len(packed.ids)), (0, _FEW - len(packed.lengths))
        slots, kept = packed.new_slots, packed.new_rows
        if self._cache is not None:
            if not len(slots):  # one token goes where nobody's is
                slots, kept = np.array([self._cache.spare_slot]), np.array([0])
            more = (0, rows - len(slots))
            slots, kept = np.pad(slots, more, mode="edge"), np.pad(kept, more, mode="edge")
        return replace(
            packed,
            ids=np.pad(packed.ids, fill),
            positions=np.pad(packed.positions, fill),
            segments=np.pad(packed.segments, fill),
            lengths=np.pad(packed.lengths, runs),
            parents=np.pad(packed.parents, runs, constant_values=-1),
            starts=np.pad(packed.starts, runs),
            offsets=np.pad(packed.offsets, runs),
            new_slots=slots,
            new_rows=kept,
        )


def captured(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Capture a pass as a CUDA graph; return what replays it into the same result."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        states = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return states

    return replay
