"""Which text of an item over the limit is cut, at which end, and how much of it stays.

Only the texts of prompt and response are ever cut, at tokens of their own: what is rendered of an
item that was cut is what would be rendered of those texts. Nothing is tokenized here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from assay.errors import ItemTooLong
from assay.items import Conversation, Cut, Side, Solution, Text, Truncation, said

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.items import Message, Source

    Spans = Sequence[tuple[int, int]]  # of each token of a text: its first character, and its end

CUT_RESPONSES = ', or send "truncation": "response_end"'
_TRIES = 24


@dataclass(frozen=True, slots=True)
class Sides:
    """At which end prompt and response are cut."""

    prompt: Side = "start"
    response: Side = "end"


def plan(rule: Truncation, prompt: int, response: int, removed: int) -> tuple[int, int]:
    """Return how many tokens of prompt and response stay where so many are removed."""
    match rule:
        case "prompt_start":
            return prompt - removed, response
        case "response_end":
            return prompt, response - removed
    return longest_first(prompt, response, prompt + response - removed)


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of two texts stay, as the tokenizers' own longest-first has it."""
    room = max(room, 0)
    if first + second <= room:
        return first, second
    if min(first, second) <= room // 2:
        short = min(first, second)
        return (short, room - short) if first <= second else (room - short, short)
    half, rest = room // 2, room - room // 2  # the longer text has the odd token, or the second
    return (half, rest) if first <= second else (rest, half)


def cut_of(source: Source | None, prompt: bool, response: bool) -> Cut:
    """Return the name of what was cut of an item."""
    if isinstance(source, Text):
        return "text"
    return "both" if prompt and response else "response" if response else "prompt"


def response_too_long(needed: int, room: int) -> ItemTooLong:
    """Return the refusal of a response of so many tokens, which a rule would have whole."""
    return ItemTooLong(
        f"the response alone has {needed} tokens, the model takes {room}; shorten it",
        advice=CUT_RESPONSES,
    )


def saying(turn: Message, text: str) -> Message:
    """Return a turn that says a text, in the form that its content has."""
    if text == said(turn):
        return turn
    content: Any = turn["content"]
    if not isinstance(content, str):
        content = [{**content[0], "text": text}]
        return {**turn, "content": content}
    return {**turn, "content": text}


def kept(text: str, spans: Spans, count: int, side: Side) -> str:
    """Return the text of so many of its tokens, cut at that end."""
    if count >= len(spans):
        return text
    if count <= 0:
        return ""
    return text[spans[-count][0] :] if side == "start" else text[: spans[count - 1][1]]


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of an item that may be cut, and where the tokens of each stand."""

    source: Conversation | Solution | Text
    turns: tuple[Spans, ...]  # of the prompt's turns, or of a text
    answer: Spans

    @classmethod
    def of(cls, source: Conversation | Solution | Text, spans: Callable[[str], Spans]) -> Texts:
        """Return an item's texts; the steps of a solution stay whole."""
        if isinstance(source, Text):
            return cls(source, (spans(source.text),), ())
        prompt = source.messages if isinstance(source, Solution) else source.messages[:-1]
        turns = tuple(spans(said(turn)) for turn in prompt)
        is_answered = isinstance(source, Conversation)
        return cls(source, turns, spans(said(source.messages[-1])) if is_answered else ())

    @property
    def prompt(self) -> int:
        """The tokens of all the prompt's turns."""
        return sum(map(len, self.turns))

    def most_removed(self, rule: Truncation) -> int:
        """Return how many tokens of the texts may go."""
        match rule:
            case "prompt_start":
                return self.prompt
            case "response_end":
                return len(self.answer) - 1  # nothing said can't be judged
        return self.prompt + len(self.answer)

    def shortened(self, prompt: int, response: int, sides: Sides) -> Source:
        """Return the item with so many tokens of prompt and response."""
        source = self.source
        if isinstance(source, Text):
            text = kept(source.text, self.turns[0], prompt, sides.prompt)
            return replace(source, text=text)
        turns = [
            self._turn(source.messages[place], place, count, sides.prompt)
            for place, count in enumerate(self._shares(prompt, sides.prompt))
        ]
        if isinstance(source, Solution):
            return replace(source, messages=tuple(turns))
        last = source.messages[-1]
        text = kept(said(last), self.answer, response, sides.response)
        return replace(source, messages=(*turns, saying(last, text)))

    def _turn(self, turn: Message, place: int, count: int, side: Side) -> Message:
        return saying(turn, kept(said(turn), self.turns[place], count, side))

    def _shares(self, tokens: int, side: Side) -> list[int]:
        """Return how many tokens each turn keeps: those far from the cut keep theirs."""
        sizes = [len(spans) for spans in self.turns]
        shares = []
        for size in reversed(sizes) if side == "start" else sizes:
            shares.append(min(size, tokens))
            tokens -= shares[-1]
        return shares[::-1] if side == "start" else shares


def fewest(first: int, most: int, excess: Callable[[int], int]) -> int | None:
    """Return the fewest tokens, about, whose removal leaves no excess; None if `most` does.

    `excess` says by how many tokens an item is still over the limit (below 0: how many it has
    left) once so many are removed; texts cut elsewhere may be tokenized a little otherwise.
    """
    low, high = 0, most + 1  # `low` is too few, `high` is enough, or not tried
    removed = min(max(first, 1), most)
    for _ in range(_TRIES):
        if high - low <= 1:
            break
        over = excess(removed)
        if over == 0:
            return removed
        low, high = (removed, high) if over > 0 else (low, removed)
        removed = min(max(removed + over, low + 1), high - 1)
    return high if high <= most else None


def words(text: str) -> list[tuple[int, int]]:
    """Return the places of a text's characters, for tokenizers that don't say where tokens are."""
    return list(pairwise(range(len(text) + 1)))
