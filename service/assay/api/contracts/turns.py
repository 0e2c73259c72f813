"""Conversations as foreign contracts send them: turns of text, or of parts of text.

All that a turn carries goes to the chat template, as on the native routes: what that doesn't render
is refused by its name. Fields that nobody knows are passed over, as these contracts have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from assay import wire
from assay.api.contracts.contract import Body
from assay.errors import InvalidField
from assay.items import NO_INPUTS, Conversation
from assay.scoring import items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.items import Message, TemplateInputs


def _form(value: object) -> str | None:
    if isinstance(value, str):
        return "as-text"
    return "as-messages" if isinstance(value, list) else None


BY_FORM = Discriminator(
    _form, custom_error_type="form", custom_error_message="send a string or a list"
)
ROLES = {"developer": "system"}  # a newer name
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
_SAID = ("text", "refusal", "thinking")  # where a part of a turn has its text
_CARRIED = (*wire.CARRIED, "function_call", "refusal")


def _part(value: object) -> object:
    """Return a part of text as the template takes it."""
    if isinstance(value, str):
        return {"type": "text", "text": value}
    if isinstance(value, dict) and value.get("type") in _TYPES | {*_SAID}:
        text = next((value[name] for name in _SAID if isinstance(value.get(name), str)), None)
        if text is not None:
            return {"type": "text", "text": text}
    raise ValueError("a reward model reads text only: send parts {'type': 'text', 'text': ...}")


def _no_sound(value: object) -> object:
    if value is not None:
        raise ValueError("a reward model reads text only; leave 'audio' out")
    return value


Part = Annotated[dict[str, str], BeforeValidator(_part)]
Content = Annotated[
    Annotated[str, Tag("as-text")] | Annotated[list[Part], Tag("as-messages")],
    BY_FORM,
]


class Turn(Body):
    """One turn of a conversation."""

    role: str = Field(min_length=1)
    content: Content | None = None
    name: str | None = None
    tool_calls: list[wire.ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    function_call: dict[str, Any] | None = None
    refusal: str | None = None
    audio: Annotated[Any, AfterValidator(_no_sound)] = None

    def message(self) -> Message:
        """Return the turn as templates take it."""
        fields = ((name, getattr(self, name)) for name in _CARRIED)
        carried = {name: value for name, value in fields if value not in (None, [])}
        content = self.content or ("" if self.content is not None or not carried else None)
        said = {} if content is None else {"content": content}
        return {"role": self.role, **said, **carried}

    def native(self, field: str) -> wire.Message:
        """Return the turn as native requests have it.

        Raises:
            InvalidField: It has what these don't know.
        """
        turn = self.message()
        for name in ("function_call", "refusal"):
            if name in turn:
                raise InvalidField(f"leave '{name}' out", param=field)
        return wire.Message.model_validate(turn)


Prompt = Annotated[
    Annotated[str, Tag("as-text")] | Annotated[list[Turn], Field(min_length=1), Tag("as-messages")],
    BY_FORM,
]


class Templated(Body):
    """What the chat template gets beside the turns."""

    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def inputs_of(body: Body) -> TemplateInputs:
    """Return what a request has for the chat template beside the turns."""
    names = wire.TemplateInputs.model_fields
    present = {name: value for name in names if (value := getattr(body, name, None)) is not None}
    return items.inputs(wire.TemplateInputs.model_validate(present)) if present else NO_INPUTS


def check_untemplated(body: Templated, field: str) -> None:
    """Refuse what only a chat template reads beside text that goes through none.

    Raises:
        InvalidField: Something of it is sent.
    """
    for name in wire.TemplateInputs.model_fields:
        if getattr(body, name) is not None:
            raise InvalidField(
                f"'{name}' is for the chat template, which '{field}' doesn't go through; leave it "
                "out, or send 'messages'",
                param=name,
            )


def conversation(
    turns: Sequence[Turn], field: str, inputs: TemplateInputs = NO_INPUTS
) -> Conversation:
    """Return a conversation to score.

    Raises:
        InvalidField: The assistant's turn isn't the last.
    """
    if not turns or turns[-1].role in wire.NO_ANSWERS:
        raise InvalidField(f"'{field}' must end with the assistant turn to score", param=field)
    return Conversation(tuple(turn.message() for turn in turns), inputs)
