"""Pure: waiting work and a budget in, a batch out. No clock, no torch, no await."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.engine.messages import Forest

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np


@dataclass(frozen=True, slots=True, order=True)
class Work:
    """One item for one model, waiting. Ordered by turn, then by arrival."""

    turn: float
    sequence: int
    ids: np.ndarray = field(compare=False)  # (tokens,) int32

    @property
    def tokens(self) -> int:
        """Tokens the device would compute for this item alone."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A batch as a prefix forest; `order[i]` is the sequence number of its item i."""

    forest: Forest
    order: tuple[int, ...]


def plan(waiting: Iterable[Work], budget_tokens: int) -> Plan:
    """Take work in the given order until the budget is full.

    The first item always goes, however long. Filling stops at the first item that doesn't fit, so a
    long item is never overtaken for ever. Each item is a tree of its own for now.
    """
    taken: list[Work] = []
    used = 0
    for work in waiting:
        if taken and used + work.tokens > budget_tokens:
            break
        taken.append(work)
        used += work.tokens
    return Plan(
        forest=Forest.unshared([work.ids for work in taken]),
        order=tuple(work.sequence for work in taken),
    )
