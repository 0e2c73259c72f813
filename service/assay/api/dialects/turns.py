"""Conversations as foreign contracts send them: turns of text, or of parts of text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from assay.api.dialects.contract import Body
from assay.engine.template import Conversation, Solution
from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.cards.mechanism import Steps
    from assay.engine.template import Source

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

    def message(self) -> dict[str, str]:
        """Return the turn as templates take it."""
        return {"role": self.role, "content": self.content}


def conversation(turns: Sequence[Turn], field: str, steps: Steps | None = None) -> Source:
    """Return a conversation to score.

    It is in steps where its last turn is spelt as the card spells them. What stands behind the last
    step's marker can't change a step's score, and is left out.

    Raises:
        InvalidField: The assistant's turn isn't the last.
    """
    if not turns or turns[-1].role != "assistant":
        raise InvalidField(f"'{field}' must end with the assistant turn to score", param=field)
    messages = tuple(turn.message() for turn in turns)
    if steps is None or steps.form != "joined" or steps.step.endswith("{step}"):
        return Conversation(messages)
    form = re.escape(steps.step)
    form = form.replace(re.escape("{number}"), r"\d+").replace(re.escape("{step}"), "(.*?)")
    *prompt, response = messages
    found = re.findall(form, response["content"], re.DOTALL)
    spelt = steps.between.join(
        steps.step.replace("{number}", str(number)).replace("{step}", step)
        for number, step in enumerate(found, 1)
    )
    if not found or not response["content"].startswith(spelt):
        return Conversation(messages)
    return Solution(tuple(prompt), tuple(found))
