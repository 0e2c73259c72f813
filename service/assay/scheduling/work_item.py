"""What waits to be computed: items of requests of callers, and what decides whose turn it is."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from assay.fair_share import Caller
    from assay.items import ReadPositions


@dataclass(eq=False, slots=True)
class RequestFlow:
    """What waits of one request for one model, in order.

    `virtual_time` is the turn of its first item.

    It shares prefixes with others of its `scope` alone.
    """

    caller: Caller | None = None
    priority_offset: float = 0.0  # how much later than others its turns are: batch priority has one
    virtual_time: float = 0.0
    number: int = 0  # of its valid entry in the line
    works: OrderedDict[WorkItem, None] = field(default_factory=OrderedDict)
    scope: str = ""

    @property
    def is_batch(self) -> bool:
        """Whether interactive work goes before it."""
        return self.priority_offset > 0

    @property
    def turn(self) -> float:
        """The turn of its first item, as if it were interactive."""
        return self.virtual_time - self.priority_offset

    @property
    def rank(self) -> tuple[float, float, int]:
        """What decides between callers' first requests: the least goes first."""
        received = self.caller.given if self.caller else 0.0
        return received + self.priority_offset, self.virtual_time, self.number


@dataclass(eq=False, slots=True)
class WorkItem:
    """One item for one model, waiting; a second try goes alone."""

    ids: np.ndarray  # (tokens,) int32
    flow: RequestFlow
    goes_alone: bool = False
    read_at: ReadPositions | None = None  # where it is read, if not at its end
    segments: np.ndarray | None = None  # (tokens,) int32; None: all 0

    @property
    def tokens(self) -> int:
        """Tokens the device would compute for this item alone."""
        return len(self.ids)
