"""What an answered request shows of its target's rewards: long answers, members that disagree.

For the metrics only; no answer carries it.
"""

from __future__ import annotations

from operator import gt, lt
from typing import TYPE_CHECKING, Literal

from assay.items import Contest, Conversation, Ids, Solution, Text, message_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from assay.items import Source

Length = Literal["response", "text", "ids"]


def length(source: Source) -> tuple[Length, int]:
    """Return how long an item is: its response, or all of it where that can't be told apart."""
    match source:
        case Conversation():
            return "response", message_length(source.messages[-1])
        case Ids():
            return "ids", len(source.ids)
        case Text():
            return "text", len(source.text)
        case Solution():
            return "response", sum(map(len, source.steps))
        case Contest():
            return "response", len(source.first) + len(source.second)


def agreements(
    sources: Sequence[Source], rewards: Sequence[Sequence[float]], means: Sequence[float]
) -> Iterator[float]:
    """Yield, for neighbouring responses to one prompt, the share of members on the mean's side.

    `rewards` are those of each source's members, empty where it has none. Where the means tie there
    is no side to be on.
    """
    for place in range(1, len(sources)):
        one, other = rewards[place - 1], rewards[place]
        margin = means[place - 1] - means[place]
        if one and other and margin and _share_prompt(sources[place - 1], sources[place]):
            above = sum(map(gt if margin > 0 else lt, one, other))
            yield above / len(one)


def _share_prompt(one: Source, other: Source) -> bool:
    if isinstance(one, Conversation) and isinstance(other, Conversation):
        return one.messages[:-1] == other.messages[:-1] and one.inputs == other.inputs
    if isinstance(one, Solution) and isinstance(other, Solution):
        return one.messages == other.messages and one.inputs == other.inputs
    return False
