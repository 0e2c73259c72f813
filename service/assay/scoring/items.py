"""Wire items to what a template renders, and the paths by which errors name them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from assay import wire
from assay.items import (
    NO_INPUTS,
    Contest,
    Conversation,
    Ids,
    Solution,
    Source,
    TemplateInputs,
    Text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.items import Message

    Prompt = str | Sequence[wire.Message]
    Pairs = Sequence[tuple[int, int]]
    Candidates = list[str] | list[list[str]]
    Groups = Sequence[tuple[Prompt, Candidates]]
    Path = Callable[[int, str | None], str]  # by an item's place, and a field of it

_MESSAGES = "messages"  # how the engine calls the turns of any item


def inputs(
    request: wire.TemplateInputs, entry: wire.TemplateInputs | None = None
) -> TemplateInputs:
    """Return what the chat template gets beside the turns: an item's own, else its request's."""
    tools, documents, variables = (
        _template_input(name, request, entry)
        for name in ("tools", "documents", "chat_template_kwargs")
    )
    if tools is None and documents is None and variables is None:
        return NO_INPUTS
    return TemplateInputs(tools, documents, variables)


def _template_input(
    name: str, request: wire.TemplateInputs, entry: wire.TemplateInputs | None
) -> Any:
    value = getattr(entry, name, None)
    return getattr(request, name) if value is None else value


def sources_of(items: Sequence[wire.Item], request: wire.TemplateInputs) -> list[Source]:
    """Return what a template renders for each item of a request."""
    return [
        source(item, beside)
        for item, beside in zip(items, each_inputs(request, items), strict=True)
    ]


def each_inputs(
    request: wire.TemplateInputs, entries: Sequence[wire.TemplateInputs]
) -> list[TemplateInputs]:
    """Return what the chat template gets beside the turns of each thing; mostly one for all."""
    shared = inputs(request)
    return [inputs(request, entry) if has_inputs(entry) else shared for entry in entries]


def has_inputs(entry: wire.TemplateInputs) -> bool:
    """Tell whether an item, comparison or group has tools and the like of its own."""
    return any(getattr(entry, name) is not None for name in wire.TemplateInputs.model_fields)


def source(item: wire.Item, beside: TemplateInputs = NO_INPUTS) -> Source:
    """Return what a template renders for one item."""
    if item.input_ids is not None:
        return Ids(item.input_ids, segments=item.token_type_ids)
    if item.text is not None:
        return Text(item.text)
    if item.messages is not None:
        return Conversation(tuple(message.turn() for message in item.messages), beside)
    return _answered(item.prompt or "", item.steps or item.response or "", beside)


def contests(
    prompt: Prompt,
    responses: Sequence[str],
    pairs: Pairs,
    beside: TemplateInputs = NO_INPUTS,
) -> list[Source]:
    """Return one source for each pair of responses, in order; the first of a pair is read first."""
    turns = _prompt_turns(prompt)
    return [Contest(turns, responses[first], responses[second], beside) for first, second in pairs]


def _answered(prompt: Prompt, answer: str | list[str], beside: TemplateInputs) -> Source:
    if isinstance(answer, list):
        return Solution(_prompt_turns(prompt), tuple(answer), beside)
    return Conversation((*_prompt_turns(prompt), {"role": "assistant", "content": answer}), beside)


def _prompt_turns(prompt: Prompt) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    return tuple(message.turn() for message in prompt)


def sources(groups: Groups, beside: Sequence[TemplateInputs] = ()) -> list[Source]:
    """Return one source for each response of each (prompt, responses), in order.

    `beside` is what the chat template gets beside the turns, one for each group, or nothing.
    """
    each = beside or [NO_INPUTS] * len(groups)
    return [
        _answered(prompt, answer, group_inputs)
        for (prompt, answers), group_inputs in zip(groups, each, strict=True)
        for answer in answers
    ]


Origin = wire.Item | int | None  # what the path of an error needs of an item


def origin(item: wire.Item) -> Origin:
    """Return an item that has tools and the like of its own; of another its prompt's `_turns`."""
    return item if has_inputs(item) else _turns(item.prompt)


def item_path(item: Origin, place: int, param: str | None) -> str:
    """Return the path of an item of `/score`, or of the field of it that an error is about."""
    if not param:
        return f"inputs[{place}]"
    entry = item if isinstance(item, wire.Item) else None
    if is_shared(entry, param):
        return param
    turns = _turns(item.prompt) if isinstance(item, wire.Item) else item
    if turns is not None:
        param = _answered_path(turns, param)
    return f"inputs[{place}].{param}"


def _turns(prompt: Prompt | None) -> int | None:
    """Return how many turns a prompt has; -1 where it came as a text, which has no fields."""
    return len(prompt) if isinstance(prompt, list) else None if prompt is None else -1


_TURN = re.compile(rf"{_MESSAGES}\[(\d+)\]")


def _answered_path(turns: int, param: str) -> str:
    """Return a field of an item by its name where the last turn came as its response."""
    turn = _TURN.match(param)
    if turn is None:
        return param
    if int(turn[1]) >= abs(turns):
        return "response"
    return "prompt" if turns < 0 else within("prompt", param)


def within(turns: str, param: str) -> str:
    """Return a field of an item by the name that its turns have in the request."""
    return turns + param.removeprefix(_MESSAGES) if param.startswith(_MESSAGES) else param


def is_shared(entry: wire.TemplateInputs | None, param: str) -> bool:
    """Tell whether an error is about what the request says for all of its items."""
    name = param.partition(".")[0]
    return name in wire.TemplateInputs.model_fields and getattr(entry, name, None) is None


def paths(field: str, groups: Groups, entries: Sequence[wire.TemplateInputs] = ()) -> Path:
    """Return the function from a source's place to its path in the request.

    `entries` are the groups as they came, which may have tools and the like of their own.
    """

    def path(place: int, param: str | None) -> str:
        for group, (prompt, answers) in enumerate(groups):
            if place < len(answers):
                entry, where = entries[group] if entries else None, f"{field}[{group}]"
                named = f"{where}.{_answer(entry, answers, place)}"
                return beside(where, entry, param, prompt) or named
            place -= len(answers)
        raise IndexError(place)

    return path


def _answer(entry: wire.TemplateInputs | None, answers: Sequence[object], place: int) -> str:
    """Return the name under which a response came."""
    if isinstance(entry, wire.Comparison) and entry.responses is None:
        return ("chosen", "rejected")[place]
    return f"{'responses' if isinstance(answers[place], str) else 'chains'}[{place}]"


def beside(
    where: str, entry: wire.TemplateInputs | None, param: str | None, prompt: Prompt
) -> str | None:
    """Return the path of an error about a group's prompt or its tools; None of another error."""
    if param is None:
        return None
    if is_shared(entry, param):
        return param
    if param.partition(".")[0] in wire.TemplateInputs.model_fields:
        return f"{where}.{param}"
    if not param.startswith(f"{_MESSAGES}["):
        return None
    answered = _answered_path(-1 if isinstance(prompt, str) else len(prompt), param)
    return None if answered == "response" else f"{where}.{answered}"
