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
        previous, current = rewards[place - 1], rewards[place]
        margin = means[place - 1] - means[place]
        if previous and current and margin and _share_prompt(sources[place - 1], sources[place]):
            above = sum(map(gt if margin > 0 else lt, previous, current))
            yield above / len(previous)


def _share_prompt(previous: Source, current: Source) -> bool:
    if isinstance(previous, Conversation) and isinstance(current, Conversation):
        return previous.messages[:-1] == current.messages[:-1] and previous.inputs == current.inputs
    if isinstance(previous, Solution) and isinstance(current, Solution):
        return previous.messages == current.messages and previous.inputs == current.inputs
    return False
