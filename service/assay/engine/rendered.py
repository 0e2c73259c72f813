"""What the model reads of one item, and what was cut of it first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from assay.engine.marks import Marks
    from assay.engine.truncation import Cut


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the model reads of one item: `ids` is (tokens,) int32; no `marks`, read at its end.

    `text` is what these ids were tokenized from, where that is one text; `cut` what was cut of the
    item first. Where text came templated, `ends_as_expected` says whether it ends as the template
    ends a conversation: generation that was cut off doesn't.

    `segments` are its segment ids, (tokens,) int32; None: all 0. `has_mentions` says whether
    special tokens were in what is said.
    """

    ids: np.ndarray
    text: str | None
    cut: Cut | None = None
    marks: Marks | None = None
    segments: np.ndarray | None = None
    ends_as_expected: bool = True
    has_mentions: bool = False

    @property
    def truncated(self) -> bool:
        """Whether anything was cut."""
        return self.cut is not None
