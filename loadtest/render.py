"""What the model reads of an item, found outside the clock: text for vLLM, tokens for rates."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from assay.items import Conversation, TokenizedItem
from assay.prompts.template import Template

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from loadtest.workloads import Item, Load


class Renderer:
    """A checkpoint's chat template and tokenizer, as Assay applies them."""

    def __init__(self, checkpoint: Path) -> None:
        self._template = Template(checkpoint)

    def load(self, load: Load) -> Load:
        """Return the load with every item's text and count of tokens."""
        return load.with_items(self.items(load.items))

    def items(self, items: Sequence[Item]) -> list[Item]:
        """Return the items with text, ids and count of tokens.

        Raises:
            SystemExit: An item can't be rendered.
        """
        rendered = self._template.render_all([_conversation(item) for item in items])
        return [_with(item, one) for item, one in zip(items, rendered, strict=True)]


def distinct_tokens(items: Iterable[Item]) -> int:
    """Return the number of nodes of the items' prefix tree: what a prefix batch has to compute."""
    ordered = sorted(item.ids for item in items)
    shared = sum(_common(one, other) for one, other in pairwise(ordered))
    return sum(map(len, ordered)) - shared


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


def _conversation(item: Item) -> Conversation:
    user = {"role": "user", "content": item.prompt}
    return Conversation((user, {"role": "assistant", "content": item.response}))


def _with(item: Item, rendered: TokenizedItem | Exception) -> Item:
    if not isinstance(rendered, TokenizedItem):
        raise SystemExit(f"an item can't be rendered: {rendered}")
    ids = tuple(rendered.ids.tolist())
    return replace(item, text=rendered.text, tokens=len(ids), ids=ids)
