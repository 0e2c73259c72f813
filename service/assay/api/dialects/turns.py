"""Conversations as foreign contracts send them: turns of text, or of parts of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Discriminator, Field, Tag

from assay import wire
from assay.api.dialects.contract import Body
from assay.engine.template import Conversation
from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Sequence


def _form(value: object) -> str | None:
    if isinstance(value, str):
        return "as-text"
    return "as-messages" if isinstance(value, list) else None


BY_FORM = Discriminator(
    _form, custom_error_type="form", custom_error_message="send a string or a list"
)
_TYPES = {"text", "input_text", "output_text", None}


def text_of(content: object) -> object:
    """Return the text of a string, of parts of text (a line each, as vLLM joins them), of none."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    texts = [_text(part) for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("send text, or parts of text: [{'type': 'text', 'text': ...}]")
    return "\n".join(map(str, texts))


def _text(part: object) -> object:
    if isinstance(part, dict) and part.get("type") in _TYPES:
        return part.get("text")
    return None


Words = Annotated[str, BeforeValidator(text_of)]


class Turn(Body):
    """One turn of a conversation."""

    role: str = Field(min_length=1)
    content: Words = ""
    name: str | None = None

    def message(self) -> dict[str, str]:
        """Return the turn as templates take it."""
        turn = {"role": self.role, "content": self.content}
        return turn if self.name is None else {**turn, "name": self.name}


Prompt = Annotated[
    Annotated[str, Tag("as-text")] | Annotated[list[Turn], Field(min_length=1), Tag("as-messages")],
    BY_FORM,
]


def conversation(turns: Sequence[Turn], field: str) -> Conversation:
    """Return a conversation to score.

    Raises:
        InvalidField: The assistant's turn isn't the last.
    """
    if not turns or turns[-1].role in wire.NO_ANSWERS:
        raise InvalidField(f"'{field}' must end with the assistant turn to score", param=field)
    return Conversation(tuple(turn.message() for turn in turns))
