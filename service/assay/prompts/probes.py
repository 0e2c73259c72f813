"""Whether what is said in each turn comes through a template: markers put where texts stand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from assay.items import Contest, Conversation, Solution

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from assay.items import Message, Source

WORDS = ("Hello", "Hi")  # of samples
ANSWERS = ("Yes, 7.", "No (12)")  # that end otherwise
MARKER = "7 apples, 12 pears"  # takes the place of one text of a sample at a time


def variants(source: Source) -> Iterator[tuple[str, Source]]:
    """Yield an item with one of its texts replaced, for each text, with whose text that was."""
    if isinstance(source, Conversation | Solution | Contest):
        for place, message in enumerate(source.messages):
            turns = list(source.messages)
            turns[place] = {**message, "content": MARKER}
            yield message["role"], replace(source, messages=tuple(turns))
    if isinstance(source, Solution):
        for place in range(len(source.steps)):
            steps = list(source.steps)
            steps[place] = MARKER
            yield f"step {place + 1}", replace(source, steps=tuple(steps))
    if isinstance(source, Contest):
        yield "the first response", replace(source, first=MARKER)
        yield "the second response", replace(source, second=MARKER)


def marked(roles: Sequence[str]) -> list[Message]:
    """Return a conversation of these roles in which each turn says something else."""
    return [{"role": role, "content": _mark(place)} for place, role in enumerate(roles)]


def missing(text: str, count: int) -> list[int]:
    """Return which turns of `marked` aren't in a text, whatever its case."""
    text = text.casefold()
    return [place for place in range(count) if _mark(place) not in text]


def _mark(place: int) -> str:
    return f"turn{10_000 + place}e"
