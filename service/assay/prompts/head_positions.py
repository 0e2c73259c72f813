"""The places of a sequence that heads read, where that isn't simply its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assay.cards.mechanism import Read
from assay.errors import InvalidField
from assay.items import ReadPositions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.cards.card import Card
    from assay.cards.mechanism import Token

_LAST = Read()


def find(ids: np.ndarray, pattern: Sequence[int]) -> np.ndarray:
    """Return where a pattern of ids begins in a sequence, (places,) int64, in order."""
    count = len(ids) - len(pattern) + 1
    if count <= 0:
        return np.empty(0, np.int64)
    matches = np.ones(count, dtype=bool)
    for shift, token in enumerate(pattern):
        matches &= ids[shift : shift + count] == token
    return np.flatnonzero(matches)


class HeadPositionFinder:
    """Where a card's heads read."""

    def __init__(self, card: Card, token_id: Callable[[Token], int]) -> None:
        """Look up the patterns' ids; `token_id` may refuse a token."""
        head_reads = [head.read for head in card.heads.values()]
        reads: list[Read] = []
        if any(head_reads):
            reads = [read or card.read or _LAST for read in head_reads]
        elif card.read is not None and card.read.at not in ("last", "first", "mean"):
            reads = [card.read]
        self._reads = [(read, [token_id(token) for token in read.pattern]) for read in reads]
        self._joined = max((head.joined for head in card.heads.values()), default=1)

    @property
    def needs_prompt(self) -> bool:
        """Whether some head reads where the prompt ends."""
        return any(read.at == "prompt" for read, _ in self._reads)

    def positions(
        self, ids: np.ndarray, steps: int | None, prompt_end: int | None = None
    ) -> ReadPositions | None:
        """Return where a sequence is read, of so many steps if it has any; None: at its end.

        `prompt_end` is the place of the prompt's last token, for heads that need it.

        Raises:
            InvalidField: What the heads are read at stands nowhere, or not once a step.
        """
        if not self._reads:
            return None
        places = [
            place
            for read, pattern in self._reads
            for place in _places(ids, read, pattern, prompt_end)
        ]
        if steps is not None and len(places) != steps:
            raise InvalidField(
                f"{steps} steps were sent, and the model's marker stands at {len(places)} places: "
                "no step, nor the prompt, may hold the marker",
                param="steps",
            )
        return ReadPositions(np.asarray(places, np.int32), joined=self._joined)


def _places(
    ids: np.ndarray, read: Read, pattern: Sequence[int], prompt_end: int | None
) -> list[int]:
    """Return where one head reads a sequence."""
    match read.at:
        case "prompt":
            if prompt_end is None:
                raise InvalidField(
                    "the model is read where the prompt ends",
                    advice="; send 'prompt' with its response",
                )
            return [prompt_end]
        case "last":
            return [len(ids) - 1]
        case "first":
            return [0]
    if read.which == "each":
        return [_last_place(ids, [token], 0) for token in pattern]
    if read.which == "last":
        return [_last_place(ids, pattern, read.offset)]
    places = find(ids, pattern) + read.offset
    if not len(places):
        raise InvalidField("the model's marker stands nowhere in the item: there is no score")
    return [int(place) for place in places]


def _last_place(ids: np.ndarray, pattern: Sequence[int], offset: int) -> int:
    places = find(ids, pattern)
    if not len(places):
        raise InvalidField(
            "what the model is read at stands nowhere in the item; send it as a conversation, or "
            "shorten its prompt"
        )
    return int(places[-1]) + offset
