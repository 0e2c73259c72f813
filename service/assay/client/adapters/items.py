"""What frameworks hand over, as native items: prompts and responses, strings or messages.

Of a message its role, content, name, calls of tools and reasoning count. What the model's template
can't render, images among it, is sent along, so that the item is refused rather than scored without
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from assay import wire
from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Iterable

    from assay.client.adapters.reward import Item, Reward

_CARRIED = wire.CARRIED
_TEXT = (*get_args(wire.PartType), None)


def pair(reward: Reward, prompt: Any, response: Any, **inputs: Any) -> Item:
    """Return a prompt and a response, each a string or messages, as one item.

    `inputs` are those of this item for the template: `tools`, `documents`.
    """
    template_inputs = {name: _plain(value) for name, value in inputs.items() if value is not None}
    if not isinstance(response, str):
        before = [spoken("user", prompt)] if isinstance(prompt, str) else turns(prompt)
        return {"messages": [*before, *turns(response)], **template_inputs}
    if isinstance(prompt, str) and reward.verbatim:
        return {"text": prompt + response}
    return {
        "prompt": prompt if isinstance(prompt, str) else turns(prompt),
        "response": _unended(response, reward.turn_end),
        **template_inputs,
    }


def pairs(
    reward: Reward, prompts: Iterable[Any], responses: Iterable[Any], **columns: Any
) -> list[Item]:
    """Return an item for each prompt with its response.

    `columns` are those of the data for the template, `tools` and `documents`: a value for each
    prompt, or None.

    Raises:
        InvalidField: There isn't one for each prompt.
    """
    present = {name: column for name, column in columns.items() if column is not None}
    rows = together(prompts=prompts, responses=responses, **present)
    return [
        pair(reward, prompt, response, **dict(zip(present, values, strict=True)))
        for prompt, response, *values in rows
    ]


def together(**columns: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of columns.

    Raises:
        InvalidField: One column is longer than another.
    """
    lists = {name: list(column) for name, column in columns.items()}
    (first, size), *others = ((name, len(column)) for name, column in lists.items())
    for name, other in others:
        if other != size:
            raise InvalidField(f"{size} {first} don't go with {other} {name}: give as many of each")
    return list(zip(*lists.values(), strict=True))


def solution(prompt: Any, response: str, separator: str | None) -> Item:
    """Return a prompt and a response in steps; without a separator it is one step."""
    steps = [response] if separator is None else response.split(separator)
    return {
        "prompt": prompt if isinstance(prompt, str) else turns(prompt),
        "steps": [step for step in steps if step.strip()] or [response],
    }


def turns(messages: Iterable[Any]) -> list[dict[str, Any]]:
    """Return messages, mappings or objects, as the wire has them."""
    return [_turn(message) for message in messages]


def spoken(role: str, content: str) -> dict[str, Any]:
    """Return one turn."""
    return {"role": role, "content": content}


def _turn(message: Any) -> dict[str, Any]:
    content = _field(message, "content")
    also = {name: _plain(value) for name in _CARRIED if _is_given(value := _field(message, name))}
    said = {} if content is None and also else {"content": _content(content)}
    return {"role": _field(message, "role"), **said, **also}


def _field(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def _is_given(value: Any) -> bool:
    """Tell whether a field says anything; columns of tables have all fields in every row."""
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def _content(content: Any) -> Any:
    """Return a content: text, or its parts, those of text without what tables add to them."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return [_part(part) for part in _plain(content)]


def _part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    is_text = isinstance(part, Mapping) and part.get("type", "text") in _TEXT
    if is_text and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    return part


def _plain(value: Any) -> Any:
    """Return what JSON knows of a value: of an object its fields, of an array its elements."""
    if isinstance(value, Mapping):
        return {str(name): _plain(field) for name, field in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    for name, options in (("model_dump", {"exclude_none": True}), ("tolist", {})):
        if callable(method := getattr(value, name, None)):
            return _plain(method(**options))
    fields = getattr(value, "__dict__", None)
    return _plain(vars(value)) if fields else value


def _unended(response: str, end: str) -> str:
    said = response.rstrip()
    return said.removesuffix(end) if end and said.endswith(end) else response
