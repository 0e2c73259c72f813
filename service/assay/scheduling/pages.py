"""Which pages of keys and values a device keeps, by the tokens they stand for. Pure.

A trie: a page is known by its `PAGE_TOKENS` tokens and by the pages before it, the first ones also
by their scope: no page is read for another. What was used longest ago gives way first, whosever it
is, never a page before those that continue it. A device runs its batches
in order, so a page counts as kept as soon as the batch that writes it is planned; when a batch
fails, forget all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.worker_protocol import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from assay.scheduling.head_outputs import Key, Reading


@dataclass(eq=False, slots=True)
class Page:
    """The tokens after a parent's; `number` is where the device has their keys and values.

    A root has no tokens, and the scope of all that continue it.
    """

    number: int
    tokens: bytes
    parent: Page | None
    children: dict[bytes, Page] = field(default_factory=dict)
    readings: dict[Key, Reading] = field(default_factory=dict)
    scope: str = ""


class PrefixCache:
    """The pages of one model on one device."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.clear()

    def __len__(self) -> int:
        return len(self._by_use)

    def clear(self) -> None:
        """Forget everything."""
        self._roots: dict[str, Page] = {}  # by scope, of those that have pages
        self._free = list(range(self._count - 1, -1, -1))
        self._by_use: OrderedDict[Page, None] = OrderedDict()  # used longest ago first
        self._current: set[Page] = set()

    def root(self, scope: str) -> Page:
        """Return what the first pages of a scope continue."""
        return self._roots.get(scope) or Page(-1, b"", None, scope=scope)

    def path(self, ids: np.ndarray, scope: str = "") -> list[Page]:
        """Return the pages kept of what a sequence begins with, in order."""
        found: list[Page] = []
        page = self._roots.get(scope)
        for begin in range(0, len(ids) - PAGE_TOKENS + 1, PAGE_TOKENS):
            page = page.children.get(tokens_at(ids, begin)) if page else None
            if page is None:
                break
            found.append(page)
        return found

    def open(self, pages: Iterable[Page]) -> None:
        """Begin a batch that reads pages, parents first: none of them gives way to its own."""
        self._current = set()
        self.use(list(pages))

    def add(self, parent: Page, tokens: bytes) -> Page | None:
        """Return a page for what this batch leaves behind another; None where none gives way."""
        if not self._free and not self._give_way():
            return None
        if parent.parent is None:
            self._roots[parent.scope] = parent
        page = parent.children[tokens] = Page(self._free.pop(), tokens, parent)
        self._by_use[page] = None
        self._current.add(page)
        return page

    def use(self, pages: Sequence[Page]) -> None:
        """Note that this batch reads or writes pages; parents come first, and outlast the rest."""
        for page in reversed(pages):
            self._by_use.move_to_end(page)
        self._current.update(pages)

    def forget(self, page: Page) -> None:
        """Free a page and those that continue it."""
        for child in list(page.children.values()):
            self.forget(child)
        self._free_page(page)

    def _give_way(self) -> bool:
        """Free the page used longest ago, unless this batch uses it."""
        page = next(iter(self._by_use), None)
        if page is None or page in self._current:
            return False
        self._free_page(page)
        return True

    def _free_page(self, page: Page) -> None:
        del self._by_use[page]
        if (parent := page.parent) is not None:
            del parent.children[page.tokens]
            if parent.parent is None and not parent.children:
                del self._roots[parent.scope]
        self._free.append(page.number)


def tokens_at(ids: np.ndarray, begin: int) -> bytes:
    """Return what a page is known by: the tokens from a place on."""
    return ids[begin : begin + PAGE_TOKENS].tobytes()
