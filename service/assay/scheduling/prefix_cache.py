"""Which blocks of keys and values a device keeps, by the tokens they stand for. Pure.

A trie: a block is known by its `BLOCK_TOKENS` tokens and by the blocks before it, the first ones
also by their scope: no block is read for another. What was used longest ago gives way first,
whosever it is, never a block before those that continue it. A device runs its batches in order, so
a block counts as kept as soon as the batch that writes it is planned; when a batch fails, forget
all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.worker_protocol import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np


Key = tuple[int, int]  # a place in a block, and the token after it or -1


@dataclass(eq=False, slots=True)
class HeadOutput:
    """The numbers at one place, (outputs,) float64; None until its batch is done."""

    numbers: np.ndarray | None = None


@dataclass(eq=False, slots=True)
class Block:
    """The tokens after a parent's; `number` is where the device has their keys and values.

    A root has no tokens, and the scope of all that continue it.
    """

    number: int
    tokens: bytes
    parent: Block | None
    children: dict[bytes, Block] = field(default_factory=dict)
    head_outputs: dict[Key, HeadOutput] = field(default_factory=dict)
    scope: str = ""


class PrefixCache:
    """The blocks of one model on one device."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.clear()

    def __len__(self) -> int:
        return len(self._by_use)

    def clear(self) -> None:
        """Forget everything."""
        self._roots: dict[str, Block] = {}  # by scope, of those that have blocks
        self._used = 0  # numbers below it have been given away once
        self._free: list[int] = []  # and of them these came back
        self._by_use: OrderedDict[Block, None] = OrderedDict()  # used longest ago first
        self._current: set[Block] = set()

    def root(self, scope: str) -> Block:
        """Return what the first blocks of a scope continue."""
        return self._roots.get(scope) or Block(-1, b"", None, scope=scope)

    def path(self, ids: np.ndarray, scope: str = "") -> list[Block]:
        """Return the blocks kept of what a sequence begins with, in order."""
        blocks: list[Block] = []
        block = self._roots.get(scope)
        for begin in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = block.children.get(tokens_at(ids, begin)) if block else None
            if block is None:
                break
            blocks.append(block)
        return blocks

    def open(self, blocks: Iterable[Block]) -> None:
        """Begin a batch that reads blocks, parents first: none of them gives way to its own."""
        self._current = set()
        self.use(list(blocks))

    def add(self, parent: Block, tokens: bytes) -> Block | None:
        """Return a block for what this batch leaves behind another; None where none gives way."""
        if not self._free and self._used == self._count and not self._give_way():
            return None
        if parent.parent is None:
            self._roots[parent.scope] = parent
        block = parent.children[tokens] = Block(self._number(), tokens, parent)
        self._by_use[block] = None
        self._current.add(block)
        return block

    def use(self, blocks: Sequence[Block]) -> None:
        """Note that this batch reads or writes blocks; parents come first, and outlast the rest."""
        for block in reversed(blocks):
            self._by_use.move_to_end(block)
        self._current.update(blocks)

    def forget(self, block: Block) -> None:
        """Free a block and those that continue it."""
        for child in list(block.children.values()):
            self.forget(child)
        self._free_block(block)

    def _number(self) -> int:
        if self._free:
            return self._free.pop()
        self._used += 1
        return self._used - 1

    def _give_way(self) -> bool:
        """Free the block used longest ago, unless this batch uses it."""
        block = next(iter(self._by_use), None)
        if block is None or block in self._current:
            return False
        self._free_block(block)
        return True

    def _free_block(self, block: Block) -> None:
        del self._by_use[block]
        if (parent := block.parent) is not None:
            del parent.children[block.tokens]
            if parent.parent is None and not parent.children:
                del self._roots[parent.scope]
        self._free.append(block.number)


def tokens_at(ids: np.ndarray, begin: int) -> bytes:
    """Return what a block is known by: the tokens from a place on."""
    return ids[begin : begin + BLOCK_TOKENS].tobytes()
