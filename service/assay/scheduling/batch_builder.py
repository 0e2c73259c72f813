"""A batch in the making: what its items cost together. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.scheduling.head_outputs import first_unread
from assay.scheduling.layout import BatchLayout
from assay.scheduling.prefixes import Prefixes
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.scheduling.prefix_cache import Block, PrefixCache
    from assay.scheduling.work_item import WorkItem


class BatchBuilder:
    """The items of one batch, by prefix; `cache` is what the device keeps of earlier ones."""

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._prefixes: Prefixes[WorkItem] = Prefixes()
        self._held: dict[Block, None] = {}  # blocks not computed, parents before what follows them
        self._ends: set[Block] = set()  # blocks at whose end an item is read
        self._both = 0  # blocks that are both: they are computed for those who end there
        self.tokens = 0  # that are computed

    def add(self, item: WorkItem, most_tokens: int | None) -> bool:
        """Add an item, unless the batch would then compute more than so many tokens.

        Nor is it added where it lacks a head output of a block that others of the batch hold.
        """
        ids, scope = item.ids, item.flow.scope
        path = self._cache.path(ids, scope)
        if item.read_at is not None:
            unread = first_unread(path, item.read_at)
            if unread < len(path):
                if path[unread] in self._held or path[unread] in self._ends:
                    return False
                self._cache.forget(path[unread])
                path = path[:unread]
        end = path.pop() if path and len(path) * BLOCK_TOKENS == len(ids) else None
        held = [block for block in path if block not in self._held]
        both = self._both + sum(block in self._ends for block in held)
        if end is not None and end not in self._ends:
            both += end in self._held
        self._prefixes.add(item, ids, scope)
        tokens = self._prefixes.tokens - BLOCK_TOKENS * (len(self._held) + len(held) - both)
        if most_tokens is not None and tokens > most_tokens:
            self._prefixes.remove(item)
            return False
        self._both = both
        self.tokens = tokens
        self._held.update(dict.fromkeys(held))
        if end is not None:
            self._ends.add(end)
        return True

    def build(self, items: Sequence[WorkItem]) -> PrefixBatch:
        """Lay the batch out; its item i is `items[i]`. The device will keep its blocks."""
        self._cache.open([*self._held, *(end for end in self._ends if end not in self._held)])
        layout = BatchLayout(self._cache)
        prefix_batch = layout.build(self._prefixes, items)
        self._cache.use(layout.blocks)
        return prefix_batch


class UnsharedBatchBuilder:
    """The items of one batch, a run each."""

    def __init__(self) -> None:
        self.tokens = 0

    def add(self, item: WorkItem, most_tokens: int | None) -> bool:
        """Add an item; see `BatchBuilder`."""
        if most_tokens is not None and self.tokens + item.tokens > most_tokens:
            return False
        self.tokens += item.tokens
        return True

    def build(self, items: Sequence[WorkItem]) -> PrefixBatch:
        """Return the batch; items are in the order they were added in."""
        return PrefixBatch.unshared([item.ids for item in items])
