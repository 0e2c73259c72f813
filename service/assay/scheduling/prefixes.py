"""A radix tree over token ids: which items begin with the same tokens. No opinion on who goes when.

Runs are split at multiples of `BLOCK_TOKENS` only. So the tree has the same shape in whatever order
items came and left, is at most an item's tokens over `BLOCK_TOKENS` deep, and what fewer tokens
have in common (the first words of a chat template) is left in the items' own runs: a run costs the
device an attention call, which so few tokens don't repay.

Items of different scopes share nothing, however they begin: each scope has a root of its own. What
a caller needn't have computed is in the answer and in the time it takes, and tells nothing of what
others sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from assay.scheduling.prefix_cache import tokens_at
from assay.worker_protocol import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_IDS = np.empty(0, dtype=np.int32)

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Node(Generic[T]):
    """A run: the tokens from `begin` to `end` of every item at or below it.

    Only a leaf ends elsewhere than at a multiple of `BLOCK_TOKENS`. Children are known by the
    tokens they begin with, `BLOCK_TOKENS` of them or all. A root has no tokens, and the scope of
    all below.
    """

    ids: np.ndarray  # (end or more,) int32: those of an item that is or was below
    begin: int
    end: int
    parent: Node[T] | None
    children: dict[bytes, Node[T]] = field(default_factory=dict)
    items: dict[T, None] = field(default_factory=dict)
    scope: str = ""

    def below(self, besides: Node[T] | None = None) -> Iterator[T]:
        """Yield the items at and below this node, but for one child's, neighbours together."""
        yield from self.items
        path = [iter(self.children.values())]
        while path:
            node = next(path[-1], None)
            if node is None:
                path.pop()
            elif node is not besides:
                yield from node.items
                path.append(iter(node.children.values()))


class Prefixes(Generic[T]):
    """Items by the tokens they begin with; `tokens` counts each shared run once."""

    def __init__(self) -> None:
        self.roots: dict[str, Node[T]] = {}  # by scope, of those that have items
        self.tokens = 0
        self._nodes: dict[T, Node[T]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, item: T, ids: np.ndarray, scope: str = "") -> None:
        """Add an item of at least one token; `ids` is (tokens,) int32."""
        node = self.roots.get(scope)
        if node is None:
            node = self.roots[scope] = Node(_NO_IDS, 0, 0, None, scope=scope)
        while node.end < len(ids):
            node = self._descend(node, ids)
        node.items[item] = None
        self._nodes[item] = node

    def remove(self, item: T) -> None:
        """Remove an item, and the runs and splits that were there for it."""
        node = self._nodes.pop(item)
        del node.items[item]
        parent = node.parent
        if parent is not None and not node.items and not node.children:
            del parent.children[tokens_at(node.ids, node.begin)]
            self.tokens -= node.end - node.begin
            node = parent
        if node.parent is None and not node.children:
            del self.roots[node.scope]
        _join(node)

    def above(self, item: T) -> Iterator[Node[T]]:
        """Yield the item's own node and those above it, without the root."""
        node = self._nodes[item]
        while node.parent is not None:
            yield node
            node = node.parent

    def at(self, ids: np.ndarray, scope: str = "") -> list[T]:
        """Return the items of exactly these tokens."""
        node = self.roots.get(scope)
        while node is not None and node.end < len(ids):
            node = node.children.get(tokens_at(ids, node.end))
        is_spelt = node is not None and np.array_equal(node.ids[: node.end], ids)
        return list(node.items) if node is not None and is_spelt else []

    def is_below(self, item: T, node: Node[T]) -> bool:
        """Whether an item is in the tree and has all of a node's tokens."""
        at = self._nodes.get(item)
        while at is not None and at.end > node.end:
            at = at.parent
        return at is node

    def _descend(self, node: Node[T], ids: np.ndarray) -> Node[T]:
        """Return the child of a node that spells more of `ids`, made or split off if need be."""
        key = tokens_at(ids, node.end)
        child = node.children.get(key)
        if child is None:
            child = node.children[key] = Node(ids, node.end, len(ids), node)
            self.tokens += child.end - child.begin
            return child
        end = child.begin + shared(child.ids[child.begin : child.end], ids[child.begin :])
        if end == child.end and (end == len(ids) or end % BLOCK_TOKENS == 0):
            return child
        upper = Node(ids, child.begin, end - end % BLOCK_TOKENS, node)
        upper.children[tokens_at(child.ids, upper.end)] = child
        child.parent, child.begin = upper, upper.end
        node.children[key] = upper
        return upper


def shared(ids: np.ndarray, other: np.ndarray) -> int:
    """Return how many tokens two runs begin with in common."""
    length = min(len(ids), len(other))
    differs = ids[:length] != other[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def _join(node: Node[T]) -> None:
    """Make one run of a node and its only child, unless an item ends between them."""
    parent = node.parent
    if parent is None or node.items or len(node.children) != 1:
        return
    (child,) = node.children.values()
    child.parent, child.begin = parent, node.begin
    parent.children[tokens_at(child.ids, child.begin)] = child
