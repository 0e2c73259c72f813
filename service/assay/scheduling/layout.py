"""A batch's items, by prefix -> the runs of a prefix batch. Pure.

What several items begin with is one run. Blocks that the device keeps of it are held runs, the rest
is computed, and kept as far as it fills blocks. An item's last token is computed in any case: there
it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from assay.scheduling.prefix_cache import tokens_at
from assay.scheduling.prefixes import Node, Prefixes, shared
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from assay.scheduling.prefix_cache import Block, PrefixCache
    from assay.scheduling.work_item import WorkItem

_NONE = np.empty(0, np.int32)
_ROOT = -1
_HELD = -2  # minus a held run's number


@dataclass(slots=True)
class _Runs:
    """Runs of one kind, computed or held."""

    lengths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def add(self, length: int, parent: int) -> int:
        """Return the number of a new run."""
        self.lengths.append(length)
        self.parents.append(parent)
        return len(self.lengths) - 1


@dataclass(slots=True)
class _Branch:
    """A node that is to be laid out, and what it follows."""

    node: Node[WorkItem]
    parent: int  # a computed run, `_ROOT`, or `_HELD` minus a held run
    begin: int  # the first of its tokens that are in no run yet
    rows: np.ndarray  # of those before it
    block: Block | None  # the last one before its tokens, where the device has that


class BatchLayout:
    """Lays out a tree's runs, parents first."""

    def __init__(self, cache: PrefixCache) -> None:
        self.blocks: list[Block] = []  # those read and written, parents before what follows them
        self._cache = cache
        self._ids: list[np.ndarray] = [_NONE]
        self._computed, self._held = _Runs(), _Runs()
        self._tokens = 0
        self._cached_blocks: list[int] = []
        self._new_blocks: list[int] = []
        self._new_rows: list[np.ndarray] = [_NONE]
        self._reads: dict[WorkItem, int] = {}
        self._waiting: list[_Branch] = []

    def build(self, prefixes: Prefixes[WorkItem], items: Sequence[WorkItem]) -> PrefixBatch:
        """Return the batch; its item i is `items[i]`."""
        for scope, root in reversed(prefixes.roots.items()):
            block = self._cache.root(scope)
            for child in reversed(root.children.values()):
                self._waiting.append(_Branch(child, _ROOT, 0, _NONE, block))
        while self._waiting:
            self._lay_out(self._waiting.pop())
        held = len(self._held.lengths)
        parents = np.array(self._held.parents + self._computed.parents, np.int32)
        parents[parents >= 0] += held
        parents[parents <= _HELD] = _HELD - parents[parents <= _HELD]
        return PrefixBatch(
            ids=np.concatenate(self._ids),
            lengths=np.array(self._held.lengths + self._computed.lengths, np.int32),
            parents=parents,
            reads=np.array([self._reads[item] + held for item in items], np.int32),
            held=held,
            cached_blocks=np.array(self._cached_blocks, np.int32),
            new_blocks=np.array(self._new_blocks, np.int32),
            new_rows=np.concatenate(self._new_rows),
        )

    def _lay_out(self, branch: _Branch) -> None:
        node, parent = branch.node, branch.parent
        held = self._find(branch)
        begin = node.begin + len(held) * BLOCK_TOKENS
        if begin < node.end:
            if held:
                branch = _Branch(node, self._hold(held, parent), begin, _NONE, held[-1])
            self._compute(branch, begin)
            return
        if node.items:  # they are read at its end: its last block is computed for them
            parent = self._hold(held[:-1], parent)
            last = self._run(node.ids[node.end - BLOCK_TOKENS : node.end], parent)
            self._reads.update(dict.fromkeys(node.items, last))
            held = held[-1:]
        if node.children:
            self._branch_off(node, self._hold(held, parent), held[-1])

    def _find(self, branch: _Branch) -> list[Block]:
        """Return the blocks that the device has of a node's tokens."""
        node, block = branch.node, branch.block
        blocks: list[Block] = []
        if branch.begin > node.begin:
            return blocks
        for begin in range(node.begin, node.end - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = block.children.get(tokens_at(node.ids, begin)) if block else None
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _compute(self, branch: _Branch, begin: int) -> None:
        """Lay out a node whose tokens from `begin` on, a block's first, the device hasn't.

        The few tokens with which all its children begin are computed once, too: at its end.
        """
        node = branch.node
        end = node.end + (0 if node.items else _in_common(node.children))
        row = self._tokens
        source = next(iter(node.children.values()), node)
        run = self._run(source.ids[branch.begin : end], branch.parent)
        self._reads.update(dict.fromkeys(node.items, run))
        rows = np.arange(row, self._tokens, dtype=np.int32)
        node_tokens = node.end - branch.begin
        block = self._keep(
            node, begin, np.concatenate([branch.rows, rows[:node_tokens]]), branch.block
        )
        for child in reversed(node.children.values()):
            self._follow(_Branch(child, run, end, rows[node_tokens:], block))

    def _branch_off(self, node: Node[WorkItem], parent: int, block: Block) -> None:
        """Go on behind a node that is held; what its other children have in common is a run."""
        fresh = [key for key in node.children if key not in block.children]
        common = _in_common(fresh) if len(fresh) > 1 else 0
        rows = np.arange(self._tokens, self._tokens + common, dtype=np.int32)
        end = node.end + common
        run = self._run(np.frombuffer(fresh[0], np.int32)[:common], parent) if common else parent
        for key, child in reversed(node.children.items()):
            if key in block.children:
                self._follow(_Branch(child, parent, node.end, _NONE, block))
            else:
                self._follow(_Branch(child, run, end, rows, block))

    def _follow(self, branch: _Branch) -> None:
        """Lay out a node later; one without tokens left is read where it begins."""
        if branch.node.end == branch.begin:
            self._reads.update(dict.fromkeys(branch.node.items, branch.parent))
        else:
            self._waiting.append(branch)

    def _run(self, ids: np.ndarray, parent: int) -> int:
        """Add a run that is computed."""
        self._ids.append(ids)
        self._tokens += len(ids)
        return self._computed.add(len(ids), parent)

    def _hold(self, blocks: Sequence[Block], parent: int) -> int:
        """Add a run that is held, unless it is empty."""
        if not blocks:
            return parent
        self.blocks.extend(blocks)
        self._cached_blocks.extend(block.number for block in blocks)
        return _HELD - self._held.add(len(blocks) * BLOCK_TOKENS, parent)

    def _keep(
        self, node: Node[WorkItem], begin: int, rows: np.ndarray, block: Block | None
    ) -> Block | None:
        """Keep a node's tokens from a block's first on; return its last block, if there is room."""
        for at in range(begin, node.end - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            if block is None:
                return None
            block = self._cache.add(block, tokens_at(node.ids, at))
            if block is not None:
                self.blocks.append(block)
                self._new_blocks.append(block.number)
                self._new_rows.append(rows[at - begin : at - begin + BLOCK_TOKENS])
        return block


def _in_common(begins: Collection[bytes]) -> int:
    """Return how many tokens several nodes begin with, by what they are known by."""
    if not begins:
        return 0
    first, last = min(begins), max(begins)
    return shared(np.frombuffer(first, np.int32), np.frombuffer(last, np.int32))
