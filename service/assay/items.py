"""What can be scored, how much of it may be cut, and what a model reads of it.

An item is a conversation, a solution in steps, two responses to compare, text that has its template
already, or token ids. A template and a tokenizer make a rendered item of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import numpy as np

# Which special tokens a text gets: as the card says, those that the tokenizer adds to plain text by
# itself, each once and where no card says otherwise, or none.
Specials = Literal["card", "tokenizer", "none"]
# A turn as `apply_chat_template` takes it: `content` is a text, parts of text, or absent.
Message = dict[str, Any]
_PLAIN = {"role", "content"}


@dataclass(frozen=True)
class TemplateInputs:
    """What a chat template gets beside the turns, as `apply_chat_template` takes it."""

    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] | None = None  # `chat_template_kwargs`

    @cached_property
    def names(self) -> list[str]:
        """What is given, as fields of a request."""
        fields = [("tools", self.tools), ("documents", self.documents)]
        variables = (f"chat_template_kwargs.{name}" for name in self.variables or ())
        return [*(name for name, value in fields if value), *variables]

    @cached_property
    def key(self) -> str:
        """What tells them from others, as JSON."""
        values = (self.tools, self.documents, self.variables)
        return "" if values == (None, None, None) else json.dumps(values)


NO_INPUTS = TemplateInputs()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns for the chat template; the last one is the assistant's, to be scored."""

    messages: tuple[Message, ...]
    inputs: TemplateInputs = NO_INPUTS
    specials: Specials = "card"


@dataclass(frozen=True, slots=True)
class Solution:
    """A prompt's turns and the steps that answer it."""

    messages: tuple[Message, ...]
    steps: tuple[str, ...]
    inputs: TemplateInputs = NO_INPUTS


@dataclass(frozen=True, slots=True)
class Contest:
    """A prompt's turns and two responses to it."""

    messages: tuple[Message, ...]
    first: str
    second: str
    inputs: TemplateInputs = NO_INPUTS


@dataclass(frozen=True, slots=True)
class Text:
    """Text that already went through a template."""

    text: str
    specials: Specials = "card"


@dataclass(frozen=True, slots=True)
class Ids:
    """Token ids, scored verbatim; `reads_all` of them, whatever the card reads.

    `segments` are as many segment ids, BERT's token type ids; None: all 0.
    """

    ids: Sequence[int]
    reads_all: bool = False
    segments: Sequence[int] | None = None


Source = Conversation | Solution | Contest | Text | Ids


def said(message: Message) -> str:
    """Return what a turn says: its text, or its parts of text, a line each as vLLM joins them."""
    content = message.get("content", "")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content)


def carried(message: Message) -> tuple[str, ...]:
    """Return the fields that a turn has beside role and content."""
    return () if message.keys() <= _PLAIN else tuple(name for name in message if name not in _PLAIN)


def message_length(message: Message) -> int:
    """Return how much text a turn has, calls of tools and the like included."""
    size = len(said(message))
    if message.keys() <= _PLAIN:
        return size
    return size + sum(len(_written(message[name])) for name in carried(message))


def message_key(message: Message) -> Hashable:
    """Return what tells a turn from others."""
    return tuple(
        (name, value if isinstance(value, str) else (_written(value),))
        for name, value in message.items()
    )


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def characters(source: Source) -> int:
    """Return how much text an item has."""
    match source:
        case Ids():
            return 0
        case Text():
            return len(source.text)
    count = sum(map(message_length, source.messages))
    if source.inputs is not NO_INPUTS:
        count += len(source.inputs.key)
    match source:
        case Solution():
            count += sum(map(len, source.steps))
        case Contest():
            count += len(source.first) + len(source.second)
    return count


# --- what may be cut ---

Truncation = Literal["prompt_start", "response_end", "longest_first"]
Side = Literal["start", "end"]
SpecialTokenRule = Literal["parse", "refuse", "split"]
Cut = Literal["prompt", "response", "both", "text"]


@dataclass(frozen=True, slots=True)
class Cutting:
    """What may be cut: by a rule, else the card's; at one end of all texts, if that is named.

    A response of more than `response_tokens` is cut to so many first. And how special tokens in
    the texts are taken, if not as the card has it.
    """

    rule: Truncation | None = None
    side: Side | None = None
    response_tokens: int | None = None
    special_tokens: SpecialTokenRule | None = None


# --- what a model reads ---


@dataclass(frozen=True, slots=True, eq=False)
class ReadPositions:
    """Places of one item; with `joined` each so many neighbours are read side by side."""

    positions: np.ndarray  # (positions,) int32, in the item's own ids
    next_ids: np.ndarray | None = None  # (positions,) int32, whose probability is asked for
    joined: int = 1

    @property
    def rows(self) -> int:
        """How many rows of numbers the item gets."""
        return len(self.positions) // self.joined

    def pairs(self) -> list[tuple[int, int]]:
        """Return what tells rows of one text apart: the place, and the token after it or -1."""
        following = [-1] * len(self.positions) if self.next_ids is None else self.next_ids.tolist()
        return list(zip(self.positions.tolist(), following, strict=True))


@dataclass(frozen=True, slots=True)
class TokenizedItem:
    """What the model reads of one item: `ids` is (tokens,) int32; no `read_at`: at its end.

    `text` is what these ids were tokenized from, where that is one text; `cut` what was cut of the
    item first. Where text came templated, `ends_as_expected` says whether it ends as the template
    ends a conversation: generation that was cut off doesn't.

    `segments` are its segment ids, (tokens,) int32; None: all 0. `has_mentions` says whether
    special tokens were in what is said.
    """

    ids: np.ndarray
    text: str | None
    cut: Cut | None = None
    read_at: ReadPositions | None = None
    segments: np.ndarray | None = None
    ends_as_expected: bool = True
    has_mentions: bool = False

    @property
    def truncated(self) -> bool:
        """Whether anything was cut."""
        return self.cut is not None
